// Guest memory: anonymous files, filled from a template and sealed.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"

namespace bulkhead::addon {
namespace {

constexpr double kMaxSize = 1LL << 46;  // 64 TiB: more than x86-64 maps
// Fits the second-level cache, so that each byte goes through memory once.
constexpr size_t kChunk = 256 << 10;

// Copies what is not a hole. 0 or an errno.
int copy_data(int source, int target) {
  std::vector<char> chunk(kChunk);
  off_t at = 0;
  for (;;) {
    const off_t start = ::lseek(source, at, SEEK_DATA);
    if (start < 0) return errno == ENXIO ? 0 : errno;  // ENXIO: no data behind `at` (lseek(2))
    const off_t end = ::lseek(source, start, SEEK_HOLE);
    if (end < 0) return errno;
    for (at = start; at < end;) {
      const size_t want = std::min(kChunk, static_cast<size_t>(end - at));
      const ssize_t got = ::pread(source, chunk.data(), want, at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno;
      if (got == 0) return 0;
      for (ssize_t done = 0; done < got;) {
        const ssize_t put =
            ::pwrite(target, chunk.data() + done, static_cast<size_t>(got - done), at + done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        done += put;
      }
      at += got;
    }
  }
}

class CopyWorker : public Napi::AsyncWorker {
 public:
  CopyWorker(Napi::Env env, UniqueFd source, UniqueFd target)
      : Napi::AsyncWorker(env, "BulkheadCopySparse"),
        done_(Napi::Promise::Deferred::New(env)),
        source_(std::move(source)),
        target_(std::move(target)) {}
  Napi::Value promise() const { return done_.Promise(); }

 protected:
  void Execute() override { error_ = copy_data(source_.get(), target_.get()); }
  void OnOK() override {
    if (error_ == 0) {
      done_.Resolve(Env().Undefined());
    } else {
      done_.Reject(make_errno(Env(), error_, "copy").Value());
    }
  }

 private:
  Napi::Promise::Deferred done_;
  UniqueFd source_;
  UniqueFd target_;
  int error_ = 0;
};

// memfd(name, size): number. Sealable; mode 0666, so that a process that runs as somebody else and
// was given the descriptor can open it by /proc/self/fd.
Napi::Value memfd_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string name;
  if (!get_string(info[0], "name", name)) return env.Undefined();
  int64_t size = 0;
  if (!get_integer(info[1], "size", 0, static_cast<int64_t>(kMaxSize), size))
    return env.Undefined();
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return throw_errno(env, errno, "memfd_create");
  if (::ftruncate(fd.get(), size) != 0) return throw_errno(env, errno, "ftruncate");
  if (::fchmod(fd.get(), 0666) != 0) return throw_errno(env, errno, "fchmod");
  return Napi::Number::New(env, fd.release());
}

// sealMemfd(fd, {writes}): its size is fixed; with writes also its content. Nobody can undo it.
Napi::Value seal_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  const int writes = info[1].ToBoolean() ? F_SEAL_WRITE : 0;
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | writes) != 0) {
    return throw_errno(env, errno, "fcntl");
  }
  return env.Undefined();
}

// copySparse(source, target): Promise<void>. On a thread of the pool, with descriptors of its own.
Napi::Value copy_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int source = -1;
  int target = -1;
  if (!get_fd(info[0], "source", source) || !get_fd(info[1], "target", target)) {
    return env.Undefined();
  }
  UniqueFd own_source(::fcntl(source, F_DUPFD_CLOEXEC, 0));
  if (!own_source) return throw_errno(env, errno, "fcntl");
  UniqueFd own_target(::fcntl(target, F_DUPFD_CLOEXEC, 0));
  if (!own_target) return throw_errno(env, errno, "fcntl");
  auto* worker = new CopyWorker(env, std::move(own_source), std::move(own_target));
  const Napi::Value promise = worker->promise();
  worker->Queue();  // deletes itself when it is done
  return promise;
}

}  // namespace

void define_memory(Napi::Env env, Napi::Object exports) {
  define<memfd_function>(env, exports, "memfd");
  define<seal_function>(env, exports, "sealMemfd");
  define<copy_function>(env, exports, "copySparse");
}

}  // namespace bulkhead::addon
