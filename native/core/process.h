// Processes started by a plan, for who holds them (the monitor on the host, the agent in a guest):
// launching, gates, exit records.
//
//   Launch ─► starting ─► paused ─► continuing ─► … ─► running ─► exited ─► (Forget)
//                │                       │
//                └───────► failing ◄─────┘   everything reaped, LaunchFailed, key free again
//
// An exit is told after the Launched or Started of its process, however short it lived.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/fd.h"
#include "core/launch.h"
#include "core/poller.h"

namespace bulkhead {

class ProcessTable;

// ProcessState of executor.proto.
struct ProcessState {
  std::string_view key;
  uint32_t pid = 0;
  std::string_view paused_at;
  bool exited = false;
  uint32_t wait_status = 0;
  uint64_t exited_at_ns = 0;
  bool output_waits = false;
  bool running = false;
};

// LaunchFailed of executor.proto.
struct LaunchFailure {
  uint64_t request = 0;
  std::string_view key;
  const StepFailure* step = nullptr;  // or errno, op and path
  int32_t err = 0;
  std::string_view op;
  std::string_view path;
  uint32_t wait_status = 0;
};

// Launch of executor.proto, without its streams. Views are borrowed for the call.
struct LaunchRequest {
  uint64_t request = 0;
  std::string_view key;
  std::span<const uint8_t> plan;
  std::string_view dies_with;
  bool hold_mounts = false;
};

// The standard streams of one process.
class ProcessStreams {
 public:
  virtual ~ProcessStreams() = default;
  // Opens them. On error path() is the object.
  virtual Status open() = 0;
  virtual const std::string& path() const = 0;
  // What becomes 0, 1 and 2 of the process; -1: /dev/null. Borrowed, until launched().
  virtual int process_fd(int number) const = 0;
  // The process has its own descriptors now.
  virtual void launched() = 0;
  // The pty's master has come.
  virtual void set_console(UniqueFd master) = 0;
  // The gate "start" opens: what becomes its standard input; -1: nothing to hand over.
  virtual UniqueFd open_late_stdin() = 0;
  // TIOCSWINSZ. An errno; 0 when there is no terminal (yet).
  virtual int resize(uint32_t width, uint32_t height) = 0;
  virtual void close_stdin() = 0;
  // The process ended: what it wrote is still delivered.
  virtual void process_ended() = 0;
  // Output is still on its way to its reader: the streams outlive the record.
  virtual bool draining() const = 0;
  // Output waits for a reader that has never been there: forgotten now, it would be lost.
  virtual bool awaits_reader() const = 0;
  // Output is where its reader can have it, and has not taken it yet.
  virtual bool undelivered() const { return false; }
  // The launch was cut short together with who had asked for it, and is likely to be asked for
  // again. True: the streams stay as they are until then, for an end of file now would be the
  // client's last.
  virtual bool await_next() { return false; }
  // Those of the launch that was cut short, which go now.
  virtual void follow(const ProcessStreams& /*earlier*/) {}
};

// Who is told. The messages are those of executor.proto.
class ProcessEvents {
 public:
  virtual void launched(uint64_t request, const ProcessState& process) = 0;
  virtual void launch_failed(const LaunchFailure& failure) = 0;
  virtual void launch_warning(std::string_view key, const StepFailure& warning) = 0;
  virtual void started(uint64_t request, const ProcessState& process) = 0;
  virtual void exited(const ProcessState& process) = 0;
  virtual void reply(uint64_t request, int err) = 0;
  // A line for the log: "what: reason of err".
  virtual void process_warning(const std::string& what, int err) = 0;

 protected:
  ~ProcessEvents() = default;
};

class Process {
 public:
  Process(ProcessTable& table, const LaunchRequest& request,
          std::unique_ptr<ProcessStreams> streams);

  void begin(LaunchedOuter outer);
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
  // What has not executed has written nothing that a reader could come for.
  bool can_be_forgotten() const {
    return !releasing_.active() && (!executed_ || !streams_->awaits_reader());
  }
  ProcessState state() const;
  ProcessStreams& streams() { return *streams_; }

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
  void tell_exit();
  void fail();
  void kill_all();
  void hold_mounts();
  void release_mounts();
  void mounts_released(uint32_t events);
  bool launching() const { return phase_ == Phase::kStarting || phase_ == Phase::kContinuing; }
  bool all_reaped() const { return !outer_alive_ && !(cloned_ && main_alive_); }

  ProcessTable& table_;
  std::string key_;
  std::string dies_with_;  // key of the process that this one must not outlive; may be empty
  bool holds_mounts_ = false;
  Phase phase_ = Phase::kStarting;
  uint64_t request_ = 0;
  bool cloned_ = false;
  bool outer_alive_ = true;
  bool main_alive_ = true;
  bool never_executed_ = false;  // ended before it
  bool executed_ = false;        // execve done
  bool abandoned_ = false;       // who asked for the launch has gone, and nobody has let it through
  uint64_t untold_until_ms_ = 0;  // the exit waits for the output's reader; 0: it does not
  uint64_t kept_until_ms_ = 0;    // its streams await the next launch; 0: they do not
  bool step_failed_ = false;
  StepFailure failure_;
  Error error_;  // of ours, which the launch failed with; code 0: none
  std::string paused_at_;
  pid_t outer_pid_ = 0;
  pid_t pid_ = 0;  // the container's process; the outer one when the plan has no Clone
  int outer_status_ = 0;
  int wait_status_ = 0;
  uint64_t ended_at_ns_ = 0;
  Watch sync_;
  Watch outer_;
  Watch main_;
  UniqueFd mounts_;              // the process's mount namespace, which so outlives it
  Watch releasing_;              // until its file systems are unmounted
  uint64_t forget_request_ = 0;  // waits for that, or for a reader; 0: none
  std::unique_ptr<ProcessStreams> streams_;
  Process* next_ = nullptr;
};

class ProcessTable {
 public:
  // `init_path` is bulkhead-init; it is opened at the first launch, or for a spare.
  ProcessTable(Poller& poller, ProcessEvents& events, std::string init_path);
  ProcessTable(const ProcessTable&) = delete;
  ProcessTable& operator=(const ProcessTable&) = delete;
  ~ProcessTable();

  // Starts one already for the next launch; `network`: which will want a new network namespace.
  void make_spare(bool network);
  // Uses this descriptor of bulkhead-init instead.
  void set_init(UniqueFd init) { init_ = std::move(init); }
  // RLIMIT_NOFILE of what is launched, instead of our own.
  void set_open_files(const rlimit& limit) { open_files_ = limit; }

  // The messages of that name; each is answered through ProcessEvents.
  void launch(const LaunchRequest& request, std::unique_ptr<ProcessStreams> streams);
  void proceed(uint64_t request, std::string_view key);
  void signal(uint64_t request, std::string_view key, int signum);
  void resize(uint64_t request, std::string_view key, uint32_t width, uint32_t height);
  void close_stdin(uint64_t request, std::string_view key);
  void forget(uint64_t request, std::string_view key);
  // Nobody waits for answers any more; numbers of requests begin anew.
  void requester_gone();

  bool has(std::string_view key) const;
  // Calls `visit(ProcessState)` for every process there is, exited ones too.
  template <class Visit>
  void each_state(Visit visit) const {
    for (const Process* process = processes_; process != nullptr; process = process->next_) {
      // A launch that is about to fail is as good as gone.
      if (process->phase_ != Process::Phase::kFailing) visit(process->state());
    }
  }
  // Reaps orphans that came to us as their subreaper, or as init.
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
  bool keep_streams(Process& process);
  void end_earlier(std::string_view key, ProcessStreams& streams);
  void finish_forget(Process* process);
  void finish_forgets();
  void tell_late(Process& process);
  void tell_exits();
  void end_dependents(std::string_view key);
  void refuse(const LaunchRequest& request, std::string_view op, int err, std::string_view path);
  void sweep();
  // Opens bulkhead-init (open_init), once.
  Status prepare();
  Result<LaunchedOuter> launch_outer(const LaunchArgs& args);
  const rlimit* open_files() const { return open_files_ ? &*open_files_ : nullptr; }
  void end_spare();

  Poller& poller_;
  ProcessEvents& events_;
  std::string init_path_;
  UniqueFd init_;
  std::optional<rlimit> open_files_;
  LaunchedOuter spare_;
  Process* processes_ = nullptr;
  // Forgotten, but output is still being read, or the next launch of that key is awaited.
  Process* leaving_ = nullptr;
  Timer sweep_;
  Timer forgets_;
  Timer exits_;
  uint32_t exits_delay_ms_ = 0;
  Timer orphans_;
};

}  // namespace bulkhead
