// A process that a guest's agent launched, as the engine sees it: the same life, answers and exit
// record as a process of the host (core/process.h), told by the agent instead of by pidfds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/mux_link.h"
#include "core/poller.h"
#include "core/process.h"
#include "shim/guest_messages.h"
#include "shim/guest_stdio.h"

namespace bulkhead::shim {

class GuestProcess {
 public:
  GuestProcess(Poller& poller, MuxLink& link, ProcessEvents& events, std::string_view key,
               uint64_t request);
  GuestProcess(const GuestProcess&) = delete;
  GuestProcess& operator=(const GuestProcess&) = delete;

  const std::string& key() const { return key_; }
  GuestStdio& stdio() { return stdio_; }
  ProcessState state() const;
  // Its exit was told.
  bool exited() const { return phase_ == Phase::kExited; }
  // It lives, as far as the agent has said.
  bool alive() const { return phase_ < Phase::kExiting; }

  // Continue of the engine: true when the agent is to be asked.
  bool proceed(uint64_t request);
  // The engine is another one: nobody waits for an answer any more.
  void forget_request() {
    request_ = 0;
    forget_request_ = 0;
  }

  // The agent's messages. Those that its state does not expect change nothing.
  void launched(uint32_t pid, std::string_view paused_at);
  void started(uint32_t pid);
  // True: the launch had not been answered; it is now, and the process is to be forgotten.
  bool launch_failed(const FromAgent& message);
  void ended(uint32_t wait_status);
  // The guest is gone. True: as above.
  bool lost();

  // Forgotten now, what it wrote could be lost: not all of it was read.
  bool awaits_reader() const;
  // The engine waits for that to be over. 0: it does not.
  uint64_t forgetting() const { return forget_request_; }
  void forget_later(uint64_t request) { forget_request_ = request; }

  // Forgotten by the engine, while output is still on its way.
  void leave() { left_at_ms_ = Poller::now_ms(); }
  bool may_go() const;

  GuestProcess* next = nullptr;

 private:
  // In the order of life.
  enum class Phase : uint8_t { kStarting, kPaused, kContinuing, kRunning, kExiting, kExited };

  static void stdio_changed(void* self);
  void check_exit();
  void await_reader();
  void tell_exit();
  void runs();
  bool launching() const { return phase_ == Phase::kStarting || phase_ == Phase::kContinuing; }

  ProcessEvents& events_;
  std::string key_;
  Phase phase_ = Phase::kStarting;
  uint64_t request_;  // of the engine, that Launched or Started will answer
  uint64_t forget_request_ = 0;
  bool executed_ = false;
  std::string paused_at_;
  uint32_t pid_ = 0;
  uint32_t wait_status_ = 0;
  uint64_t ended_at_ns_ = 0;
  uint64_t ended_ms_ = 0;
  // Since when its output waits in the fifos; 0: it is not all there.
  uint64_t settled_ms_ = 0;
  uint32_t look_delay_ms_ = 0;
  uint64_t left_at_ms_ = 0;
  uint64_t written_ = 0;  // at the last look
  Timer exit_timer_;
  GuestStdio stdio_;
};

}  // namespace bulkhead::shim
