#include "agent/calls.h"

#include <algorithm>

#include "agent/devices.h"
#include "agent/files.h"
#include "agent/guest_calls.h"
#include "agent/network.h"

namespace bulkhead::agent {

namespace {

// A worker keeps its own deadline; this is what it gets on top of it before it is killed.
constexpr uint32_t kGraceMs = 2000;

CallReply configure(const NetworkSetup& call) {
  int err = 0;
  std::string object;
  const std::span<const uint8_t> encoded(reinterpret_cast<const uint8_t*>(call.encoded.data()),
                                         call.encoded.size());
  if (configure_network(encoded, err, object)) return {};
  return CallReply::failed("network", object, err);
}

// What a worker does: every call that may wait.
CallReply carry_out(const Call& call) {
  struct Visitor {
    CallReply operator()(const NetworkSetup& one) { return configure(one); }
    CallReply operator()(const ReadFiles& one) { return read_files(one); }
    CallReply operator()(const WriteFiles& one) { return write_files(one); }
    CallReply operator()(const WaitDevice& one) { return wait_device(one); }
    CallReply operator()(const Mount& one) { return mount_one(one); }
    CallReply operator()(const Unmount& one) { return unmount_one(one); }
    CallReply operator()(const AwaitFile& one) { return await_file(one); }
    CallReply operator()(const Remove& one) { return remove_all(one); }
    CallReply operator()(const OnlineCpus& one) { return online_cpus(one); }
    CallReply operator()(const OnlineMemory& one) { return online_memory(one); }
    CallReply operator()(const CleanMemory& one) { return clean_memory(one); }
    CallReply operator()(const Sync& one) { return sync_all(one); }
    CallReply operator()(const BindVfio& one) { return bind_vfio(one); }
    CallReply operator()(const std::monostate&) { return CallReply::failed("call", "", ENOSYS); }
    CallReply operator()(const Setup&) { return CallReply::failed("call", "", ENOSYS); }
    CallReply operator()(const WatchOom&) { return CallReply::failed("call", "", ENOSYS); }
    CallReply operator()(const Poweroff&) { return CallReply::failed("call", "", ENOSYS); }
  };
  return std::visit(Visitor{}, call);
}

uint32_t bounded(uint64_t ms) {
  return static_cast<uint32_t>(std::min<uint64_t>(ms, kMaxTimeoutMs)) + kGraceMs;
}

// How long a call may take.
uint32_t time_of(const Call& call) {
  return std::visit(
      [](const auto& one) {
        if constexpr (requires { one.timeout_ms; }) {
          const uint64_t own = one.timeout_ms == 0 ? kDefaultTimeoutMs : one.timeout_ms;
          // The device, then the mount.
          return bounded(requires { one.fstype; } ? 2 * own : own);
        } else if constexpr (requires { one.encoded; }) {
          return bounded(kMaxTimeoutMs);  // its deadline is in there
        } else {
          return bounded(2 * kDefaultTimeoutMs);
        }
      },
      call);
}

}  // namespace

Calls::Calls(Poller& poller, CallsOwner& owner)
    : owner_(owner), workers_(poller, *this), oom_watches_(poller, oom_killed, this) {}

void Calls::answer(uint64_t request, const CallReply& reply) {
  owner_.send(encode_answer(request, reply.err, encode_call_reply(reply)));
}

void Calls::worker_done(uint64_t request, int err, std::string_view reply) {
  owner_.send(encode_answer(request, err, reply));
}

void Calls::oom_killed(void* self, const std::string& cgroup, uint64_t oom_kill) {
  static_cast<Calls*>(self)->owner_.send(encode_oom_event(cgroup, oom_kill));
}

void Calls::session_ended() {
  workers_.forget_all();
  oom_watches_.clear();
}

void Calls::start(uint64_t request, std::span<const uint8_t> encoded) {
  Call call;
  if (!decode_call(encoded, call)) {
    answer(request, CallReply::failed("decode", "", EBADMSG));
    return;
  }
  if (std::holds_alternative<std::monostate>(call)) {
    answer(request, CallReply::failed("call", "", ENOSYS));
  } else if (const auto* setup = std::get_if<Setup>(&call)) {
    answer(request, set_up(*setup));
  } else if (const auto* oom = std::get_if<WatchOom>(&call)) {
    const int err = oom_watches_.add(oom->cgroup);
    answer(request, err == 0 ? CallReply() : CallReply::failed("watch", oom->cgroup, err));
  } else if (const auto* power = std::get_if<Poweroff>(&call)) {
    answer(request, {});
    owner_.power_off(power->reboot);
  } else if (const auto* read = std::get_if<ReadFiles>(&call);
             read != nullptr && never_waits(*read)) {
    answer(request, read_files(*read));
  } else if (const auto* write = std::get_if<WriteFiles>(&call);
             write != nullptr && never_waits(*write)) {
    answer(request, write_files(*write));
  } else if (Status started = workers_.start(request, carry_out, call, time_of(call)); !started) {
    answer(request, CallReply::failed(started.error().op, "", started.error().code));
  }
}

}  // namespace bulkhead::agent
