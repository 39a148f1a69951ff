#include "shim/guests.h"

#include <utility>

namespace bulkhead::shim {

namespace {

constexpr uint32_t kSweepMs = 100;
// The engine reads slower than a guest talks: the guest waits.
constexpr size_t kSlowBacklog = 1u << 20;
// Events of guests (a container out of memory) that the next engine is told of.
constexpr size_t kMostMissed = 64u << 10;

}  // namespace

Guests::Guests(Poller& poller, EngineLink& engine, ProcessEvents& processes)
    : poller_(poller),
      engine_(engine),
      processes_(processes),
      sweep_(poller, on_timer<Guests, &Guests::sweep>, this) {}

Guests::~Guests() {
  while (links_ != nullptr) {
    GuestLink* link = links_;
    links_ = link->next;
    delete link;
  }
}

// One that is gone has no name any more: another may take it.
GuestLink* Guests::find_guest(std::string_view name) {
  GuestLink* link = links_;
  while (link != nullptr && (link->gone() || link->name() != name)) link = link->next;
  return link;
}

GuestLink* Guests::find(std::string_view key, GuestProcess*& process) {
  for (GuestLink* link = links_; link != nullptr; link = link->next) {
    process = link->find(key);
    if (process != nullptr) return link;
  }
  return nullptr;
}

bool Guests::has(std::string_view key) {
  GuestProcess* process;
  return find(key, process) != nullptr;
}

void Guests::connect(const ToMonitor& message) {
  if (find_guest(message.guest) != nullptr) {
    guest_reply(message.request, EISCONN, {}, "connect");
    return;
  }
  auto* link = new GuestLink(poller_, processes_, *this, message.guest);
  link->next = links_;
  links_ = link;
  link->connect(message);
}

void Guests::call(const ToMonitor& message) {
  GuestLink* link = find_guest(message.guest);
  if (link == nullptr || !link->open()) {
    guest_reply(message.request, ENOTCONN, {}, "channel");
  } else {
    link->call(message);
  }
}

void Guests::launch(const ToMonitor& message) {
  GuestLink* link = find_guest(message.guest);
  if (link != nullptr && link->open()) {
    link->launch(message);
    return;
  }
  LaunchFailure failure;
  failure.request = message.request;
  failure.key = message.key;
  failure.err = ENOTCONN;
  failure.op = "guest";
  failure.path = message.guest;
  processes_.launch_failed(failure);
}

void Guests::proceed(const ToMonitor& message) {
  GuestProcess* process;
  GuestLink* link = find(message.key, process);
  // One that has executed has started, also when that was long ago.
  if (link != nullptr && (process->alive() || process->state().running)) {
    link->proceed(*process, message.request);
    return;
  }
  LaunchFailure failure;
  failure.request = message.request;
  failure.key = message.key;
  failure.err = ESRCH;
  failure.op = "continue";
  processes_.launch_failed(failure);
}

void Guests::signal(const ToMonitor& message) {
  GuestProcess* process;
  if (GuestLink* link = find(message.key, process)) link->signal(*process, message);
}

void Guests::resize(const ToMonitor& message) {
  GuestProcess* process;
  if (GuestLink* link = find(message.key, process)) link->resize(*process, message);
}

void Guests::close_stdin(const ToMonitor& message) {
  GuestProcess* process;
  if (GuestLink* link = find(message.key, process)) link->close_stdin(*process, message.request);
}

void Guests::forget(const ToMonitor& message) {
  GuestProcess* process;
  if (GuestLink* link = find(message.key, process)) link->forget(*process, message.request);
}

void Guests::add_states(HelloBuilder& hello) {
  for (GuestLink* link = links_; link != nullptr; link = link->next) {
    if (link->open()) hello.add_guest(link->name());
    for (GuestProcess* process = link->processes(); process != nullptr; process = process->next) {
      hello.add(process->state(), link->name());
    }
  }
}

void Guests::host_process_ended(std::string_view key) {
  for (GuestLink* link = links_; link != nullptr; link = link->next) link->host_process_ended(key);
}

void Guests::engine_welcomed() {
  welcomed_ = true;
  if (!missed_.empty()) engine_.send(missed_);
  missed_ = {};
}

void Guests::engine_down() {
  welcomed_ = false;
  for (GuestLink* link = links_; link != nullptr; link = link->next) link->engine_down();
}

void Guests::engine_drained() {
  for (GuestLink* link = links_; link != nullptr; link = link->next) link->resume();
}

bool Guests::idle() {
  for (GuestLink* link = links_; link != nullptr; link = link->next) {
    for (GuestProcess* process = link->processes(); process != nullptr; process = process->next) {
      if (!process->exited()) return false;
    }
  }
  return true;
}

void Guests::guest_reply(uint64_t request, int err, std::span<const uint8_t> bytes,
                         std::string_view what) {
  engine_.send(encode_guest_reply(request, err, bytes, what));
}

void Guests::tell(const std::string& frame) {
  if (welcomed_) {
    engine_.send(frame);
  } else {
    missed_ += frame;
  }
}

void Guests::guest_event(std::string_view guest, std::span<const uint8_t> event) {
  const std::string frame = encode_guest_event(guest, event);
  if (welcomed_ || missed_.size() + frame.size() <= kMostMissed) tell(frame);
}

// Once for each guest, so whatever else there is.
void Guests::guest_closed(std::string_view guest, std::string_view reason) {
  tell(encode_guest_closed(guest, reason));
}

bool Guests::engine_is_slow() {
  return engine_.backlog() > kSlowBacklog;
}

// At the end of this round: a link or a process may be calling.
void Guests::guest_settled() {
  sweep_.arm(0);
}

void Guests::sweep() {
  bool again = false;
  for (GuestLink** at = &links_; *at != nullptr;) {
    GuestLink* link = *at;
    if (link->sweep()) {
      *at = link->next;
      delete link;
      continue;
    }
    again = again || link->leaving();
    at = &link->next;
  }
  if (again) sweep_.arm(kSweepMs);
}

}  // namespace bulkhead::shim
