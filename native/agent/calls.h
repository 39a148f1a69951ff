// Which call is carried out where, and its answer.
#pragma once

#include <span>

#include "agent/messages.h"
#include "agent/oom_watch.h"
#include "agent/worker.h"
#include "core/poller.h"

namespace bulkhead::agent {

class CallsOwner {
 public:
  // A message for the host.
  virtual void send(const std::string& message) = 0;
  // The machine is to end once what was sent has gone out.
  virtual void power_off(bool reboot) = 0;

 protected:
  ~CallsOwner() = default;
};

class Calls : private WorkerOwner {
 public:
  Calls(Poller& poller, CallsOwner& owner);

  // Answers at once or when it is done.
  void start(uint64_t request, std::span<const uint8_t> encoded);
  // Events of kills that have happened go out before what follows from them.
  void tell_oom_kills() { oom_watches_.look(); }
  // Nobody waits for answers and events any more.
  void session_ended();

 private:
  void worker_done(uint64_t request, int err, std::string_view reply) override;
  void answer(uint64_t request, const CallReply& reply);
  static void oom_killed(void* self, const std::string& cgroup, uint64_t oom_kill);

  CallsOwner& owner_;
  WorkerTable workers_;
  OomWatches oom_watches_;
};

}  // namespace bulkhead::agent
