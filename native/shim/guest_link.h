// The monitor's channel to one guest's agent (core/mux_link.h, proto/agent.proto): connecting, the
// processes that the agent launched, and the engine's calls to it. The guest is not trusted: what
// does not belong ends the channel with one reason, and no more is kept for it than bounds allow.
//
//   connecting ─► greeting ─► open ─► gone        gone stays while the engine remembers processes
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/mux_link.h"
#include "core/poller.h"
#include "core/process.h"
#include "core/vsock.h"
#include "shim/guest_process.h"
#include "shim/messages.h"

namespace bulkhead::shim {

// What the engine is told besides what ProcessEvents says.
class GuestEvents {
 public:
  virtual void guest_reply(uint64_t request, int err, std::span<const uint8_t> bytes,
                           std::string_view what) = 0;
  virtual void guest_event(std::string_view guest, std::span<const uint8_t> event) = 0;
  virtual void guest_closed(std::string_view guest, std::string_view reason) = 0;
  // Control messages are to wait until the engine has read what there is.
  virtual bool engine_is_slow() = 0;
  // Something may be ready to be swept.
  virtual void guest_settled() = 0;

 protected:
  ~GuestEvents() = default;
};

class GuestLink final : private MuxHandler {
 public:
  GuestLink(Poller& poller, ProcessEvents& processes, GuestEvents& guests, std::string_view name);
  GuestLink(const GuestLink&) = delete;
  GuestLink& operator=(const GuestLink&) = delete;
  ~GuestLink();

  const std::string& name() const { return name_; }
  bool open() const { return phase_ == Phase::kOpen; }
  bool gone() const { return phase_ == Phase::kGone; }

  // GuestConnect; answered by guest_reply.
  void connect(const ToMonitor& message);
  // The hypervisor that was waited for has ended.
  void host_process_ended(std::string_view key);
  void engine_down();
  void resume();

  void call(const ToMonitor& message);
  void launch(const ToMonitor& message);
  // Of a process of this guest.
  void proceed(GuestProcess& process, uint64_t request);
  void signal(GuestProcess& process, const ToMonitor& message);
  void resize(GuestProcess& process, const ToMonitor& message);
  void close_stdin(GuestProcess& process, uint64_t request);
  void forget(GuestProcess& process, uint64_t request);

  GuestProcess* find(std::string_view key);
  GuestProcess* processes() { return processes_; }
  // Frees what has left. True: nothing is left of this guest.
  bool sweep();
  // sweep() has to be called again in a while.
  bool leaving() const { return leaving_ != nullptr; }

  GuestLink* next = nullptr;

 private:
  enum class Phase : uint8_t { kConnecting, kGreeting, kOpen, kGone };
  // A Call, or a Signal or Resize, that the agent has not answered.
  struct Pending {
    uint64_t number;   // the agent's
    uint64_t request;  // the engine's; 0: it is another one now
    uint64_t due_ms;
    bool call;
  };

  void mux_session() override { answered_ = true; }
  const char* mux_control(std::span<const uint8_t> message) override;
  void mux_lost(const char* reason) override;

  void attempt();
  void dialed(uint32_t events);
  void attempt_later(uint32_t left_ms);
  void begin_session(UniqueFd connection, uint32_t left_ms);
  void refuse_connection(int err, const char* what);
  void greeting_lost(const char* reason);
  void count_unasked();
  void refill();
  void pause_or_go_on() { link_.pause(engine_slow_ || flooding_); }
  const char* greet(const FromAgent& hello);
  const char* dispatch(const FromAgent& message);
  void answer(const FromAgent& message);
  void take_process_message(const FromAgent& message);
  bool remember(uint64_t request, bool call, uint32_t deadline_ms);
  void settle(const Pending& pending, int err, std::span<const uint8_t> bytes, const char* what);
  void expire();
  void arm_expiry();
  void send(const std::string& message);
  void drop(GuestProcess* process);
  void finish_forget(GuestProcess& process, uint64_t request);
  void finish_forgets();

  Poller& poller_;
  ProcessEvents& process_events_;
  GuestEvents& events_;
  std::string name_;
  Phase phase_ = Phase::kConnecting;
  MuxLink link_;

  std::string socket_path_;
  // By vsock: a guest that has just been copied may drop a connection without a word.
  bool vsock_ = false;
  VsockAddress vsock_address_;
  Watch dial_;  // a connection that is not there yet
  uint32_t patience_ms_ = 0;
  bool answered_ = false;   // the agent's preamble came
  std::string hypervisor_;  // key; empty: unknown
  uint64_t connect_request_ = 0;
  uint64_t connect_due_ms_ = 0;
  uint32_t attempts_ = 0;
  Timer retry_;

  bool engine_slow_ = false;
  // What nobody asked for (events, warnings) and would cost the engine its time: a bucket of
  // tokens.
  bool flooding_ = false;
  bool flooded_ = false;  // ever
  uint32_t tokens_;
  uint64_t refilled_ms_ = 0;
  Timer refill_;

  uint64_t next_number_ = 1;
  uint32_t next_stream_ = 1;
  std::vector<Pending> pending_;
  Timer expiry_;
  Timer forgets_;
  GuestProcess* processes_ = nullptr;
  GuestProcess* leaving_ = nullptr;  // forgotten, but output is still on its way
};

}  // namespace bulkhead::shim
