#include "core/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include <cstdio>

#include "core/pidfd.h"
#include "core/slow_close.h"

namespace bulkhead {

namespace {

uint64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

bool has_ended(int pidfd) {
  pollfd state{pidfd, POLLIN, 0};
  return ::poll(&state, 1, 0) == 1;
}

bool is_child(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0;
}

}  // namespace

Process::Process(ProcessTable& table, const LaunchRequest& request,
                 std::unique_ptr<ProcessStreams> streams)
    : table_(table),
      key_(request.key),
      dies_with_(request.dies_with),
      holds_mounts_(request.hold_mounts),
      request_(request.request),
      streams_(std::move(streams)) {}

void Process::begin(LaunchedOuter outer) {
  outer_pid_ = outer.pid;
  pid_ = outer.pid;
  sync_.start(table_.poller_, std::move(outer.sync), EPOLLIN,
              on_ready<Process, &Process::sync_ready>, this);
  outer_.start(table_.poller_, std::move(outer.pidfd), EPOLLIN,
               on_ready<Process, &Process::outer_ready>, this);
}

void Process::sync_ready(uint32_t) {
  look();
}
void Process::outer_ready(uint32_t) {
  look();
}
void Process::main_ready(uint32_t) {
  look();
}

// The order matters: a report that a process made comes before its end.
void Process::look() {
  read_reports();
  reap_main();
  reap_outer();
  // What was written between the first look and the end; only after that it is certain that nothing
  // was cloned.
  read_reports();
  if (!outer_alive_ && !cloned_ && main_alive_) {
    main_alive_ = false;
    record_exit(outer_status_);
    // Exit statuses are those of whatever was executed; a signal before the first gate is taken for
    // an early death.
    never_executed_ = WIFSIGNALED(wait_status_);
  }
  if (!settle()) table_.remove(this);
}

void Process::read_reports() {
  while (sync_.active()) {
    auto event = read_init_event(sync_.fd(), true);
    if (!event) {
      if (event.error().code == EAGAIN) return;
      if (event.error().code == EINTR) continue;
      table_.events_.process_warning("launch " + key_ + ": report", event.error().code);
      fail();
      sync_.stop();
      return;
    }
    if (event->kind == InitEvent::Kind::kEnd) {
      sync_.stop();
      return;
    }
    take_report(*event);
  }
}

void Process::take_report(InitEvent& event) {
  switch (event.kind) {
    case InitEvent::Kind::kCloned:
      cloned(event.pid);
      break;
    case InitEvent::Kind::kPaused:
      if (phase_ == Phase::kFailing) break;
      phase_ = Phase::kPaused;
      paused_at_ = event.point;
      table_.events_.launched(request_, state());
      hold_mounts();
      break;
    case InitEvent::Kind::kConsole:
      streams_->set_console(std::move(event.console));
      break;
    case InitEvent::Kind::kWarning:
      table_.events_.launch_warning(key_, event.failure);
      break;
    case InitEvent::Kind::kFailed:
      failure_ = event.failure;
      step_failed_ = true;
      fail();
      break;
    case InitEvent::Kind::kEnd:
      break;
  }
}

// The outer stage made the container's process, which is our child by CLONE_PARENT.
void Process::cloned(pid_t pid) {
  auto pidfd = pidfd_open(pid);
  if (cloned_ || !pidfd) {
    error_ = pidfd ? Error{EEXIST, "clone"} : pidfd.error();
    table_.events_.process_warning("launch " + key_ + ": " + error_.op, error_.code);
    // It would run on unseen. A child that is not reaped keeps its number; it ends as an orphan.
    if (!cloned_ && is_child(pid)) ::kill(pid, SIGKILL);
    fail();
    return;
  }
  cloned_ = true;
  pid_ = pid;
  main_.start(table_.poller_, pidfd.take(), EPOLLIN, on_ready<Process, &Process::main_ready>, this);
  if (phase_ == Phase::kFailing) kill_all();
}

void Process::reap_outer() {
  if (!outer_.active() || !has_ended(outer_.fd())) return;
  auto status = wait_pidfd(outer_.fd(), false);
  if (status && !status->exited) return outer_.mute();
  outer_.stop();
  outer_alive_ = false;
  outer_status_ = status ? status->wait_status : 0;
}

void Process::reap_main() {
  if (!main_.active() || !has_ended(main_.fd())) return;
  if (launching()) never_executed_ = (task_flags(pid_) & kTaskForkNoExec) != 0;
  auto status = wait_pidfd(main_.fd(), false);
  // Another traces it and has not taken notice of the end: SIGCHLD comes when it does, or ends.
  if (status && !status->exited) return main_.mute();
  main_.stop();
  main_alive_ = false;
  record_exit(status ? status->wait_status : 0);
}

void Process::record_exit(int wait_status) {
  wait_status_ = wait_status;
  ended_at_ns_ = wall_clock_ns();
}

// Says what can be said now. False: the launch failed and the process is to be forgotten.
bool Process::settle() {
  if (phase_ == Phase::kFailing) {
    if (!all_reaped()) return true;
    sync_.stop();
    LaunchFailure failure;
    failure.request = request_;
    failure.key = key_;
    if (step_failed_) {
      failure.step = &failure_;
    } else if (error_.code != 0) {
      failure.err = error_.code;
      failure.op = error_.op;
    } else {
      failure.op = "init died";
      failure.wait_status = static_cast<uint32_t>(wait_status_);
    }
    table_.events_.launch_failed(failure);
    return false;
  }
  // The sync socket ends with execve, or with the last process that holds it: until then it is not
  // known which.
  if (sync_.active()) return true;
  if (launching()) {
    // A process that is killed closes its end too, a moment before its exit can be seen.
    if (main_alive_ && (task_flags(pid_) & (cloned_ ? kTaskForkNoExec : kTaskExiting)) != 0)
      return true;
    settle_launch();
    if (phase_ == Phase::kFailing) return settle();
  }
  if (!main_alive_ && phase_ != Phase::kExited) {
    phase_ = Phase::kExited;
    if (!table_.keep_streams(*this)) streams_->process_ended();
    table_.end_dependents(key_);
    if (streams_->undelivered()) {
      table_.tell_late(*this);
    } else {
      tell_exit();
    }
    release_mounts();
  }
  return true;
}

void Process::tell_exit() {
  untold_until_ms_ = 0;
  table_.events_.exited(state());
}

// The sync socket has ended: executed, or dead.
void Process::settle_launch() {
  if (!main_alive_ && never_executed_) {
    phase_ = Phase::kFailing;
    return;
  }
  const bool first = phase_ == Phase::kStarting;
  phase_ = Phase::kRunning;
  executed_ = true;
  abandoned_ = false;
  paused_at_.clear();
  if (first) {
    table_.events_.launched(request_, state());
  } else {
    table_.events_.started(request_, state());
  }
}

// The end of a mount namespace's last process waits for its file systems to be unmounted, an
// overlay for its upper file system to be written back: with a reference of ours the end comes at
// once, and that work falls into the time that the end's news needs to travel.
void Process::hold_mounts() {
  if (!holds_mounts_ || mounts_) return;
  char path[40];
  std::snprintf(path, sizeof path, "/proc/%d/ns/mnt", static_cast<int>(pid_));
  mounts_.reset(::open(path, O_RDONLY | O_CLOEXEC));  // without it: as the kernel does it
}

void Process::release_mounts() {
  if (!mounts_) return;
  auto released = close_elsewhere(std::move(mounts_));
  if (!released) return;
  releasing_.start(table_.poller_, released.take(), EPOLLIN,
                   on_ready<Process, &Process::mounts_released>, this);
}

void Process::mounts_released(uint32_t) {
  releasing_.stop();
  if (forget_request_ != 0 && can_be_forgotten()) table_.finish_forget(this);
}

void Process::fail() {
  phase_ = Phase::kFailing;
  kill_all();
}

void Process::kill_all() {
  for (const Watch* process : {&main_, &outer_}) {
    if (process->active()) (void)pidfd_signal(process->fd(), SIGKILL).ok();  // ESRCH: gone already
  }
}

void Process::proceed(uint64_t request) {
  request_ = request;
  abandoned_ = false;
  if (executed_) {
    // Asked again by a new engine.
    table_.events_.started(request_, state());
    return;
  }
  // Under way already: the answer goes to the new request.
  if (phase_ != Phase::kPaused) return;
  phase_ = Phase::kContinuing;
  UniqueFd late_stdin;
  if (paused_at_ == "start") late_stdin = streams_->open_late_stdin();
  // A process that died at its gate is seen by its pidfd.
  (void)send_to_init(sync_.fd(), true, late_stdin.get()).ok();
}

int Process::signal(int signum) {
  // The outer stage may have cloned and gone: a signal to its zombie would be lost without an
  // error.
  if (!cloned_) read_reports();
  const Watch& target = cloned_ ? main_ : outer_;
  if (!target.active()) return ESRCH;
  auto status = pidfd_signal(target.fd(), signum);
  return status ? 0 : status.error().code;
}

ProcessState Process::state() const {
  ProcessState state;
  state.key = key_;
  state.pid = static_cast<uint32_t>(pid_);
  if (phase_ == Phase::kPaused) state.paused_at = paused_at_;
  state.exited = phase_ == Phase::kExited;
  if (state.exited) {
    state.wait_status = static_cast<uint32_t>(wait_status_);
    state.exited_at_ns = ended_at_ns_;
    state.output_waits = streams_->awaits_reader();
  }
  state.running = executed_;
  return state;
}

}  // namespace bulkhead
