// The guests that the monitor holds channels to, and the engine's messages that concern them. A
// monitor of a wall without guests has none of it but an empty list.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/poller.h"
#include "core/process.h"
#include "shim/engine_link.h"
#include "shim/guest_link.h"
#include "shim/messages.h"

namespace bulkhead::shim {

class Guests final : private GuestEvents {
 public:
  Guests(Poller& poller, EngineLink& engine, ProcessEvents& processes);
  Guests(const Guests&) = delete;
  Guests& operator=(const Guests&) = delete;
  ~Guests();

  // The key is of a process in a guest: the messages that name it belong here.
  bool has(std::string_view key);
  void connect(const ToMonitor& message);
  void call(const ToMonitor& message);
  void launch(const ToMonitor& message);
  void proceed(const ToMonitor& message);
  void signal(const ToMonitor& message);
  void resize(const ToMonitor& message);
  void close_stdin(const ToMonitor& message);
  void forget(const ToMonitor& message);

  void add_states(HelloBuilder& hello);
  void host_process_ended(std::string_view key);
  // The engine has said Welcome: it is told what was missed.
  void engine_welcomed();
  void engine_down();
  void engine_drained();
  // Nothing is launched, runs or waits.
  bool idle();
  // Nothing is remembered either.
  bool empty() const { return links_ == nullptr; }

 private:
  void guest_reply(uint64_t request, int err, std::span<const uint8_t> bytes,
                   std::string_view what) override;
  void guest_event(std::string_view guest, std::span<const uint8_t> event) override;
  void guest_closed(std::string_view guest, std::string_view reason) override;
  bool engine_is_slow() override;
  void guest_settled() override;

  GuestLink* find_guest(std::string_view name);
  GuestLink* find(std::string_view key, GuestProcess*& process);
  void tell(const std::string& frame);
  void sweep();

  Poller& poller_;
  EngineLink& engine_;
  ProcessEvents& processes_;
  GuestLink* links_ = nullptr;
  // What happened while no engine was there to say Welcome, framed.
  std::string missed_;
  bool welcomed_ = false;
  Timer sweep_;
};

}  // namespace bulkhead::shim
