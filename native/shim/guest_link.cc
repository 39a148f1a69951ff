#include "shim/guest_link.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "shim/guest_messages.h"
#include "shim/log.h"

namespace bulkhead::shim {

namespace {

constexpr uint32_t kCallMs = 30000;
// Signal and Resize: an agent that takes longer is not one that anybody should wait for.
constexpr uint32_t kCommandMs = 5000;
constexpr size_t kMostPending = 1024;
constexpr uint32_t kForgetCheckMs = 5;
// A guest may tell of so much at once, and so much a second; then it waits.
constexpr uint32_t kMostUnasked = 512;
constexpr uint32_t kUnaskedPerSecond = 256;
constexpr uint32_t kRefillMs = 250;
// What else a GuestReply holds, which is a frame of the engine's protocol.
constexpr size_t kReplyOverhead = 256;

void unlink_from(GuestProcess** list, GuestProcess* process) {
  while (*list != process) list = &(*list)->next;
  *list = process->next;
}

}  // namespace

GuestLink::GuestLink(Poller& poller, ProcessEvents& processes, GuestEvents& guests,
                     std::string_view name)
    : poller_(poller),
      process_events_(processes),
      events_(guests),
      name_(name),
      link_(poller, *this),
      retry_(poller, on_timer<GuestLink, &GuestLink::attempt>, this),
      tokens_(kMostUnasked),
      refill_(poller, on_timer<GuestLink, &GuestLink::refill>, this),
      expiry_(poller, on_timer<GuestLink, &GuestLink::expire>, this),
      forgets_(poller, on_timer<GuestLink, &GuestLink::finish_forgets>, this) {}

GuestLink::~GuestLink() {
  for (GuestProcess** list : {&processes_, &leaving_}) {
    while (*list != nullptr) {
      GuestProcess* process = *list;
      *list = process->next;
      delete process;
    }
  }
}

// The next engine numbers its requests anew, and undoes what this one has begun.
void GuestLink::engine_down() {
  if (phase_ == Phase::kConnecting || phase_ == Phase::kGreeting) refuse_connection(ECANCELED, "");
  for (Pending& pending : pending_) pending.request = 0;
  for (GuestProcess* process = processes_; process != nullptr; process = process->next) {
    process->forget_request();
  }
  resume();
}

void GuestLink::resume() {
  engine_slow_ = false;
  pause_or_go_on();
}

void GuestLink::refill() {
  const uint64_t now = Poller::now_ms();
  const uint64_t more = (now - refilled_ms_) * kUnaskedPerSecond / 1000;
  tokens_ = static_cast<uint32_t>(std::min<uint64_t>(tokens_ + more, kMostUnasked));
  refilled_ms_ = now;
  flooding_ = false;
  pause_or_go_on();
}

void GuestLink::count_unasked() {
  if (tokens_ == kMostUnasked) refilled_ms_ = Poller::now_ms();
  if (!refill_.armed()) refill_.arm(kRefillMs);
  if (--tokens_ > 0) return;
  if (!flooded_) log_warning("guest " + name_ + ": tells more than anybody can hear: it waits");
  flooding_ = flooded_ = true;
  pause_or_go_on();
}

const char* GuestLink::mux_control(std::span<const uint8_t> bytes) {
  FromAgent message;
  if (!decode_from_agent(bytes, message)) return "a message that is none";
  const char* problem = phase_ == Phase::kGreeting ? greet(message) : dispatch(message);
  if (events_.engine_is_slow()) {
    engine_slow_ = true;
    pause_or_go_on();
  }
  return problem;
}

const char* GuestLink::greet(const FromAgent& hello) {
  if (hello.kind != FromAgent::Kind::kHello) return "no hello at first";
  if (hello.protocol != kAgentProtocol) return "another version of the agent's protocol";
  if (hello.bytes.size() + kReplyOverhead > kMuxMaxControl) return "an endless hello";
  retry_.cancel();
  phase_ = Phase::kOpen;
  events_.guest_reply(connect_request_, 0, hello.bytes, "");
  return nullptr;
}

const char* GuestLink::dispatch(const FromAgent& message) {
  using Kind = FromAgent::Kind;
  switch (message.kind) {
    case Kind::kHello:
      return "a second hello";
    case Kind::kReply:
    case Kind::kCall:
      answer(message);
      break;
    case Kind::kEvent:
      if (message.bytes.size() + name_.size() + kReplyOverhead > kMuxMaxControl) {
        return "an endless event";
      }
      events_.guest_event(name_, message.bytes);
      count_unasked();
      break;
    case Kind::kNone:
      break;
    default:
      take_process_message(message);
  }
  return nullptr;
}

void GuestLink::take_process_message(const FromAgent& message) {
  using Kind = FromAgent::Kind;
  GuestProcess* process = find(message.key);
  // Forgotten while this was on its way.
  if (process == nullptr) return;
  switch (message.kind) {
    case Kind::kLaunched:
      process->launched(message.pid, message.paused_at);
      break;
    case Kind::kStarted:
      process->started(message.pid);
      break;
    case Kind::kLaunchFailed:
      if (process->launch_failed(message)) drop(process);
      break;
    case Kind::kLaunchWarning:
      process_events_.launch_warning(process->key(), message.step);
      count_unasked();
      break;
    case Kind::kExited:
      process->ended(message.wait_status);
      break;
    default:
      break;
  }
}

void GuestLink::answer(const FromAgent& message) {
  auto pending = std::find_if(pending_.begin(), pending_.end(), [&message](const Pending& one) {
    return one.number == message.request;
  });
  if (pending == pending_.end()) return;  // given up meanwhile
  Pending answered = *pending;
  pending_.erase(pending);
  bool fits = message.bytes.size() + kReplyOverhead <= kMuxMaxControl;
  settle(answered, fits ? message.err : EMSGSIZE, fits ? message.bytes : std::span<const uint8_t>{},
         fits ? "" : "call");
}

void GuestLink::settle(const Pending& pending, int err, std::span<const uint8_t> bytes,
                       const char* what) {
  if (pending.request == 0) return;
  if (pending.call) {
    events_.guest_reply(pending.request, err, bytes, what);
  } else {
    process_events_.reply(pending.request, err);
  }
}

void GuestLink::expire() {
  uint64_t now = Poller::now_ms();
  for (size_t i = 0; i < pending_.size();) {
    if (pending_[i].due_ms > now) {
      i++;
      continue;
    }
    Pending late = pending_[i];
    pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
    settle(late, ETIMEDOUT, {}, "call");
  }
  arm_expiry();
}

void GuestLink::arm_expiry() {
  if (pending_.empty()) {
    expiry_.cancel();
    return;
  }
  uint64_t first = pending_.front().due_ms;
  for (const Pending& one : pending_) first = std::min(first, one.due_ms);
  uint64_t now = Poller::now_ms();
  expiry_.arm(static_cast<uint32_t>(first > now ? first - now : 0));
}

// Notes what the agent will answer. False: too much waits for it already.
bool GuestLink::remember(uint64_t request, bool call, uint32_t deadline_ms) {
  if (pending_.size() >= kMostPending) return false;
  pending_.push_back({next_number_++, request, Poller::now_ms() + deadline_ms, call});
  arm_expiry();
  return true;
}

void GuestLink::send(const std::string& message) {
  link_.send_control({reinterpret_cast<const uint8_t*>(message.data()), message.size()});
}

void GuestLink::mux_lost(const char* reason) {
  if (phase_ == Phase::kGreeting) {
    greeting_lost(reason);
    return;
  }
  if (phase_ != Phase::kOpen) return;
  log_warning("guest " + name_ + ": " + reason);
  phase_ = Phase::kGone;
  link_.stop();
  expiry_.cancel();
  refill_.cancel();
  std::vector<Pending> pending = std::move(pending_);
  pending_.clear();
  for (const Pending& one : pending) settle(one, one.call ? ECONNRESET : ESRCH, {}, "channel");
  for (GuestProcess* process = processes_; process != nullptr;) {
    GuestProcess* following = process->next;
    if (process->lost()) drop(process);
    process = following;
  }
  events_.guest_closed(name_, reason);
  events_.guest_settled();
}

void GuestLink::drop(GuestProcess* process) {
  unlink_from(&processes_, process);
  delete process;
}

bool GuestLink::sweep() {
  for (GuestProcess** at = &leaving_; *at != nullptr;) {
    GuestProcess* process = *at;
    if (!process->may_go()) {
      at = &process->next;
      continue;
    }
    *at = process->next;
    delete process;
  }
  return gone() && processes_ == nullptr && leaving_ == nullptr;
}

GuestProcess* GuestLink::find(std::string_view key) {
  GuestProcess* process = processes_;
  while (process != nullptr && process->key() != key) process = process->next;
  return process;
}

void GuestLink::call(const ToMonitor& message) {
  uint32_t deadline = message.deadline_ms != 0 ? message.deadline_ms : kCallMs;
  if (!remember(message.request, true, deadline)) {
    events_.guest_reply(message.request, EBUSY, {}, "call");
    return;
  }
  send(encode_agent_call(pending_.back().number, message.data));
}

void GuestLink::launch(const ToMonitor& message) {
  auto process =
      std::make_unique<GuestProcess>(poller_, link_, process_events_, message.key, message.request);
  GuestStdio& stdio = process->stdio();
  if (Status opened = stdio.open(message.stdio); !opened) {
    FromAgent failure;
    failure.op = "open stdio";
    failure.err = opened.error().code;
    failure.path = stdio.path();
    process->launch_failed(failure);
    return;
  }
  GuestLaunch launch;
  launch.request = next_number_++;
  launch.key = message.key;
  launch.plan = message.plan;
  launch.dies_with = message.dies_with;
  stdio.attach(next_stream_, launch);
  send(encode_guest_launch(launch));
  process->next = processes_;
  processes_ = process.release();
}

void GuestLink::proceed(GuestProcess& process, uint64_t request) {
  if (process.proceed(request)) send(encode_agent_continue(next_number_++, process.key()));
}

void GuestLink::signal(GuestProcess& process, const ToMonitor& message) {
  if (!process.alive()) {
    process_events_.reply(message.request, ESRCH);
  } else if (!remember(message.request, false, kCommandMs)) {
    process_events_.reply(message.request, EBUSY);
  } else {
    send(encode_agent_signal(pending_.back().number, process.key(), message.signal));
  }
}

void GuestLink::resize(GuestProcess& process, const ToMonitor& message) {
  if (!process.alive()) {
    process_events_.reply(message.request, ESRCH);
  } else if (!process.stdio().terminal()) {
    process_events_.reply(message.request, 0);
  } else if (!remember(message.request, false, kCommandMs)) {
    process_events_.reply(message.request, EBUSY);
  } else {
    send(encode_agent_resize(pending_.back().number, process.key(), message.width, message.height));
  }
}

void GuestLink::close_stdin(GuestProcess& process, uint64_t request) {
  process.stdio().close_stdin();
  process_events_.reply(request, 0);
}

void GuestLink::forget(GuestProcess& process, uint64_t request) {
  if (!process.exited()) {
    process_events_.reply(request, EBUSY);
    return;
  }
  if (process.awaits_reader()) {
    process.forget_later(request);
    forgets_.arm(kForgetCheckMs);
  } else {
    finish_forget(process, request);
  }
}

// There is no event for a reader that comes, or has read.
void GuestLink::finish_forgets() {
  bool more = false;
  for (GuestProcess* process = processes_; process != nullptr;) {
    GuestProcess* following = process->next;
    if (uint64_t request = process->forgetting(); request != 0) {
      if (process->awaits_reader()) {
        more = true;
      } else {
        finish_forget(*process, request);
      }
    }
    process = following;
  }
  if (more) forgets_.arm(kForgetCheckMs);
}

void GuestLink::finish_forget(GuestProcess& process, uint64_t request) {
  // The agent's answer is for nobody.
  if (open()) send(encode_agent_forget(next_number_++, process.key()));
  unlink_from(&processes_, &process);
  process.leave();
  process.next = leaving_;
  leaving_ = &process;
  process_events_.reply(request, 0);
  events_.guest_settled();
}

}  // namespace bulkhead::shim
