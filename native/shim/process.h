// The pod's processes: launching, gates, exit records.
//
//   Launch ─► starting ─► paused ─► continuing ─► … ─► running ─► exited ─► (Forget)
//                │                       │
//                └───────► failing ◄─────┘   everything reaped, LaunchFailed, key free again
//
// An exit is told after the Launched or Started of its process, however short it lived.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "core/fd.h"
#include "core/launch.h"
#include "core/poller.h"
#include "shim/install.h"
#include "shim/messages.h"
#include "shim/stdio.h"

namespace bulkhead::shim {

class EngineLink;
class ProcessTable;

class Process {
 public:
  Process(ProcessTable& table, Poller& poller, std::string_view key, std::string_view dies_with);

  void begin(LaunchedOuter outer, uint64_t request);
  void proceed(uint64_t request);
  int signal(int signum);
  // A child of ours that waitid(2) found: true when it is one of this process's two, not reaped yet
  // (a pid is free for others from then on).
  bool owns(pid_t pid) const {
    return (outer_.active() && pid == outer_pid_) || (main_.active() && pid == pid_);
  }
  // A clone may be there whose report has not come yet.
  bool may_clone() const {
    return outer_.active() && !cloned_ && phase_ == Phase::kStarting && sync_.active();
  }
  // Takes in what has happened: reports of the sync socket, exits.
  void look();

  const std::string& key() const { return key_; }
  bool exited() const { return phase_ == Phase::kExited; }
  bool waits() const { return phase_ == Phase::kPaused; }
  ProcessState state() const;
  ProcessStdio& stdio() { return stdio_; }

 private:
  friend class ProcessTable;
  enum class Phase : uint8_t { kStarting, kPaused, kContinuing, kRunning, kExited, kFailing };

  void sync_ready(uint32_t events);
  void outer_ready(uint32_t events);
  void main_ready(uint32_t events);
  void read_reports();
  void take_report(InitEvent& event);
  void cloned(pid_t pid);
  void reap_outer();
  void reap_main();
  void record_exit(int wait_status);
  bool settle();
  void settle_launch();
  void fail();
  void kill_all();
  bool launching() const { return phase_ == Phase::kStarting || phase_ == Phase::kContinuing; }
  bool all_reaped() const { return !outer_alive_ && !(cloned_ && main_alive_); }

  ProcessTable& table_;
  Poller& poller_;
  std::string key_;
  std::string dies_with_;  // key of the process that this one must not outlive; may be empty
  Phase phase_ = Phase::kStarting;
  uint64_t request_ = 0;
  bool cloned_ = false;
  bool outer_alive_ = true;
  bool main_alive_ = true;
  bool never_executed_ = false;  // ended before it
  bool executed_ = false;        // execve done
  bool step_failed_ = false;
  StepFailure failure_;
  std::string paused_at_;
  pid_t outer_pid_ = 0;
  pid_t pid_ = 0;  // the container's process; the outer one when the plan has no Clone
  int outer_status_ = 0;
  int wait_status_ = 0;
  uint64_t ended_at_ns_ = 0;
  Watch sync_;
  Watch outer_;
  Watch main_;
  ProcessStdio stdio_;
  Process* next_ = nullptr;
};

class ProcessTable {
 public:
  ProcessTable(Poller& poller, EngineLink& engine, const Install& install);
  ProcessTable(const ProcessTable&) = delete;
  ProcessTable& operator=(const ProcessTable&) = delete;
  ~ProcessTable();

  // The engine's messages of that name.
  void launch(const ToMonitor& message);
  void proceed(const ToMonitor& message);
  void signal(const ToMonitor& message);
  void resize(const ToMonitor& message);
  void close_stdin(const ToMonitor& message);
  void forget(const ToMonitor& message);

  void add_states(HelloBuilder& hello) const;
  // Reaps orphans that came to us as their subreaper.
  void reap_orphans();
  // Nothing is launched, runs or waits.
  bool idle() const;
  // Nothing is remembered either.
  bool empty() const { return processes_ == nullptr; }

 private:
  friend class Process;

  Process* find(std::string_view key);
  Process* find(pid_t pid);
  bool look_for_clones();
  void remove(Process* process);
  void end_dependents(std::string_view key);
  void reply(uint64_t request, int err);
  void refuse(const ToMonitor& message, std::string_view op, int err, std::string_view path);
  void sweep();

  Poller& poller_;
  EngineLink& engine_;
  const Install& install_;
  UniqueFd init_;
  Process* processes_ = nullptr;
  Process* leaving_ = nullptr;  // forgotten, but output of its terminal is still being read
  Timer sweep_;
  Timer orphans_;
};

}  // namespace bulkhead::shim
