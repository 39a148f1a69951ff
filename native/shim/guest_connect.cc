// How a guest's channel comes to be: attempts until the agent's hello is the next to come.
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "shim/guest_link.h"
#include "shim/guest_messages.h"
#include "shim/log.h"
#include "shim/unix_socket.h"

namespace bulkhead::shim {

namespace {

constexpr uint32_t kConnectMs = 10000;
// A hypervisor makes its socket some 20 ms after its start: tried often at first.
constexpr uint32_t kFirstRetryMs = 2;
constexpr uint32_t kLaterRetryMs = 20;
constexpr uint32_t kFirstRetries = 100;
// For an agent's preamble by vsock, doubled at each attempt: the guest of a machine that was copied
// forgets its connections when its driver is told of that, which may be after ours was made.
constexpr uint32_t kFirstPatienceMs = 250;

// Of a unix socket, and of vsock: the hypervisor or the agent is not there yet.
bool worth_another_try(int err) {
  for (int one : {ENOENT, ECONNREFUSED, EAGAIN, ENODEV, ECONNRESET, ETIMEDOUT}) {
    if (err == one) return true;
  }
  return false;
}

}  // namespace

void GuestLink::connect(const ToMonitor& message) {
  socket_path_ = message.socket_path;
  vsock_ = parse_vsock(socket_path_, vsock_address_);
  patience_ms_ = kFirstPatienceMs;
  hypervisor_ = message.dies_with;
  connect_request_ = message.request;
  uint32_t deadline = message.deadline_ms != 0 ? message.deadline_ms : kConnectMs;
  connect_due_ms_ = Poller::now_ms() + deadline;
  attempt();
}

// Also the deadline of the greeting: `retry_` fires when it is over.
void GuestLink::attempt() {
  uint64_t now = Poller::now_ms();
  if (now >= connect_due_ms_) {
    refuse_connection(ETIMEDOUT, phase_ == Phase::kConnecting ? "connect" : "handshake");
    return;
  }
  auto left = static_cast<uint32_t>(connect_due_ms_ - now);
  // Only by vsock is there a second greeting.
  link_.stop();
  phase_ = Phase::kConnecting;
  auto connection = vsock_ ? connect_vsock(vsock_address_, true) : connect_unix(socket_path_, true);
  if (!connection) {
    if (worth_another_try(connection.error().code)) {
      attempt_later(left);
    } else {
      refuse_connection(connection.error().code, "connect");
    }
  } else if (!vsock_) {
    begin_session(connection.take(), left);
  } else if (dial_.start(poller_, std::move(*connection), EPOLLOUT,
                         on_ready<GuestLink, &GuestLink::dialed>, this)) {
    retry_.arm(left);
  } else {
    refuse_connection(EIO, "connect");
  }
}

void GuestLink::dialed(uint32_t) {
  UniqueFd connection = dial_.take();
  int err = 0;
  socklen_t size = sizeof err;
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_ERROR, &err, &size) < 0) err = errno;
  uint64_t now = Poller::now_ms();
  uint32_t left = now < connect_due_ms_ ? static_cast<uint32_t>(connect_due_ms_ - now) : 0;
  if (err == 0) {
    begin_session(std::move(connection), std::min(left, patience_ms_));
    patience_ms_ *= 2;
  } else if (worth_another_try(err)) {
    attempt_later(left);
  } else {
    refuse_connection(err, "connect");
  }
}

void GuestLink::attempt_later(uint32_t left_ms) {
  uint32_t delay = attempts_++ < kFirstRetries ? kFirstRetryMs : kLaterRetryMs;
  retry_.arm(std::min(delay, left_ms));
}

void GuestLink::begin_session(UniqueFd connection, uint32_t left_ms) {
  MuxNonce nonce;
  if (::getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size()) ||
      !link_.start(std::move(connection), nonce)) {
    refuse_connection(errno != 0 ? errno : EIO, "connect");
    return;
  }
  // The agent reads our message right behind the preamble; there is no need to wait for its own.
  std::string hello = encode_host_hello();
  link_.writer().control({reinterpret_cast<const uint8_t*>(hello.data()), hello.size()});
  phase_ = Phase::kGreeting;
  retry_.arm(left_ms);
}

void GuestLink::refuse_connection(int err, const char* what) {
  retry_.cancel();
  dial_.stop();
  link_.stop();
  phase_ = Phase::kGone;
  events_.guest_reply(connect_request_, err, {}, what);
  events_.guest_settled();
}

void GuestLink::host_process_ended(std::string_view key) {
  bool waiting = phase_ == Phase::kConnecting || phase_ == Phase::kGreeting;
  if (waiting && !hypervisor_.empty() && key == hypervisor_) {
    refuse_connection(ECONNRESET, phase_ == Phase::kConnecting ? "connect" : "handshake");
  }
}

void GuestLink::greeting_lost(const char* reason) {
  if (vsock_ && !answered_) {
    link_.stop();
    phase_ = Phase::kConnecting;
    retry_.arm(kLaterRetryMs);
    return;
  }
  log_warning("guest " + name_ + ": handshake: " + reason);
  refuse_connection(ECONNRESET, "handshake");
}

}  // namespace bulkhead::shim
