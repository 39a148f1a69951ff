// The monitor's connection to the engine: framed messages both ways, and a new connection (and a
// new engine, if need be) whenever it is lost.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/bytes.h"
#include "core/fd.h"
#include "core/poller.h"
#include "shim/install.h"

namespace bulkhead::shim {

class EngineHandler {
 public:
  // Connected: Hello and everything unanswered are to be sent now.
  virtual void engine_up() = 0;
  virtual void engine_down() = 0;
  // One whole message, valid during the call. False: malformed, the connection is given up.
  virtual bool engine_message(std::span<const uint8_t> message) = 0;
  // What waited for a slow engine has been written.
  virtual void engine_drained() = 0;

 protected:
  ~EngineHandler() = default;
};

class EngineLink {
 public:
  EngineLink(Poller& poller, const Install& install, EngineHandler& handler);

  // Uses the launcher's connection first, when there is one.
  void start(UniqueFd connection);
  bool up() const { return watch_.active(); }
  // Queues a framed message; dropped while the engine is away (Hello tells the new one everything).
  void send(std::string_view frame);
  // StreamData of a containerd connection.
  void send_stream(uint32_t conn, std::span<const uint8_t> data);
  // Bytes that the engine has not taken yet.
  size_t backlog() const { return out_.size(); }
  // The engine answered properly: the next loss is followed by an immediate attempt again.
  void welcomed() { failures_ = 0; }
  // Writes what waits, for at most `timeout_ms`, and hangs up for good.
  void finish(int timeout_ms);

 private:
  void adopt(UniqueFd connection);
  void attempt();
  void lost(const char* why);
  void ready(uint32_t events);
  bool receive();
  bool dispatch();
  void flush();

  Poller& poller_;
  const Install& install_;
  EngineHandler& handler_;
  Watch watch_;
  Timer retry_;
  ByteQueue in_;
  ByteQueue out_;
  uint32_t failures_ = 0;
};

}  // namespace bulkhead::shim
