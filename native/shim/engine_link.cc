#include "shim/engine_link.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/frame.h"
#include "shim/engine_process.h"
#include "shim/log.h"
#include "shim/messages.h"

namespace bulkhead::shim {

namespace {

constexpr size_t kReadSize = 4096;
constexpr uint32_t kFirstBackOffMs = 25;
constexpr uint32_t kLastBackOffMs = 2000;

size_t announced_length(const uint8_t* head) {
  return size_t{head[0]} << 24 | size_t{head[1]} << 16 | size_t{head[2]} << 8 | head[3];
}

}  // namespace

EngineLink::EngineLink(Poller& poller, const Install& install, EngineHandler& handler)
    : poller_(poller),
      install_(install),
      handler_(handler),
      retry_(poller, on_timer<EngineLink, &EngineLink::attempt>, this) {}

void EngineLink::start(UniqueFd connection) {
  if (connection) {
    ::fcntl(connection.get(), F_SETFL, O_NONBLOCK);
    adopt(std::move(connection));
  } else {
    attempt();
  }
}

void EngineLink::adopt(UniqueFd connection) {
  in_.clear();
  out_.clear();
  if (!watch_.start(poller_, std::move(connection), EPOLLIN,
                    on_ready<EngineLink, &EngineLink::ready>, this)) {
    retry_.arm(kLastBackOffMs);
    return;
  }
  handler_.engine_up();
}

void EngineLink::attempt() {
  EngineConnection connection = connect_engine(install_, true);
  if (connection.err == 0) {
    adopt(std::move(connection.fd));
    return;
  }
  uint32_t delay = kFirstBackOffMs << (failures_ < 7 ? failures_ : 7);
  if (connection.err != EAGAIN) {
    failures_++;
    log_warning(describe("engine: " + connection.what, connection.err));
  }
  retry_.arm(delay < kLastBackOffMs ? delay : kLastBackOffMs);
}

void EngineLink::lost(const char* why) {
  watch_.stop();
  in_.clear();
  out_.clear();
  log_warning(std::string("engine: connection lost: ") + why);
  // The first attempt follows at once; an engine that never says Welcome is not started in a tight
  // loop.
  uint32_t delay = failures_ == 0 ? 1 : kFirstBackOffMs << (failures_ < 7 ? failures_ : 7);
  failures_++;
  retry_.arm(delay < kLastBackOffMs ? delay : kLastBackOffMs);
  handler_.engine_down();
}

void EngineLink::send(std::string_view frame) {
  if (!up()) return;
  size_t sent = 0;
  if (out_.empty()) {
    ssize_t rc = ::send(watch_.fd(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    // An error comes up again as EPOLLHUP in the loop, where it can be dealt with.
    if (rc > 0) sent = static_cast<size_t>(rc);
  }
  if (sent == frame.size()) return;
  out_.append(frame.data() + sent, frame.size() - sent);
  watch_.want(EPOLLIN | EPOLLOUT);
}

void EngineLink::send_stream(uint32_t conn, std::span<const uint8_t> data) {
  if (!up()) return;
  StreamDataPrefix prefix = stream_data_prefix(conn, data.size());
  size_t sent = 0;
  if (out_.empty()) {
    iovec parts[2] = {{prefix.bytes, prefix.length},
                      {const_cast<uint8_t*>(data.data()), data.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    ssize_t rc = ::sendmsg(watch_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (rc > 0) sent = static_cast<size_t>(rc);
  }
  if (sent == prefix.length + data.size()) return;
  if (sent < prefix.length) {
    out_.append(prefix.bytes + sent, prefix.length - sent);
    sent = prefix.length;
  }
  out_.append(data.data() + (sent - prefix.length), data.size() - (sent - prefix.length));
  watch_.want(EPOLLIN | EPOLLOUT);
}

void EngineLink::flush() {
  while (!out_.empty()) {
    ssize_t rc = ::send(watch_.fd(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (rc < 0 && errno == EINTR) continue;
    if (rc <= 0) return;
    out_.consume(static_cast<size_t>(rc));
  }
  watch_.want(EPOLLIN);
  handler_.engine_drained();
}

// One read, and the messages it completes. False: the connection was given up.
bool EngineLink::receive() {
  size_t room = kReadSize;
  if (in_.size() >= kFrameHeader) {
    size_t whole = kFrameHeader + announced_length(in_.data());
    if (whole > in_.size() + room) room = whole - in_.size();
  }
  ssize_t got = ::read(watch_.fd(), in_.reserve(room), room);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (got <= 0) {
    lost(got == 0 ? "closed by the engine" : "read error");
    return false;
  }
  in_.commit(static_cast<size_t>(got));
  return dispatch();
}

bool EngineLink::dispatch() {
  while (in_.size() >= kFrameHeader) {
    size_t length = announced_length(in_.data());
    if (length > kMaxFrame) {
      lost("message over 8 MiB");
      return false;
    }
    if (in_.size() < kFrameHeader + length) break;
    bool good = handler_.engine_message({in_.data() + kFrameHeader, length});
    if (!up()) return false;
    if (!good) {
      lost("malformed message");
      return false;
    }
    in_.consume(kFrameHeader + length);
  }
  if (in_.empty()) in_.clear();
  return true;
}

void EngineLink::ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive();
}

void EngineLink::finish(int timeout_ms) {
  retry_.cancel();
  uint64_t deadline = Poller::now_ms() + static_cast<uint64_t>(timeout_ms);
  while (up() && !out_.empty() && Poller::now_ms() < deadline) {
    pollfd waiting{watch_.fd(), POLLOUT, 0};
    ::poll(&waiting, 1, 10);
    if ((waiting.revents & (POLLERR | POLLHUP)) != 0) break;
    size_t before = out_.size();
    ssize_t rc = ::send(watch_.fd(), out_.data(), before, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (rc > 0) out_.consume(static_cast<size_t>(rc));
  }
  watch_.stop();
}

}  // namespace bulkhead::shim
