#include "shim/guest_process.h"

#include <signal.h>
#include <time.h>

#include <algorithm>

namespace bulkhead::shim {

namespace {

// An exit is told after the output that came before it. A reader that takes nothing for the first
// time holds it up for no longer, one that is merely slow for the second.
constexpr uint32_t kStalledMs = 1000;
constexpr uint32_t kSlowMs = 10000;
// What is in the fifos has a second to be read, as with a process of the host
// (ProcessTable::tell_late).
constexpr uint32_t kUnreadMs = 1000;
constexpr uint32_t kFirstLookMs = 1;
constexpr uint32_t kLastLookMs = 32;
// Output of a process that the engine has forgotten, or wants to forget.
constexpr uint32_t kLeaveMs = 10000;

uint64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

GuestProcess::GuestProcess(Poller& poller, MuxLink& link, ProcessEvents& events,
                           std::string_view key, uint64_t request)
    : events_(events),
      key_(key),
      request_(request),
      exit_timer_(poller, on_timer<GuestProcess, &GuestProcess::check_exit>, this),
      stdio_(poller, link, {stdio_changed, this}) {}

ProcessState GuestProcess::state() const {
  ProcessState state;
  state.key = key_;
  state.pid = pid_;
  if (phase_ == Phase::kPaused) state.paused_at = paused_at_;
  state.exited = exited();
  if (state.exited) {
    state.wait_status = wait_status_;
    state.exited_at_ns = ended_at_ns_;
    state.output_waits = awaits_reader();
  }
  state.running = executed_;
  return state;
}

bool GuestProcess::proceed(uint64_t request) {
  request_ = request;
  if (executed_) {
    // Asked again by a new engine.
    events_.started(request_, state());
    return false;
  }
  if (phase_ != Phase::kPaused) return false;  // under way: the answer goes to the new request
  phase_ = Phase::kContinuing;
  if (paused_at_ == "start") stdio_.begin_stdin(true);
  return true;
}

void GuestProcess::launched(uint32_t pid, std::string_view paused_at) {
  if (!launching()) return;
  bool first = phase_ == Phase::kStarting;
  pid_ = pid;
  if (first) stdio_.begin_stdin(false);
  if (paused_at.empty()) {
    runs();
  } else {
    phase_ = Phase::kPaused;
    paused_at_ = paused_at;
  }
  events_.launched(request_, state());
}

void GuestProcess::started(uint32_t pid) {
  if (phase_ != Phase::kContinuing) return;
  pid_ = pid;
  runs();
  events_.started(request_, state());
}

void GuestProcess::runs() {
  phase_ = Phase::kRunning;
  executed_ = true;
  paused_at_.clear();
  stdio_.begin_stdin(true);
}

bool GuestProcess::launch_failed(const FromAgent& message) {
  if (!launching()) return false;
  LaunchFailure failure;
  failure.request = request_;
  failure.key = key_;
  if (message.has_step) failure.step = &message.step;
  failure.err = message.err;
  failure.op = message.op;
  failure.path = message.path;
  failure.wait_status = message.wait_status;
  events_.launch_failed(failure);
  return true;
}

void GuestProcess::ended(uint32_t wait_status) {
  if (launching() || !alive()) return;
  phase_ = Phase::kExiting;
  wait_status_ = wait_status;
  // Its own clock is the guest's to set.
  ended_at_ns_ = wall_clock_ns();
  ended_ms_ = Poller::now_ms();
  written_ = stdio_.written();
  stdio_.process_ended();
  if (phase_ != Phase::kExiting || settled_ms_ != 0) return;
  if (stdio_.settled()) {
    await_reader();
  } else {
    exit_timer_.arm(kStalledMs);
  }
}

bool GuestProcess::lost() {
  if (launching()) {
    FromAgent message;
    message.err = ECONNRESET;
    message.op = "guest";
    return launch_failed(message);
  }
  if (alive()) ended(SIGKILL);
  if (!exited()) tell_exit();
  return false;
}

void GuestProcess::stdio_changed(void* self) {
  auto* process = static_cast<GuestProcess*>(self);
  if (process->phase_ == Phase::kExiting && process->stdio_.settled()) process->await_reader();
}

// Descendants may go on writing; what came before is in the fifos.
void GuestProcess::await_reader() {
  const uint64_t now = Poller::now_ms();
  if (settled_ms_ == 0) settled_ms_ = now;
  if (!stdio_.undelivered() || now - settled_ms_ >= kUnreadMs) {
    tell_exit();
    return;
  }
  look_delay_ms_ = std::clamp(look_delay_ms_ * 2, kFirstLookMs, kLastLookMs);
  exit_timer_.arm(look_delay_ms_);
}

void GuestProcess::check_exit() {
  if (settled_ms_ != 0) {
    await_reader();
    return;
  }
  uint64_t now = stdio_.written();
  bool moves = now != written_ && Poller::now_ms() - ended_ms_ < kSlowMs;
  written_ = now;
  if (moves && !stdio_.settled()) {
    exit_timer_.arm(kStalledMs);
  } else {
    tell_exit();
  }
}

void GuestProcess::tell_exit() {
  exit_timer_.cancel();
  phase_ = Phase::kExited;
  events_.exited(state());
}

bool GuestProcess::awaits_reader() const {
  return stdio_.awaits_reader() && Poller::now_ms() - ended_ms_ < kLeaveMs;
}

bool GuestProcess::may_go() const {
  return !stdio_.draining() || Poller::now_ms() - left_at_ms_ >= kLeaveMs;
}

}  // namespace bulkhead::shim
