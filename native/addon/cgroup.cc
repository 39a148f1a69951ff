// Cgroups: what files alone cannot do.
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/poll.h"
#include "core/bpf_device.h"
#include "core/bpf_socket.h"
#include "core/fd.h"

namespace bulkhead::addon {
namespace {

// attachDeviceProgram(cgroupPath, instructions)
Napi::Value attach_device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  std::span<const uint8_t> instructions;
  if (!get_string(info[0], "cgroupPath", path) ||
      !get_bytes(info[1], "instructions", instructions)) {
    return env.Undefined();
  }
  const UniqueFd cgroup(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return throw_errno(env, errno, "open", path);
  const int error = attach_device_program(cgroup.get(), instructions);
  if (error != 0) return throw_errno(env, error, "bpf", path);
  return env.Undefined();
}

// countDevicePrograms(cgroupPath): number
Napi::Value count_device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!get_string(info[0], "cgroupPath", path)) return env.Undefined();
  const UniqueFd cgroup(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return throw_errno(env, errno, "open", path);
  const int count = count_device_programs(cgroup.get());
  if (count < 0) return throw_errno(env, -count, "bpf", path);
  return Napi::Number::New(env, count);
}

// readSocketLog(cgroupPath): Buffer
Napi::Value socket_log(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!get_string(info[0], "cgroupPath", path)) return env.Undefined();
  const UniqueFd cgroup(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return throw_errno(env, errno, "open", path);
  std::vector<uint8_t> entries;
  const int error = read_socket_log(cgroup.get(), entries);
  if (error != 0) return throw_errno(env, error, "bpf", path);
  return Napi::Buffer<uint8_t>::Copy(env, entries.data(), entries.size());
}

// Lives in the handler of its own Poll.
struct V1Watch {
  UniqueFd event;
  UniqueFd file;
  Napi::FunctionReference on_event;
  Poll poll;

  void read(Napi::Env env) {
    uint64_t count = 0;
    if (::read(event.get(), &count, sizeof(count)) != sizeof(count)) return;
    emit(env, on_event.Value(), {Napi::Number::New(env, static_cast<double>(count))});
  }
};

// Registers the eventfd: "<eventfd> <file> [arguments]" to cgroup.event_control (kernel
// cgroup-v1/memcg_test.rst). 0 or an errno; `at` names what failed.
int register_event(const std::string& cgroup, const std::string& file, const std::string& arguments,
                   V1Watch& watch, std::string& at) {
  watch.event.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!watch.event) return errno;
  at = cgroup + "/" + file;
  watch.file.reset(::open(at.c_str(), O_RDONLY | O_CLOEXEC));
  if (!watch.file) return errno;
  at = cgroup + "/cgroup.event_control";
  const UniqueFd control(::open(at.c_str(), O_WRONLY | O_CLOEXEC));
  if (!control) return errno;
  std::string line = std::to_string(watch.event.get()) + " " + std::to_string(watch.file.get());
  if (!arguments.empty()) line += " " + arguments;
  if (::write(control.get(), line.data(), line.size()) < 0) return errno;
  return 0;
}

// watchCgroupV1Event(cgroupPath, file, onEvent, arguments?): { close() }. The eventfd also fires
// when the cgroup is removed. It does not keep the event loop alive.
Napi::Value watch_v1_event(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string cgroup;
  std::string file;
  std::string arguments;
  Napi::Function on_event;
  if (!get_string(info[0], "cgroupPath", cgroup) || !get_string(info[1], "file", file) ||
      !get_function(info[2], "onEvent", on_event) ||
      !get_optional_string(info[3], "arguments", arguments)) {
    return env.Undefined();
  }
  const auto watch = std::make_shared<V1Watch>();
  std::string at;
  if (const int error = register_event(cgroup, file, arguments, *watch, at); error != 0) {
    return throw_errno(env, error, "cgroup.event_control", at);
  }
  watch->on_event = Napi::Persistent(on_event);
  const int error = watch->poll.start(env, watch->event.get(), "BulkheadCgroupEvent",
                                      [watch](Napi::Env e) { watch->read(e); });
  if (error != 0) return throw_errno(env, error, "uv_poll");
  watch->poll.unref();
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("close", Napi::Function::New(env, [watch](const Napi::CallbackInfo&) {
               watch->poll.stop();
               // The kernel drops the registration with the last reference to the eventfd.
               watch->event.reset();
               watch->file.reset();
               watch->on_event.Reset();
             }));
  return handle;
}

}  // namespace

void define_cgroup(Napi::Env env, Napi::Object exports) {
  define<attach_device>(env, exports, "attachDeviceProgram");
  define<socket_log>(env, exports, "readSocketLog");
  define<count_device>(env, exports, "countDevicePrograms");
  define<watch_v1_event>(env, exports, "watchCgroupV1Event");
}

}  // namespace bulkhead::addon
