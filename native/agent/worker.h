// Calls that may wait or hang, each in a forked process of its own: PID 1 itself never blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "agent/messages.h"
#include "core/bytes.h"
#include "core/poller.h"

namespace bulkhead::agent {

// Who hears of a worker's result: an encoded CallReply and its errno.
class WorkerOwner {
 public:
  virtual void worker_done(uint64_t request, int err, std::string_view reply) = 0;

 protected:
  ~WorkerOwner() = default;
};

class WorkerTable;

class Worker {
 public:
  Worker(WorkerTable& table, Poller& poller, uint64_t request);
  // Error: nothing was started.
  Status start(CallReply (*work)(const Call&), const Call& call, uint32_t timeout_ms);

 private:
  friend class WorkerTable;
  void result_ready(uint32_t events);
  void too_late();
  void finish(int err, std::string_view reply);

  WorkerTable& table_;
  Poller& poller_;
  uint64_t request_;
  bool wanted_ = true;
  bool done_ = false;
  UniqueFd pidfd_;
  Watch result_;
  Timer deadline_;
  ByteQueue bytes_;
  std::unique_ptr<Worker> next_;
};

class WorkerTable {
 public:
  WorkerTable(Poller& poller, WorkerOwner& owner)
      : poller_(poller),
        owner_(owner),
        sweep_(poller, on_timer<WorkerTable, &WorkerTable::sweep>, this) {}

  // Runs `work(call)` aside. After `timeout_ms` it gets SIGKILL and the answer is ETIMEDOUT, also
  // when it cannot die (a hung file system): its process is reaped when it does.
  Status start(uint64_t request, CallReply (*work)(const Call&), const Call& call,
               uint32_t timeout_ms);
  // Results of what runs now are of no interest any more.
  void forget_all();

 private:
  friend class Worker;
  static constexpr size_t kMost = 256;
  void sweep();

  Poller& poller_;
  WorkerOwner& owner_;
  std::unique_ptr<Worker> first_;
  size_t count_ = 0;
  Timer sweep_;
};

}  // namespace bulkhead::agent
