#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "core/pidfd.h"
#include "core/process.h"

namespace bulkhead {

namespace {

constexpr uint32_t kSweepMs = 100;
constexpr uint32_t kOrphanRetryMs = 10;
constexpr uint32_t kForgetCheckMs = 5;
constexpr uint32_t kExitTellsMs = 1000;
constexpr uint32_t kFirstExitCheckMs = 1;
constexpr uint32_t kLastExitCheckMs = 32;
// Until a launch that was cut short is asked for again: an engine has to start first.
constexpr uint32_t kNextLaunchMs = 10000;

}  // namespace

ProcessTable::ProcessTable(Poller& poller, ProcessEvents& events, std::string init_path)
    : poller_(poller),
      events_(events),
      init_path_(std::move(init_path)),
      sweep_(poller, on_timer<ProcessTable, &ProcessTable::sweep>, this),
      forgets_(poller, on_timer<ProcessTable, &ProcessTable::finish_forgets>, this),
      exits_(poller, on_timer<ProcessTable, &ProcessTable::tell_exits>, this),
      orphans_(poller, on_timer<ProcessTable, &ProcessTable::reap_orphans>, this) {}

ProcessTable::~ProcessTable() {
  end_spare();
  for (Process** list : {&processes_, &leaving_}) {
    while (*list != nullptr) {
      Process* process = *list;
      *list = process->next_;
      delete process;
    }
  }
}

Process* ProcessTable::find(std::string_view key) {
  Process* process = processes_;
  while (process != nullptr && process->key() != key) process = process->next_;
  return process;
}

bool ProcessTable::has(std::string_view key) const {
  const Process* process = processes_;
  while (process != nullptr && process->key() != key) process = process->next_;
  return process != nullptr;
}

Process* ProcessTable::find(pid_t pid) {
  Process* process = processes_;
  while (process != nullptr && !process->owns(pid)) process = process->next_;
  return process;
}

void ProcessTable::remove(Process* process) {
  Process** link = &processes_;
  while (*link != process) link = &(*link)->next_;
  *link = process->next_;
  if (!process->streams().draining() && !keep_streams(*process)) {
    delete process;
    return;
  }
  process->next_ = leaving_;
  leaving_ = process;
  sweep_.arm(kSweepMs);
}

// Of a launch that was cut short. False: there is nothing to keep them for.
bool ProcessTable::keep_streams(Process& process) {
  if (process.kept_until_ms_ != 0) return true;
  if (!process.abandoned_ || !process.streams().await_next()) return false;
  process.kept_until_ms_ = Poller::now_ms() + kNextLaunchMs;
  sweep_.arm(kSweepMs);
  return true;
}

// The streams of a launch of that name that was cut short go when those of the next are there: the
// client's reader sees no end of file in between.
void ProcessTable::end_earlier(std::string_view key, ProcessStreams& streams) {
  for (Process** link = &leaving_; *link != nullptr;) {
    Process* process = *link;
    if (process->kept_until_ms_ == 0 || process->key() != key) {
      link = &process->next_;
      continue;
    }
    streams.follow(process->streams());
    *link = process->next_;
    delete process;
  }
}

void ProcessTable::sweep() {
  const uint64_t now = Poller::now_ms();
  bool more = false;
  // Nobody has asked for it again, and who reads waits for the end.
  for (Process* process = processes_; process != nullptr; process = process->next_) {
    if (process->kept_until_ms_ == 0) continue;
    if (process->kept_until_ms_ > now) {
      more = true;
      continue;
    }
    process->kept_until_ms_ = 0;
    process->abandoned_ = false;
    process->streams().process_ended();
  }
  for (Process** link = &leaving_; *link != nullptr;) {
    Process* process = *link;
    if (process->streams().draining() || process->kept_until_ms_ > now) {
      link = &process->next_;
      more = true;
      continue;
    }
    *link = process->next_;
    delete process;
  }
  if (more) sweep_.arm(kSweepMs);
}

// A supervisor has ended: what it watched over ends too, before it can go on unwatched. Here and
// not in the engine, which may be away.
void ProcessTable::end_dependents(std::string_view key) {
  for (Process* process = processes_; process != nullptr; process = process->next_) {
    if (process->dies_with_ == key && !process->exited()) process->kill_all();
  }
}

void ProcessTable::refuse(const LaunchRequest& request, std::string_view op, int err,
                          std::string_view path) {
  LaunchFailure failure;
  failure.request = request.request;
  failure.key = request.key;
  failure.err = err;
  failure.op = op;
  failure.path = path;
  events_.launch_failed(failure);
}

Status ProcessTable::prepare() {
  if (init_) return success();
  auto init = open_init(init_path_.c_str());
  if (!init) return init.error();
  init_ = init.take();
  return success();
}

void ProcessTable::make_spare(bool network) {
  if (spare_.pidfd || !prepare()) return;
  auto spare = launch_spare(init_.get(), SIGCHLD, network, open_files());
  if (spare) spare_ = spare.take();
}

// It has done nothing that would have to be undone.
void ProcessTable::end_spare() {
  if (!spare_.pidfd) return;
  (void)pidfd_signal(spare_.pidfd.get(), SIGKILL).ok();
  (void)wait_pidfd(spare_.pidfd.get(), true).ok();
  spare_ = {};
}

Result<LaunchedOuter> ProcessTable::launch_outer(const LaunchArgs& args) {
  if (spare_.pidfd && begin_spare(spare_, args)) return std::exchange(spare_, {});
  end_spare();
  return bulkhead::launch(args);
}

void ProcessTable::launch(const LaunchRequest& request, std::unique_ptr<ProcessStreams> streams) {
  if (find(request.key) != nullptr) {
    refuse(request, "duplicate key", EEXIST, "");
    return;
  }
  if (!request.dies_with.empty()) {
    const Process* guard = find(request.dies_with);
    if (guard == nullptr || guard->exited()) {
      refuse(request, "dies with", ESRCH, request.dies_with);
      return;
    }
  }
  if (Status ready = prepare(); !ready) {
    refuse(request, "exec bulkhead-init", ready.error().code, init_path_);
    return;
  }
  if (Status opened = streams->open(); !opened) {
    refuse(request, "open stdio", opened.error().code, streams->path());
    return;
  }
  end_earlier(request.key, *streams);
  LaunchArgs args;
  args.init_fd = init_.get();
  args.plan = request.plan;
  for (int i = 0; i < 3; i++) args.stdio[i] = streams->process_fd(i);
  args.exit_signal = SIGCHLD;
  args.open_files = open_files();
  auto outer = launch_outer(args);
  if (!outer) {
    refuse(request, outer.error().op, outer.error().code, "");
    return;
  }
  streams->launched();
  auto* process = new Process(*this, request, std::move(streams));
  process->next_ = processes_;
  processes_ = process;
  process->begin(outer.take());
}

void ProcessTable::proceed(uint64_t request, std::string_view key) {
  Process* process = find(key);
  // One that has executed has started, also when that was long ago.
  if (process == nullptr || (process->exited() && !process->executed_)) {
    refuse({request, key, {}, {}}, "continue", ESRCH, "");
    return;
  }
  process->proceed(request);
}

void ProcessTable::signal(uint64_t request, std::string_view key, int signum) {
  Process* process = find(key);
  events_.reply(request, process == nullptr ? ESRCH : process->signal(signum));
}

void ProcessTable::resize(uint64_t request, std::string_view key, uint32_t width, uint32_t height) {
  Process* process = find(key);
  int err = ESRCH;
  if (process != nullptr && !process->exited()) err = process->streams().resize(width, height);
  events_.reply(request, err);
}

void ProcessTable::close_stdin(uint64_t request, std::string_view key) {
  Process* process = find(key);
  if (process != nullptr) process->streams().close_stdin();
  events_.reply(request, process == nullptr ? ESRCH : 0);
}

void ProcessTable::forget(uint64_t request, std::string_view key) {
  Process* process = find(key);
  if (process == nullptr || !process->exited()) {
    events_.reply(request, process == nullptr ? ESRCH : EBUSY);
    return;
  }
  process->forget_request_ = request;
  if (process->can_be_forgotten()) {
    finish_forget(process);
  } else if (process->streams().awaits_reader()) {
    forgets_.arm(kForgetCheckMs);
  }
}

void ProcessTable::requester_gone() {
  for (Process* process = processes_; process != nullptr; process = process->next_) {
    process->forget_request_ = 0;
    process->request_ = 0;
    if (process->phase_ <= Process::Phase::kPaused) process->abandoned_ = true;
  }
  for (Process* process = leaving_; process != nullptr; process = process->next_) {
    if (process->kept_until_ms_ != 0) process->kept_until_ms_ = Poller::now_ms() + kNextLaunchMs;
  }
}

// There is no event for a reader that comes.
void ProcessTable::finish_forgets() {
  bool more = false;
  for (Process* process = processes_; process != nullptr;) {
    Process* next = process->next_;
    if (process->forget_request_ != 0) {
      if (process->can_be_forgotten()) {
        finish_forget(process);
      } else {
        more = true;
      }
    }
    process = next;
  }
  if (more) forgets_.arm(kForgetCheckMs);
}

// A client that hears of an exit gives up a stream that it has not begun to read (containerd's
// Task.Delete cancels it): its reader gets the time to take what is there. It may as well be slow,
// or never come.
void ProcessTable::tell_late(Process& process) {
  process.untold_until_ms_ = Poller::now_ms() + kExitTellsMs;
  exits_delay_ms_ = kFirstExitCheckMs;
  exits_.arm(exits_delay_ms_);
}

void ProcessTable::tell_exits() {
  bool more = false;
  for (Process* process = processes_; process != nullptr; process = process->next_) {
    if (process->untold_until_ms_ == 0) continue;
    if (process->streams().undelivered() && Poller::now_ms() < process->untold_until_ms_) {
      more = true;
    } else {
      process->tell_exit();
    }
  }
  if (!more) return;
  exits_delay_ms_ = std::min(exits_delay_ms_ * 2, kLastExitCheckMs);
  exits_.arm(exits_delay_ms_);
}

void ProcessTable::finish_forget(Process* process) {
  if (process->untold_until_ms_ != 0) process->tell_exit();
  const uint64_t request = process->forget_request_;
  remove(process);
  events_.reply(request, 0);
}

// Reads the reports of launches whose clone is not known. True: some may still be under way.
bool ProcessTable::look_for_clones() {
  bool open = false;
  for (Process* process = processes_; process != nullptr; process = process->next_) {
    if (process->may_clone()) {
      process->read_reports();
      open = open || process->may_clone();
    }
  }
  return open;
}

void ProcessTable::reap_orphans() {
  for (;;) {
    siginfo_t info{};
    // WNOWAIT: the status of a process of ours belongs to its record.
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return;
    if (is_trace_stop(info)) {
      if (end_trace(info)) continue;
      // Killed meanwhile: its end is next, but maybe not yet.
      orphans_.arm(kOrphanRetryMs);
      return;
    }
    if (Process* process = find(info.si_pid)) {
      process->look();
      continue;
    }
    // A clone that died faster than its report travels is no orphan.
    bool unsure = look_for_clones();
    if (find(info.si_pid) != nullptr) continue;
    if (unsure) {
      orphans_.arm(kOrphanRetryMs);
      return;
    }
    ::waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG);
  }
}

bool ProcessTable::idle() const {
  for (const Process* process = processes_; process != nullptr; process = process->next_) {
    if (!process->exited()) return false;
  }
  return true;
}

}  // namespace bulkhead
