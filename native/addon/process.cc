// Processes by pidfd: waiting without being the parent, signals that cannot hit a recycled pid.
#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/poll.h"
#include "core/pidfd.h"

namespace bulkhead::addon {
namespace {

constexpr int kMaxPid = 1 << 22;  // PID_MAX_LIMIT

// Lives in the handler of its own Poll, so until the loop has closed that.
struct Gone {
  Gone(Napi::Env env, UniqueFd fd)
      : pidfd(std::move(fd)), done(Napi::Promise::Deferred::New(env)) {}
  UniqueFd pidfd;
  Napi::Promise::Deferred done;
  Poll poll;
};

// waitPidGone(pid): Promise<void>. A pidfd is readable when the process has ended (a zombie counts
// as ended).
Napi::Value wait_pid_gone(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int pid = 0;
  if (!get_int(info[0], "pid", 1, kMaxPid, pid)) return env.Undefined();
  Result<UniqueFd> opened = pidfd_open(pid);
  const auto gone = std::make_shared<Gone>(env, opened ? opened.take() : UniqueFd());
  const Napi::Value promise = gone->done.Promise();
  if (!opened) {
    const Error& error = opened.error();
    if (error.code == ESRCH) {
      gone->done.Resolve(env.Undefined());
    } else {
      gone->done.Reject(make_errno(env, error.code, error.op).Value());
    }
    return promise;
  }
  const int error =
      gone->poll.start(env, gone->pidfd.get(), "BulkheadWaitPidGone", [gone](Napi::Env e) {
        gone->poll.stop();
        gone->pidfd.reset();
        gone->done.Resolve(e.Undefined());
      });
  if (error != 0) gone->done.Reject(make_errno(env, error, "uv_poll").Value());
  return promise;
}

// pidfdSendSignal(pid, startTime | undefined, signum). The pidfd is opened first, then the start
// time compared: from then on the descriptor names that process and no other.
Napi::Value pidfd_send_signal(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int pid = 0;
  int signum = 0;
  if (!get_int(info[0], "pid", 1, kMaxPid, pid) || !get_int(info[2], "signum", 0, 64, signum)) {
    return env.Undefined();
  }
  const Result<UniqueFd> opened = pidfd_open(pid);
  if (!opened) return throw_error(env, opened.error());
  if (!info[1].IsUndefined()) {
    if (!info[1].IsBigInt()) return throw_type_error(env, "startTime: expected a bigint");
    bool lossless = false;
    const uint64_t expected = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
    const Result<uint64_t> actual = process_start_time(pid);
    if (!actual) return throw_error(env, actual.error());
    if (!lossless || actual.value() != expected)
      return throw_errno(env, ESRCH, "pidfd_send_signal");
  }
  const Status sent = pidfd_signal(opened.value().get(), signum);
  if (!sent) return throw_error(env, sent.error());
  return env.Undefined();
}

// processStartTime(pid): bigint.
Napi::Value start_time(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int pid = 0;
  if (!get_int(info[0], "pid", 1, kMaxPid, pid)) return env.Undefined();
  const Result<uint64_t> ticks = process_start_time(pid);
  if (!ticks) return throw_error(env, ticks.error());
  return Napi::BigInt::New(env, ticks.value());
}

// setSubreaper(): orphans of our children become ours (prctl(2)). libuv never reaps them: whoever
// asks for this must.
Napi::Value set_subreaper(const Napi::CallbackInfo& info) {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) {
    return throw_errno(info.Env(), errno, "prctl");
  }
  return info.Env().Undefined();
}

// setAffinity(tid, mask): sched_setaffinity(2); the mask is a cpu_set_t of any length.
Napi::Value set_affinity(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int tid = 0;
  std::span<const uint8_t> mask;
  if (!get_int(info[0], "tid", 1, kMaxPid, tid) || !get_bytes(info[1], "mask", mask)) {
    return env.Undefined();
  }
  // The kernel reads whole words.
  std::vector<uint64_t> words((mask.size() + sizeof(uint64_t) - 1) / sizeof(uint64_t));
  ::memcpy(words.data(), mask.data(), mask.size());
  const auto* set = reinterpret_cast<const cpu_set_t*>(words.data());
  if (::sched_setaffinity(tid, words.size() * sizeof(uint64_t), set) != 0) {
    return throw_errno(env, errno, "sched_setaffinity");
  }
  return env.Undefined();
}

}  // namespace

void define_process(Napi::Env env, Napi::Object exports) {
  define<wait_pid_gone>(env, exports, "waitPidGone");
  define<pidfd_send_signal>(env, exports, "pidfdSendSignal");
  define<start_time>(env, exports, "processStartTime");
  define<set_subreaper>(env, exports, "setSubreaper");
  define<set_affinity>(env, exports, "setAffinity");
}

}  // namespace bulkhead::addon
