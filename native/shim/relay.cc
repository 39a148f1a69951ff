#include "shim/relay.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "shim/engine_link.h"
#include "shim/log.h"
#include "shim/messages.h"
#include "shim/ttrpc_frame.h"

namespace bulkhead::shim {

namespace {

constexpr size_t kReadSize = 4096;
constexpr size_t kGrpcReadSize = 16384;
// What may wait for a slow engine, and for its answers, before containerd is not read from any
// more.
constexpr size_t kMaxBacklog = 8u << 20;
constexpr size_t kMaxPending = 32u << 20;
// Answers that containerd does not read. It always does; a peer that sleeps on more must not grow
// us for ever.
constexpr size_t kMaxUnread = 16u << 20;
constexpr int kAcceptsPerRound = 16;
// Until a connection that had no descriptor is tried again.
constexpr uint32_t kAcceptAgainMs = 100;

}  // namespace

Connection::~Connection() {
  while (pending_ != nullptr) release(&pending_);
}

bool Connection::start(Poller& poller, UniqueFd socket) {
  return watch_.start(poller, std::move(socket), EPOLLIN, on_ready<Connection, &Connection::ready>,
                      this);
}

void Connection::update_interest() {
  uint32_t events = paused_ || finishing_ ? 0u : static_cast<uint32_t>(EPOLLIN);
  if (!out_.empty()) events |= EPOLLOUT;
  watch_.want(events);
}

void Connection::pause(bool paused) {
  paused_ = paused;
  update_interest();
}

void Connection::ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0 && !write_out()) {
    relay_.drop(this, true);
    return;
  }
  bool done = finishing_ && out_.empty();
  // While paused the hang-up of a peer is only looked at when reading goes on, unless it can get
  // nothing any more.
  bool gone = (events & (EPOLLHUP | EPOLLERR)) != 0 && (paused_ || finishing_);
  if (done || gone) {
    relay_.drop(this, !finishing_);
    return;
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !receive()) relay_.drop(this, true);
}

bool Connection::receive() {
  size_t room = protocol_ == Protocol::kGrpc ? kGrpcReadSize : kReadSize;
  if (protocol_ == Protocol::kTtrpc && in_.size() >= kTtrpcHeader) {
    size_t whole = look_at_frame(in_.view()).size;
    if (whole > in_.size() + room) room = whole - in_.size();
  }
  ssize_t got = ::read(watch_.fd(), in_.reserve(room), room);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    if (in_.empty()) in_.clear();
    return true;
  }
  if (got <= 0) return false;
  in_.commit(static_cast<size_t>(got));
  if (protocol_ == Protocol::kUnknown) {
    // The HTTP/2 preface is "PRI * HTTP/2.0"; a ttrpc length of at most 4 MiB begins with a zero
    // byte.
    protocol_ = in_.data()[0] == 'P' ? Protocol::kGrpc : Protocol::kTtrpc;
    relay_.engine_.send(encode_stream_open(id_, protocol_ == Protocol::kGrpc));
  }
  return split();
}

bool Connection::split() {
  if (protocol_ == Protocol::kGrpc) {
    if (!relay_.engine_.up()) return false;
    relay_.engine_.send_stream(id_, in_.view());
    in_.clear();
    relay_.balance();
    return true;
  }
  while (!in_.empty()) {
    if (skip_ > 0) {
      size_t count = skip_ < in_.size() ? skip_ : in_.size();
      skip_ -= count;
      in_.consume(count);
      continue;
    }
    TtrpcFrame frame = look_at_frame(in_.view());
    if (frame.status == TtrpcFrame::Status::kNonsense) {
      log_warning("relay: neither ttrpc nor HTTP/2: connection dropped");
      return false;
    }
    if (frame.status == TtrpcFrame::Status::kPartial) break;
    if (frame.status == TtrpcFrame::Status::kTooLarge) {
      // As containerd's own server: the call is refused, its bytes are passed over, the connection
      // goes on.
      skip_ = frame.size;
      if (!refuse(frame.stream, RpcCode::kResourceExhausted, "message over the limit of 4 MiB"))
        return false;
      continue;
    }
    if (!take_frame(in_.view().first(frame.size), frame.stream, frame.type, frame.flags))
      return false;
    in_.consume(frame.size);
  }
  relay_.balance();
  return true;
}

bool Connection::take_frame(std::span<const uint8_t> bytes, uint32_t stream, uint8_t type,
                            uint8_t flags) {
  bool up = relay_.engine_.up();
  bool request = type == static_cast<uint8_t>(TtrpcType::kRequest);
  if (request) {
    std::string answer = relay_.answers_.frame_for(bytes.subspan(kTtrpcHeader), stream);
    if (!answer.empty()) {
      return queue({reinterpret_cast<const uint8_t*>(answer.data()), answer.size()});
    }
  }
  // Requests wait for their answer; the data of a streaming call only while there is nobody to give
  // it to.
  if (request || !up) remember(bytes, stream, type, flags, up);
  if (up) relay_.engine_.send_stream(id_, bytes);
  return true;
}

void Connection::remember(std::span<const uint8_t> bytes, uint32_t stream, uint8_t type,
                          uint8_t flags, bool sent) {
  auto* frame = static_cast<PendingFrame*>(std::malloc(sizeof(PendingFrame) + bytes.size()));
  if (frame == nullptr) std::abort();
  frame->next = nullptr;
  frame->stream = stream;
  frame->size = static_cast<uint32_t>(bytes.size());
  frame->type = type;
  frame->flags = flags;
  frame->sent = sent;
  std::memcpy(frame->bytes, bytes.data(), bytes.size());
  PendingFrame** tail = &pending_;
  while (*tail != nullptr) tail = &(*tail)->next;
  *tail = frame;
  relay_.pending_bytes_ += frame->size;
}

void Connection::release(PendingFrame** link) {
  PendingFrame* frame = *link;
  *link = frame->next;
  relay_.pending_bytes_ -= frame->size;
  std::free(frame);
}

// The stream is answered.
void Connection::settle(uint32_t stream) {
  for (PendingFrame** link = &pending_; *link != nullptr;) {
    if ((*link)->stream == stream) {
      release(link);
    } else {
      link = &(*link)->next;
    }
  }
}

// Answers a call without the engine.
bool Connection::refuse(uint32_t stream, RpcCode code, std::string_view text) {
  uint8_t answer[kMaxErrorFrame];
  return queue({answer, write_error(answer, stream, code, text)});
}

bool Connection::deliver(std::span<const uint8_t> data) {
  if (finishing_) return true;
  if (protocol_ == Protocol::kTtrpc) {
    TtrpcFrame frame = look_at_frame(data);
    if (frame.status != TtrpcFrame::Status::kWhole || frame.size != data.size()) {
      log_warning("relay: the engine sent what is not one ttrpc frame: connection dropped");
      return false;
    }
    if (frame.type == static_cast<uint8_t>(TtrpcType::kResponse)) settle(frame.stream);
  }
  return queue(data);
}

bool Connection::queue(std::span<const uint8_t> data) {
  size_t sent = 0;
  if (out_.empty()) {
    ssize_t rc = ::send(watch_.fd(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (rc < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (rc > 0) sent = static_cast<size_t>(rc);
  }
  if (sent == data.size()) return true;
  if (out_.size() + data.size() - sent > kMaxUnread) {
    log_warning("relay: 16 MiB of answers are not read: connection dropped");
    return false;
  }
  out_.append(data.data() + sent, data.size() - sent);
  update_interest();
  return true;
}

bool Connection::write_out() {
  while (!out_.empty()) {
    ssize_t rc = ::send(watch_.fd(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (rc < 0 && errno == EINTR) continue;
    if (rc < 0 && errno == EAGAIN) return true;
    if (rc < 0) return false;
    out_.consume(static_cast<size_t>(rc));
  }
  update_interest();
  return true;
}

bool Connection::finish() {
  finishing_ = true;
  update_interest();
  return out_.empty();
}

void Connection::replay() {
  if (protocol_ == Protocol::kUnknown) return;
  relay_.engine_.send(encode_stream_open(id_, protocol_ == Protocol::kGrpc));
  for (PendingFrame** link = &pending_; *link != nullptr;) {
    PendingFrame* frame = *link;
    relay_.engine_.send_stream(id_, {frame->bytes, frame->size});
    frame->sent = true;
    if (frame->type == static_cast<uint8_t>(TtrpcType::kRequest)) {
      link = &frame->next;
    } else {
      release(link);
    }
  }
}

void Connection::engine_lost() {
  for (PendingFrame* frame = pending_; frame != nullptr;) {
    bool streaming = (frame->flags & kTtrpcRemoteOpen) != 0;
    if (!frame->sent || !streaming || frame->type != static_cast<uint8_t>(TtrpcType::kRequest)) {
      frame->sent = false;
      frame = frame->next;
      continue;
    }
    uint32_t stream = frame->stream;
    settle(stream);
    refuse(stream, RpcCode::kUnavailable, "bulkhead: the engine was restarted during this stream");
    frame = pending_;
  }
}

Relay::~Relay() {
  while (connections_ != nullptr) drop(connections_, false);
}

bool Relay::start(UniqueFd listener) {
  return listener_.start(poller_, std::move(listener), EPOLLIN,
                         on_ready<Relay, &Relay::accept_ready>, this);
}

void Relay::accept_ready(uint32_t) {
  for (int i = 0; i < kAcceptsPerRound; i++) {
    UniqueFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // EMFILE, ENFILE, ENOMEM and the like: it stays in the queue, and the listener ready.
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        if (!refused_) log_warning(describe("relay: accept", errno));
        refused_ = true;
        listener_.mute();
        accept_again_.arm(kAcceptAgainMs);
      }
      return;
    }
    refused_ = false;
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
        peer.uid != ::geteuid()) {
      log_warning("relay: connection of another user refused");
      continue;
    }
    auto* connection = new Connection(*this, next_id_++);
    if (!connection->start(poller_, std::move(socket))) {
      delete connection;
      continue;
    }
    connection->next_ = connections_;
    connections_ = connection;
    if (paused_) connection->pause(true);
  }
}

void Relay::accept_again() {
  if (listener_.active()) listener_.want(EPOLLIN);
}

Connection* Relay::find(uint32_t conn) {
  Connection* connection = connections_;
  while (connection != nullptr && connection->id() != conn) connection = connection->next_;
  return connection;
}

void Relay::drop(Connection* connection, bool tell) {
  Connection** link = &connections_;
  while (*link != connection) link = &(*link)->next_;
  *link = connection->next_;
  if (tell && connection->protocol() != Connection::Protocol::kUnknown) {
    engine_.send(encode_stream_close(connection->id()));
  }
  delete connection;
  balance();
}

void Relay::stream_data(uint32_t conn, std::span<const uint8_t> data) {
  Connection* connection = find(conn);
  if (connection == nullptr) return;  // closed by containerd meanwhile
  if (connection->deliver(data)) {
    balance();
  } else {
    drop(connection, true);
  }
}

void Relay::stream_close(uint32_t conn) {
  Connection* connection = find(conn);
  if (connection != nullptr && connection->finish()) drop(connection, false);
}

void Relay::engine_up() {
  for (Connection* connection = connections_; connection != nullptr;
       connection = connection->next_) {
    connection->replay();
  }
  balance();
}

void Relay::engine_down() {
  // A new one may know better.
  answers_.clear();
  for (Connection* connection = connections_; connection != nullptr;) {
    Connection* next = connection->next_;
    connection->engine_lost();
    if (connection->protocol() == Connection::Protocol::kGrpc && connection->finish())
      drop(connection, false);
    connection = next;
  }
  balance();
}

void Relay::balance() {
  bool pause = engine_.backlog() > kMaxBacklog || pending_bytes_ > kMaxPending;
  // Goes on at half of it, so that it is not switched at every frame.
  if (paused_ && !pause)
    pause = engine_.backlog() > kMaxBacklog / 2 || pending_bytes_ > kMaxPending / 2;
  if (pause == paused_) return;
  paused_ = pause;
  for (Connection* connection = connections_; connection != nullptr;
       connection = connection->next_) {
    connection->pause(pause);
  }
}

void Relay::finish(int timeout_ms) {
  accept_again_.cancel();
  listener_.stop();
  uint64_t deadline = Poller::now_ms() + static_cast<uint64_t>(timeout_ms);
  for (Connection* connection = connections_; connection != nullptr;
       connection = connection->next_) {
    while (!connection->out_.empty() && Poller::now_ms() < deadline) {
      pollfd waiting{connection->watch_.fd(), POLLOUT, 0};
      ::poll(&waiting, 1, 10);
      if ((waiting.revents & (POLLERR | POLLHUP)) != 0 || !connection->write_out()) break;
    }
  }
}

}  // namespace bulkhead::shim
