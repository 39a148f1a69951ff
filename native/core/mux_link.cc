#include "core/mux_link.h"

#include <unistd.h>

#include <utility>

namespace bulkhead {

void MuxStream::attach(uint32_t id) {
  detach();
  id_ = id;
  attached_ = true;
  next_ = link_.streams_;
  link_.streams_ = this;
}

void MuxStream::detach() {
  if (!attached_) return;
  attached_ = false;
  for (MuxStream** at = &link_.streams_; *at != nullptr; at = &(*at)->next_) {
    if (*at != this) continue;
    *at = next_;
    return;
  }
}

MuxLink::MuxLink(Poller& poller, MuxHandler& handler)
    : poller_(poller),
      handler_(handler),
      flush_(poller, on_timer<MuxLink, &MuxLink::flush>, this),
      trim_(poller, on_timer<MuxLink, &MuxLink::trim>, this) {}

bool MuxLink::start(UniqueFd fd, const MuxNonce& nonce) {
  if (!serve(std::move(fd))) return false;
  agent_ = false;
  reader_.expect(nonce);
  writer().preamble(nonce);
  return true;
}

bool MuxLink::serve(UniqueFd fd) {
  agent_ = true;
  deaf_ = paused_ = blocked_ = congested_ = false;
  return watch_.start(poller_, std::move(fd), EPOLLIN, on_ready<MuxLink, &MuxLink::ready>, this);
}

void MuxLink::listen() {
  deaf_ = false;
  wait_for();
}

void MuxLink::trim() {
  reader_.trim();
  writer_.trim();
}

void MuxLink::stop() {
  flush_.cancel();
  trim_.cancel();
  watch_.stop();
  writer_.clear();
  reader_.trim();
  drop_streams();
}

void MuxLink::drop_streams() {
  while (streams_ != nullptr) {
    MuxStream* stream = streams_;
    stream->detach();
    stream->session_ended();
  }
}

void MuxLink::lose(const char* reason) {
  reader_.resync();
  flush_.cancel();
  writer_.clear();
  blocked_ = congested_ = false;
  drop_streams();
  wait_for();
  handler_.mux_lost(reason);
}

MuxWriter& MuxLink::writer() {
  bool hopeless = writer_.size() > kMostBacklog;
  if (open() && (!blocked_ || hopeless) && !flush_.armed()) flush_.arm(0);
  return writer_;
}

bool MuxLink::send_control(std::span<const uint8_t> message) {
  if (!in_session()) return true;
  if (!writer().control(message)) return false;
  return true;
}

void MuxLink::pause(bool paused) {
  if (paused_ == paused || !open()) return;
  paused_ = paused;
  wait_for();
  if (!paused) dispatch();
}

void MuxLink::wait_for() {
  if (deaf_) {
    watch_.mute();
    return;
  }
  uint32_t events = (paused_ ? 0u : static_cast<uint32_t>(EPOLLIN)) |
                    (blocked_ ? static_cast<uint32_t>(EPOLLOUT) : 0u);
  // EPOLLHUP comes unasked and would spin.
  if (events == 0) {
    watch_.mute();
  } else {
    watch_.want(events);
  }
}

void MuxLink::ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0 && blocked_) flush();
  if (!paused_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive();
}

void MuxLink::receive() {
  if (!trim_.armed()) trim_.arm(kTrimMs);
  std::span<uint8_t> room = reader_.reserve();
  ssize_t got = ::read(watch_.fd(), room.data(), room.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    // What came before the end was dealt with as it came.
    deaf_ = true;
    lose(got == 0 ? "closed by the other end" : "read error");
    return;
  }
  reader_.commit(static_cast<size_t>(got));
  dispatch();
}

void MuxLink::dispatch() {
  while (open() && !paused_) {
    switch (reader_.next()) {
      case MuxReader::Found::kNothing:
        return;
      case MuxReader::Found::kSession:
        session_began();
        break;
      case MuxReader::Found::kFrame:
        if (const char* problem = deliver(reader_.frame())) lose(problem);
        break;
      case MuxReader::Found::kMalformed:
        lose(reader_.problem());
        break;
    }
  }
}

// The agent repeats the preamble: what it had queued for an earlier session goes.
void MuxLink::session_began() {
  if (agent_) {
    drop_streams();
    writer_.clear();
    writer().preamble(reader_.nonce());
  }
  handler_.mux_session();
}

MuxStream* MuxLink::find(uint32_t id) {
  MuxStream* stream = streams_;
  while (stream != nullptr && stream->id_ != id) stream = stream->next_;
  return stream;
}

const char* MuxLink::deliver(const MuxFrame& frame) {
  if (frame.stream == kMuxControl) return handler_.mux_control(frame.payload);
  MuxStream* stream = find(frame.stream);
  // On its way when the stream ended here.
  if (stream == nullptr) return nullptr;
  switch (frame.kind) {
    case MuxKind::kData:
      return stream->take_data(frame.payload);
    case MuxKind::kCredit:
      return stream->take_credit(frame.credit);
    case MuxKind::kEof:
      return stream->take_eof();
    case MuxKind::kReset:
      stream->take_reset();
      return nullptr;
  }
  return nullptr;
}

void MuxLink::flush() {
  if (!trim_.armed()) trim_.arm(kTrimMs);
  congested_ = congested();
  while (!writer_.empty()) {
    std::span<const uint8_t> bytes = writer_.view();
    ssize_t done = ::write(watch_.fd(), bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno != EAGAIN) {
      writer_.clear();  // reading says what has happened
      break;
    }
    if (done <= 0) break;
    writer_.consume(static_cast<size_t>(done));
  }
  if (writer_.size() > kMostBacklog) {
    lose("the other end does not read");
    return;
  }
  blocked_ = !writer_.empty();
  wait_for();
  if (congested_ && writer_.size() <= kLowWater) wake_streams();
}

void MuxLink::wake_streams() {
  congested_ = false;
  for (MuxStream* stream = streams_; stream != nullptr;) {
    MuxStream* next = stream->next_;
    stream->link_ready();
    stream = next;
  }
}

}  // namespace bulkhead
