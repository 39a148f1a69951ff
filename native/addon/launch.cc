#include "addon/launch.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <map>
#include <mutex>
#include <vector>

#include "addon/arguments.h"
#include "addon/plan_codec.h"

namespace bulkhead::addon {
namespace {

// bulkhead-init opened once per path and version of the file, shared by all environments of the
// process.
class InitFiles {
 public:
  // A descriptor that stays open for good, or an error.
  Result<int> get(const std::string& path) {
    struct stat now;
    if (::stat(path.c_str(), &now) != 0) return last_error("open bulkhead-init");
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[path];
    const bool same = entry.fd.valid() && entry.dev == now.st_dev && entry.ino == now.st_ino &&
                      entry.mtime.tv_sec == now.st_mtim.tv_sec &&
                      entry.mtime.tv_nsec == now.st_mtim.tv_nsec;
    if (same) return entry.fd.get();
    Result<UniqueFd> opened = open_init(path.c_str());
    if (!opened) return opened.error();
    entry = Entry{opened.take(), now.st_dev, now.st_ino, now.st_mtim};
    return entry.fd.get();
  }

 private:
  struct Entry {
    UniqueFd fd;
    dev_t dev = 0;
    ino_t ino = 0;
    timespec mtime{};
  };
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;
};

InitFiles& init_files() {
  static InitFiles* files =
      new InitFiles();  // never destroyed: other threads may still launch at exit
  return *files;
}

struct Options {
  std::string init_path;
  std::span<const uint8_t> plan;
  int stdio[3] = {-1, -1, -1};
  std::vector<int> extra_fds;
};

bool get_fd_list(Napi::Value value, const char* name, int low, std::vector<int>& out) {
  if (!value.IsArray()) {
    throw_type_error(value.Env(), std::string(name) + ": expected an array of descriptors");
    return false;
  }
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) {
    int fd = -1;
    if (!get_int(array.Get(i), name, low, INT32_MAX, fd)) return false;
    out.push_back(fd);
  }
  return true;
}

bool get_options(Napi::Value value, Options& out) {
  if (!value.IsObject()) {
    throw_type_error(value.Env(), "options: expected an object");
    return false;
  }
  const auto object = value.As<Napi::Object>();
  std::vector<int> stdio;
  if (!get_string(object.Get("initPath"), "initPath", out.init_path) ||
      !get_bytes(object.Get("plan"), "plan", out.plan) ||
      !get_fd_list(object.Get("stdio"), "stdio", -1, stdio)) {
    return false;
  }
  if (stdio.size() != 3) {
    throw_type_error(value.Env(), "stdio: expected three descriptors");
    return false;
  }
  for (size_t i = 0; i < 3; ++i) out.stdio[i] = stdio[i];
  const Napi::Value extra = object.Get("extraFds");
  return extra.IsUndefined() || get_fd_list(extra, "extraFds", 0, out.extra_fds);
}

// A failure that no step reported.
StepFailure local_failure(int error, const char* detail, int status = 0) {
  StepFailure failure;
  failure.err = error;
  failure.detail = detail;
  failure.status = status;
  return failure;
}

}  // namespace

void Launch::define(Napi::Env env, EnvState& state) {
  const Napi::Function constructor = DefineClass(env, "LaunchHandle",
                                                 {
                                                     InstanceMethod("proceed", &Launch::proceed),
                                                     InstanceMethod("abandon", &Launch::abandon),
                                                     InstanceMethod("signal", &Launch::signal),
                                                     InstanceMethod("release", &Launch::release),
                                                     InstanceAccessor("pid", &Launch::pid, nullptr),
                                                 });
  state.launch_class = Napi::Persistent(constructor);
}

Launch::Launch(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Launch>(info) {
  if (begin(info)) Ref();  // kept until let_go, whether or not JavaScript holds it
}

bool Launch::begin(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Options options;
  Napi::Function on_event;
  if (!get_options(info[0], options) || !get_function(info[1], "onEvent", on_event)) return false;
  const Result<int> init = init_files().get(options.init_path);
  if (!init) {
    throw_error(env, init.error(), options.init_path);
    return false;
  }
  LaunchArgs args;
  args.init_fd = init.value();
  args.plan = options.plan;
  for (size_t i = 0; i < 3; ++i) args.stdio[i] = options.stdio[i];
  args.extra_fds = options.extra_fds;
  // No SIGCHLD: Node's own child_process must not see this child (libuv would not reap it, but
  // would be woken).
  args.exit_signal = 0;
  Result<LaunchedOuter> launched = launch(args);
  if (!launched) {
    throw_error(env, launched.error(), options.init_path);
    return false;
  }
  sync_ = std::move(launched->sync);
  outer_ = std::move(launched->pidfd);
  pid_ = launched->pid;
  has_clone_ = plan_has_clone(options.plan);
  on_event_ = Napi::Persistent(on_event);
  if (const int error = watch_all(env); error != 0) {
    (void)pidfd_signal(outer_.get(), SIGKILL);
    (void)wait_pidfd(outer_.get(), true);
    throw_errno(env, error, "uv_poll");
    return false;
  }
  return true;
}

// The handle in `self` keeps the object over the call: a callback may release it and collect
// garbage.
std::function<void(Napi::Env)> Launch::guarded(void (Launch::*handler)(Napi::Env)) {
  return [this, handler](Napi::Env env) {
    [[maybe_unused]] const Napi::Object self = Value();
    (this->*handler)(env);
  };
}

int Launch::watch_all(Napi::Env env) {
  const int error = sync_poll_.start(env, sync_.get(), "BulkheadLaunch", guarded(&Launch::on_sync));
  if (error != 0) return error;
  return outer_poll_.start(env, outer_.get(), "BulkheadLaunch", guarded(&Launch::on_outer_exit));
}

void Launch::on_sync(Napi::Env env) {
  while (sync_) {
    Result<InitEvent> event = read_init_event(sync_.get(), true);
    if (event) {
      handle(env, *event);
      continue;
    }
    const int error = event.error().code;
    if (error == EAGAIN || error == EINTR) return;
    // Nothing that bulkhead-init sends: it is not ours any more.
    const int victim = process_ ? process_.get() : outer_.get();
    if (victim >= 0) (void)pidfd_signal(victim, SIGKILL);
    failed_ = true;
    send_failure(env, "failed", local_failure(error, "protocol"));
    on_sync_end(env);
  }
}

void Launch::handle(Napi::Env env, InitEvent& event) {
  switch (event.kind) {
    case InitEvent::Kind::kEnd:
      on_sync_end(env);
      return;
    case InitEvent::Kind::kCloned: {
      const int error = adopt(env, event.pid);
      if (error != 0) {
        failed_ = true;
        send_failure(env, "failed", local_failure(error, "pidfd_open"));
        on_sync_end(env);
        return;
      }
      Napi::Object message = Napi::Object::New(env);
      message.Set("type", "cloned");
      message.Set("pid", event.pid);
      send(env, message);
      return;
    }
    case InitEvent::Kind::kPaused: {
      paused_ = true;
      if (abandoned_) {
        dismiss();
        return;
      }
      Napi::Object message = Napi::Object::New(env);
      message.Set("type", "paused");
      message.Set("pid", pid_);
      message.Set("point", event.point);
      send(env, message);
      return;
    }
    case InitEvent::Kind::kFailed:
      failed_ = true;
      send_failure(env, "failed", event.failure);
      return;
    case InitEvent::Kind::kConsole: {
      Napi::Object message = Napi::Object::New(env);
      message.Set("type", "console");
      message.Set("fd", event.console.release());
      send(env, message);
      return;
    }
    case InitEvent::Kind::kWarning:
      send_failure(env, "warning", event.failure);
      return;
  }
}

// The second process is our child (CLONE_PARENT): its pid cannot be reused before we have reaped
// it.
int Launch::adopt(Napi::Env env, pid_t pid) {
  if (cloned_) return EPROTO;
  Result<UniqueFd> opened = pidfd_open(pid);
  if (!opened) return opened.error().code;
  process_ = opened.take();
  const int error =
      process_poll_.start(env, process_.get(), "BulkheadLaunch", guarded(&Launch::on_process_exit));
  if (error != 0) return error;
  pid_ = pid;
  cloned_ = true;
  return 0;
}

void Launch::on_outer_exit(Napi::Env env) {
  const Result<ExitStatus> status = wait_pidfd(outer_.get(), false);
  if (status && !status.value().exited) return;
  outer_poll_.stop();
  outer_.reset();
  // Reports that it sent before it went, above all Cloned.
  on_sync(env);
  if (!cloned_) wait_status_ = status ? status.value().wait_status : -1;
  finish_if_over(env);
}

void Launch::on_process_exit(Napi::Env env) {
  // Only before it is reaped.
  never_executed_ = (task_flags(pid_) & kTaskForkNoExec) != 0;
  const Result<ExitStatus> status = wait_pidfd(process_.get(), false);
  if (status && !status.value().exited) return;
  process_poll_.stop();
  process_.reset();
  wait_status_ = status ? status.value().wait_status : -1;
  on_sync(env);
  finish_if_over(env);
}

// End of file: every copy of the socket in bulkhead-init is closed, by execve (O_CLOEXEC) or by its
// end.
void Launch::on_sync_end(Napi::Env env) {
  sync_poll_.stop();
  sync_.reset();
  const bool may_run = !failed_ && !dismissed_ && !paused_ && (cloned_ || !has_clone_);
  if (may_run && !died_before_exec()) send_started(env);
  finish_if_over(env);
}

// The socket also ends when the kernel kills the last process that holds it, a moment before the
// exit can be seen.
bool Launch::died_before_exec() const {
  if (cloned_) return process_ ? (task_flags(pid_) & kTaskForkNoExec) != 0 : never_executed_;
  // bulkhead-init was itself executed, so without a clone there is no such flag. While it is on its
  // way out nothing is known; its exit status will tell.
  return outer_ && (task_flags(pid_) & kTaskExiting) != 0;
}

void Launch::finish_if_over(Napi::Env env) {
  if (over_ || outer_ || process_) return;
  if (sync_) {
    // All processes are reaped, so nobody can be left to report.
    sync_poll_.stop();
    sync_.reset();
  }
  over_ = true;
  // Without a clone: a program that ended at once, or a signal that is taken for an early death.
  if (!started_ && !failed_ && !dismissed_ && !paused_ && !has_clone_ && !WIFSIGNALED(wait_status_))
    send_started(env);
  if (!started_ && !failed_ && !dismissed_) {
    failed_ = true;
    send_failure(env, "failed", local_failure(0, "died", wait_status_));
  }
  Napi::Object message = Napi::Object::New(env);
  message.Set("type", "exited");
  message.Set("pid", pid_);
  message.Set("waitStatus", wait_status_);
  send(env, message);
  let_go();
}

void Launch::let_go() {
  over_ = true;
  sync_poll_.stop();
  outer_poll_.stop();
  process_poll_.stop();
  sync_.reset();
  outer_.reset();
  process_.reset();
  if (on_event_.IsEmpty()) return;
  on_event_.Reset();
  Unref();
}

void Launch::send(Napi::Env env, const Napi::Object& event) {
  if (on_event_.IsEmpty()) return;  // released by an earlier event's callback
  emit(env, on_event_.Value(), {event});
}

void Launch::send_started(Napi::Env env) {
  started_ = true;
  Napi::Object message = Napi::Object::New(env);
  message.Set("type", "started");
  message.Set("pid", pid_);
  send(env, message);
}

void Launch::send_failure(Napi::Env env, const char* type, const StepFailure& failure) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("index", failure.index);
  object.Set("action", failure.action);
  object.Set("path", failure.path);
  object.Set("errno", failure.err);
  object.Set("detail", failure.detail);
  object.Set("status", failure.status);
  object.Set("output", failure.output);
  Napi::Object message = Napi::Object::New(env);
  message.Set("type", type);
  message.Set("failure", object);
  send(env, message);
}

Napi::Value Launch::pid(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), pid_);
}

Napi::Value Launch::proceed(const Napi::CallbackInfo& info) {
  if (!paused_ || !sync_) {
    // A program that runs waits at no gate; its socket has ended, and it is not gone.
    const bool gone = over_ || (!sync_ && !started_);
    return throw_errno(info.Env(), gone ? ESRCH : EINVAL, "proceed");
  }
  const Status sent = send_to_init(sync_.get(), true);
  if (!sent) return throw_errno(info.Env(), ESRCH, "proceed");
  paused_ = false;
  return info.Env().Undefined();
}

Napi::Value Launch::abandon(const Napi::CallbackInfo& info) {
  if (over_ || started_ || abandoned_) return info.Env().Undefined();
  abandoned_ = true;
  // When it does not wait yet, it is dismissed at its next gate.
  if (paused_ && sync_) dismiss();
  return info.Env().Undefined();
}

void Launch::dismiss() {
  dismissed_ = true;
  // An error says that it is gone already; `exited` is on its way then.
  (void)send_to_init(sync_.get(), false);
}

Napi::Value Launch::signal(const Napi::CallbackInfo& info) {
  int signum = 0;
  if (!get_int(info[0], "signum", 0, 64, signum)) return info.Env().Undefined();
  // The outer stage may have cloned and gone: a signal to its zombie would be lost without an
  // error.
  if (!cloned_ && sync_) on_sync(info.Env());
  const int target = process_ ? process_.get() : outer_.get();
  if (target < 0) return throw_errno(info.Env(), ESRCH, "pidfd_send_signal");
  const Status sent = pidfd_signal(target, signum);
  if (!sent) return throw_error(info.Env(), sent.error());
  return info.Env().Undefined();
}

Napi::Value Launch::release(const Napi::CallbackInfo& info) {
  let_go();
  return info.Env().Undefined();
}

}  // namespace bulkhead::addon
