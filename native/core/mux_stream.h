// The two ends of a stream of standard input or output: a descriptor that is read and sent, and one
// that is written with what comes. Used alike by the monitor (containerd's fifos) and by the agent
// (pipes and ptys). A reader that stops stops its own stream only: at most kMuxWindow bytes wait.
#pragma once

#include <cstdint>
#include <span>

#include "core/bytes.h"
#include "core/fd.h"
#include "core/mux.h"
#include "core/mux_link.h"
#include "core/poller.h"

namespace bulkhead {

// Told when done() or settled() may have changed. Must not destroy a stream; start a Timer for
// that.
struct StreamOwner {
  void (*changed)(void* owner) = nullptr;
  void* owner = nullptr;
};

// DATA of the stream → descriptor.
class StreamSink : public MuxStream {
 public:
  StreamSink(Poller& poller, MuxLink& link, StreamOwner owner);

  // A non-blocking descriptor, or a plain file. Call before attach().
  void open(UniqueFd fd);
  // Nothing more is to be written: the stream ended or was lost, and what had come was written.
  bool done() const { return ended_ && queue_.empty(); }
  // Everything that the other end had to say when its process ended is written.
  bool settled() const { return queue_.empty() && (ended_ || caught_up_); }
  // Bytes written to the descriptor so far; tells a slow reader from one that has stopped.
  uint64_t written() const { return written_; }
  // Hands the descriptor over, dropping what still waits; the sender is told that nobody reads.
  UniqueFd close();
  int fd() const { return watch_.active() ? watch_.fd() : file_.get(); }

 private:
  const char* take_data(std::span<const uint8_t> bytes) override;
  const char* take_credit(uint32_t) override { return "credit for a stream that is only read"; }
  const char* take_eof() override;
  void take_reset() override;
  void session_ended() override;
  void link_ready() override {}

  void ready(uint32_t events);
  void drain();
  size_t write_some(std::span<const uint8_t> bytes);
  void taken(size_t count);
  void end();
  void tell() {
    if (owner_.changed != nullptr) owner_.changed(owner_.owner);
  }

  Poller& poller_;
  StreamOwner owner_;
  Watch watch_;
  UniqueFd file_;
  ByteQueue queue_;
  MuxFlow flow_;
  uint64_t written_ = 0;
  bool ended_ = false;
  bool caught_up_ = false;
};

// Descriptor → DATA of the stream.
class StreamSource : public MuxStream {
 public:
  StreamSource(Poller& poller, MuxLink& link, StreamOwner owner);

  // A non-blocking descriptor, or a plain file; read from attach() and begin() on. `quiet_end`: the
  // end of file ends the reading, but is no EOF of the stream (input of a terminal).
  void open(UniqueFd fd, bool quiet_end = false);
  void begin();
  // The process behind the descriptor has ended: says so (an empty DATA) once nothing is left.
  void process_ended();
  // Read to its end, or nobody wants it any more.
  bool done() const { return done_; }
  // Stops reading; the other end is told that nothing more comes.
  void close();

 private:
  const char* take_data(std::span<const uint8_t>) override {
    return "data for a stream that is only written";
  }
  const char* take_credit(uint32_t bytes) override;
  const char* take_eof() override { return "the end of a stream that is only written"; }
  void take_reset() override;
  void session_ended() override;
  void link_ready() override { pump(); }

  void ready(uint32_t events);
  void pump();
  bool read_once();
  void wait_for();
  void finish();
  bool may_send() const { return attached() && !done_ && flow_.window() > 0 && !link_.congested(); }

  Poller& poller_;
  StreamOwner owner_;
  Watch watch_;
  UniqueFd file_;
  MuxFlow flow_;
  bool quiet_end_ = false;
  bool done_ = false;
  bool process_ended_ = false;
  bool told_empty_ = false;
};

}  // namespace bulkhead
