// containerd's connections. ttrpc is relayed frame by frame, and every request is kept until its
// response went out, so that a new engine can be asked again (but for what the engine left an
// answer to); HTTP/2 is relayed as bytes and ends with the engine that served it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/bytes.h"
#include "core/fd.h"
#include "core/poller.h"
#include "shim/left_answers.h"
#include "shim/ttrpc_frame.h"

namespace bulkhead::shim {

class EngineLink;
class Relay;

// A frame of containerd's that the engine may have to be given again. Lives in one malloc'd block
// with its bytes.
struct PendingFrame {
  PendingFrame* next;
  uint32_t stream;
  uint32_t size;
  uint8_t type;
  uint8_t flags;
  bool sent;
  uint8_t bytes[];
};

class Connection {
 public:
  enum class Protocol : uint8_t { kUnknown, kTtrpc, kGrpc };

  Connection(Relay& relay, uint32_t id) : relay_(relay), id_(id) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  bool start(Poller& poller, UniqueFd socket);
  uint32_t id() const { return id_; }
  Protocol protocol() const { return protocol_; }

  // From the engine: to containerd. False: the connection is to be dropped (its reader sleeps, or
  // the engine's frame is none).
  bool deliver(std::span<const uint8_t> data);
  // From the engine: no more is to come; closes when everything is written. True: that is now.
  bool finish();

  // A new engine: opens the stream there and asks everything unanswered again.
  void replay();
  // The engine is gone. Streaming calls cannot be asked again and are answered "unavailable".
  void engine_lost();
  // Whether containerd is read from.
  void pause(bool paused);

 private:
  friend class Relay;

  void ready(uint32_t events);
  bool receive();
  bool split();
  bool take_frame(std::span<const uint8_t> bytes, uint32_t stream, uint8_t type, uint8_t flags);
  bool write_out();
  bool queue(std::span<const uint8_t> data);
  bool refuse(uint32_t stream, RpcCode code, std::string_view text);
  void settle(uint32_t stream);
  void remember(std::span<const uint8_t> bytes, uint32_t stream, uint8_t type, uint8_t flags,
                bool sent);
  void release(PendingFrame** link);
  void update_interest();

  Relay& relay_;
  uint32_t id_;
  Protocol protocol_ = Protocol::kUnknown;
  bool paused_ = false;
  bool finishing_ = false;
  Watch watch_;
  size_t skip_ = 0;  // bytes of a refused frame that are still to come
  ByteQueue in_;
  ByteQueue out_;
  PendingFrame* pending_ = nullptr;
  Connection* next_ = nullptr;
};

class Relay {
 public:
  Relay(Poller& poller, EngineLink& engine)
      : poller_(poller),
        engine_(engine),
        accept_again_(poller, on_timer<Relay, &Relay::accept_again>, this) {}
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  ~Relay();

  bool start(UniqueFd listener);
  void stream_data(uint32_t conn, std::span<const uint8_t> data);
  void stream_close(uint32_t conn);
  // The engine leaves an answer with us, or takes it back.
  void left_answer(std::string_view method, std::span<const uint8_t> request,
                   std::span<const uint8_t> response) {
    answers_.set(method, request, response);
  }
  void engine_up();
  void engine_down();
  void engine_drained() { balance(); }
  // Nobody is connected.
  bool empty() const { return connections_ == nullptr; }
  // Stops listening and writes what waits, for at most `timeout_ms`.
  void finish(int timeout_ms);

 private:
  friend class Connection;

  void accept_ready(uint32_t events);
  void accept_again();
  Connection* find(uint32_t conn);
  // Closes and forgets it; the engine is told unless it asked for it itself.
  void drop(Connection* connection, bool tell);
  // Reads from containerd only as fast as the engine takes it.
  void balance();

  Poller& poller_;
  EngineLink& engine_;
  Watch listener_;
  Timer accept_again_;
  bool refused_ = false;  // by the kernel, the last time
  LeftAnswers answers_;
  Connection* connections_ = nullptr;
  uint32_t next_id_ = 1;
  size_t pending_bytes_ = 0;
  bool paused_ = false;
};

}  // namespace bulkhead::shim
