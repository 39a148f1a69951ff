// One end of the channel to a guest (core/mux.h) in an event loop: reads frames and hands them to
// the streams and the owner, queues frames and writes them once a round of the loop. Never polls:
// a stream that has no window, and a link whose peer does not read, cost nothing.
#pragma once

#include <cstdint>
#include <span>

#include "core/fd.h"
#include "core/mux.h"
#include "core/poller.h"

namespace bulkhead {

class MuxLink;

// One descriptor's stream (core/mux_stream.h). Belongs to a link from attach() until it ends.
class MuxStream {
 public:
  explicit MuxStream(MuxLink& link) : link_(link) {}
  MuxStream(const MuxStream&) = delete;
  MuxStream& operator=(const MuxStream&) = delete;
  virtual ~MuxStream() { detach(); }

  void attach(uint32_t id);
  // Frames for it are dropped from now on.
  void detach();
  bool attached() const { return attached_; }
  uint32_t id() const { return id_; }

 protected:
  friend class MuxLink;
  // A frame came. nullptr, or what is wrong with it: the session ends.
  virtual const char* take_data(std::span<const uint8_t> bytes) = 0;
  virtual const char* take_credit(uint32_t bytes) = 0;
  virtual const char* take_eof() = 0;
  virtual void take_reset() = 0;
  // The session has ended; the stream is detached.
  virtual void session_ended() = 0;
  // The link takes data again.
  virtual void link_ready() = 0;

  MuxLink& link_;

 private:
  uint32_t id_ = 0;
  bool attached_ = false;
  MuxStream* next_ = nullptr;
};

class MuxHandler {
 public:
  // Preambles were exchanged: the first message can go out. May come again at the agent.
  virtual void mux_session() = 0;
  // One control message, valid during the call. nullptr, or what is wrong with it: the session
  // ends.
  virtual const char* mux_control(std::span<const uint8_t> message) = 0;
  // The session, if there was one, is over; its streams are detached. `reason` is one clause. The
  // link must not be destroyed in here.
  virtual void mux_lost(const char* reason) = 0;

 protected:
  ~MuxHandler() = default;
};

class MuxLink {
 public:
  MuxLink(Poller& poller, MuxHandler& handler);
  MuxLink(const MuxLink&) = delete;
  MuxLink& operator=(const MuxLink&) = delete;
  ~MuxLink() { stop(); }

  // The monitor's end: opens a session. The descriptor must be non-blocking, SIGPIPE ignored.
  bool start(UniqueFd fd, const MuxNonce& nonce);
  // The agent's end: answers whoever opens a session. When the other end hangs up (a virtio port
  // goes on reporting that), the link is deaf until listen().
  bool serve(UniqueFd fd);
  void listen();
  // Closes the descriptor without another word to anybody.
  void stop();

  bool open() const { return watch_.active(); }
  bool in_session() const { return reader_.in_session(); }
  // Queues one control message; dropped when there is no session. False: over 8 MiB.
  bool send_control(std::span<const uint8_t> message);
  // Stops reading for a while: whoever takes the control messages cannot keep up.
  void pause(bool paused);

  // For streams: frames put here are written at the end of this round of the loop.
  MuxWriter& writer();
  // Data should wait for link_ready(): the peer does not keep up.
  bool congested() const { return writer_.size() >= kHighWater || congested_; }

 private:
  friend class MuxStream;
  // Buffers are kept between the rounds of a transfer, and for so long after it.
  static constexpr uint32_t kTrimMs = 100;
  static constexpr size_t kHighWater = 256u << 10;
  static constexpr size_t kLowWater = 64u << 10;
  // Control messages have no flow control; a peer that never reads them is given up.
  static constexpr size_t kMostBacklog = 32u << 20;

  void ready(uint32_t events);
  void receive();
  void dispatch();
  const char* deliver(const MuxFrame& frame);
  void flush();
  void trim();
  void wake_streams();
  void wait_for();
  void session_began();
  void lose(const char* reason);
  void drop_streams();
  MuxStream* find(uint32_t id);

  Poller& poller_;
  MuxHandler& handler_;
  Watch watch_;
  Timer flush_;
  Timer trim_;
  MuxReader reader_;
  MuxWriter writer_;
  MuxStream* streams_ = nullptr;
  bool agent_ = false;
  bool deaf_ = false;  // the other end has hung up
  bool paused_ = false;
  bool blocked_ = false;    // the descriptor takes nothing more
  bool congested_ = false;  // streams wait for link_ready()
};

}  // namespace bulkhead
