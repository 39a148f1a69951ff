#include "core/mux_stream.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace bulkhead {

StreamSink::StreamSink(Poller& poller, MuxLink& link, StreamOwner owner)
    : MuxStream(link), poller_(poller), owner_(owner) {}

void StreamSink::open(UniqueFd fd) {
  if (watch_.start(poller_, std::move(fd), 0, on_ready<StreamSink, &StreamSink::ready>, this))
    return;
  file_ = std::move(fd);
}

UniqueFd StreamSink::close() {
  if (attached()) link_.writer().reset(id());
  detach();
  queue_.clear();
  ended_ = true;
  return watch_.active() ? watch_.take() : std::move(file_);
}

const char* StreamSink::take_data(std::span<const uint8_t> bytes) {
  if (!flow_.received(bytes.size())) return "more data than the stream's window";
  if (bytes.empty()) {
    caught_up_ = true;
    if (settled()) tell();
    return nullptr;
  }
  size_t done = queue_.empty() ? write_some(bytes) : 0;
  if (!attached()) return nullptr;
  if (done > 0) taken(done);
  if (done == bytes.size()) return nullptr;
  queue_.append(bytes.data() + done, bytes.size() - done);
  watch_.want(EPOLLOUT);
  return nullptr;
}

const char* StreamSink::take_eof() {
  end();
  return nullptr;
}

void StreamSink::take_reset() {
  end();
}

void StreamSink::session_ended() {
  end();
}

void StreamSink::end() {
  detach();
  ended_ = true;
  if (queue_.empty()) tell();
}

void StreamSink::taken(size_t count) {
  written_ += count;
  if (!attached()) return;
  if (uint32_t credit = flow_.taken(count)) link_.writer().credit(id(), credit);
}

// What the descriptor takes. EPIPE: nobody will ever read; any other error (a full disk) loses
// bytes, not the stream.
size_t StreamSink::write_some(std::span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    if (fd() < 0) return bytes.size();
    ssize_t count = ::write(fd(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0 && errno == EPIPE) {
      (void)close();
      tell();
      return bytes.size();
    }
    done = count < 0 ? bytes.size() : done + static_cast<size_t>(count);
  }
  return done;
}

void StreamSink::drain() {
  size_t done = write_some(queue_.view());
  if (queue_.empty()) return;  // closed
  queue_.consume(done);
  taken(done);
  if (!queue_.empty()) return;
  watch_.want(0);
  tell();
}

void StreamSink::ready(uint32_t events) {
  if (!queue_.empty()) {
    drain();
  } else if ((events & EPOLLERR) != 0) {
    // The last reader of a pipe has gone.
    (void)close();
    tell();
  } else {
    watch_.want(0);
  }
}

StreamSource::StreamSource(Poller& poller, MuxLink& link, StreamOwner owner)
    : MuxStream(link), poller_(poller), owner_(owner) {}

void StreamSource::open(UniqueFd fd, bool quiet_end) {
  quiet_end_ = quiet_end;
  if (watch_.start(poller_, std::move(fd), 0, on_ready<StreamSource, &StreamSource::ready>, this)) {
    watch_.mute();
  } else {
    file_ = std::move(fd);
  }
}

void StreamSource::begin() {
  pump();
}

void StreamSource::process_ended() {
  process_ended_ = true;
  pump();
}

void StreamSource::close() {
  if (done_) return;
  if (attached()) link_.writer().reset(id());
  finish();
}

const char* StreamSource::take_credit(uint32_t bytes) {
  if (!flow_.credited(bytes)) return "credit for more than was sent";
  pump();
  return nullptr;
}

void StreamSource::take_reset() {
  finish();
}

void StreamSource::session_ended() {
  finish();
}

void StreamSource::finish() {
  detach();
  watch_.stop();
  file_.reset();
  if (done_) return;
  done_ = true;
  if (owner_.changed != nullptr) owner_.changed(owner_.owner);
}

void StreamSource::ready(uint32_t) {
  if (may_send()) (void)read_once();
  pump();
}

// Plain files are always ready; a pipe whose process has ended is read until it is empty, which no
// event tells.
void StreamSource::pump() {
  bool at_once = file_.valid() || (process_ended_ && !told_empty_);
  while (at_once && may_send() && read_once()) {
    at_once = file_.valid() || !told_empty_;
  }
  wait_for();
}

void StreamSource::wait_for() {
  if (!watch_.active()) return;
  if (may_send()) {
    watch_.want(EPOLLIN);
  } else {
    watch_.mute();  // EPOLLHUP comes unasked and would spin
  }
}

// One frame. False: nothing was there, or never will be.
bool StreamSource::read_once() {
  int fd = watch_.active() ? watch_.fd() : file_.get();
  if (fd < 0) return false;
  size_t room = std::min<size_t>(flow_.window(), kMuxMaxData);
  ssize_t got = ::read(fd, link_.writer().reserve_data(room), room);
  link_.writer().commit_data(id(), got > 0 ? static_cast<size_t>(got) : 0);
  if (got > 0) {
    flow_.sent(static_cast<size_t>(got));
    return true;
  }
  if (got < 0 && errno == EINTR) return true;
  if (got < 0 && errno == EAGAIN) {
    if (process_ended_ && !told_empty_) {
      told_empty_ = true;
      link_.writer().data(id(), {});
    }
    return false;
  }
  // The end of file; EIO: nobody has the terminal open any more.
  if (!quiet_end_) link_.writer().eof(id());
  finish();
  return false;
}

}  // namespace bulkhead
