#include <signal.h>
#include <sys/wait.h>

#include "shim/engine_link.h"
#include "shim/log.h"
#include "shim/process.h"

namespace bulkhead::shim {

namespace {

constexpr uint32_t kSweepMs = 100;
constexpr uint32_t kOrphanRetryMs = 10;

}  // namespace

ProcessTable::ProcessTable(Poller& poller, EngineLink& engine, const Install& install)
    : poller_(poller),
      engine_(engine),
      install_(install),
      sweep_(poller, on_timer<ProcessTable, &ProcessTable::sweep>, this),
      orphans_(poller, on_timer<ProcessTable, &ProcessTable::reap_orphans>, this) {}

ProcessTable::~ProcessTable() {
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

Process* ProcessTable::find(pid_t pid) {
  Process* process = processes_;
  while (process != nullptr && !process->owns(pid)) process = process->next_;
  return process;
}

void ProcessTable::remove(Process* process) {
  Process** link = &processes_;
  while (*link != process) link = &(*link)->next_;
  *link = process->next_;
  if (!process->stdio().draining()) {
    delete process;
    return;
  }
  process->next_ = leaving_;
  leaving_ = process;
  sweep_.arm(kSweepMs);
}

void ProcessTable::sweep() {
  for (Process** link = &leaving_; *link != nullptr;) {
    Process* process = *link;
    if (process->stdio().draining()) {
      link = &process->next_;
      continue;
    }
    *link = process->next_;
    delete process;
  }
  if (leaving_ != nullptr) sweep_.arm(kSweepMs);
}

// A supervisor has ended: what it watched over ends too, before it can go on unwatched. Here and
// not in the engine, which may be away.
void ProcessTable::end_dependents(std::string_view key) {
  for (Process* process = processes_; process != nullptr; process = process->next_) {
    if (process->dies_with_ == key && !process->exited()) process->kill_all();
  }
}

void ProcessTable::reply(uint64_t request, int err) {
  engine_.send(encode_reply(request, err));
}

void ProcessTable::refuse(const ToMonitor& message, std::string_view op, int err,
                          std::string_view path) {
  LaunchFailure failure;
  failure.request = message.request;
  failure.key = message.key;
  failure.err = err;
  failure.op = op;
  failure.path = path;
  engine_.send(encode_launch_failed(failure));
}

void ProcessTable::launch(const ToMonitor& message) {
  if (find(message.key) != nullptr) {
    refuse(message, "duplicate key", EEXIST, "");
    return;
  }
  if (!message.dies_with.empty()) {
    const Process* guard = find(message.dies_with);
    if (guard == nullptr || guard->exited()) {
      refuse(message, "dies with", ESRCH, message.dies_with);
      return;
    }
  }
  if (!init_) {
    std::string path = install_.init();
    auto init = open_init(path.c_str());
    if (!init) {
      refuse(message, "exec bulkhead-init", init.error().code, path);
      return;
    }
    init_ = init.take();
  }
  auto* process = new Process(*this, poller_, message.key, message.dies_with);
  ProcessStdio& stdio = process->stdio();
  if (Status opened = stdio.open(message.stdio); !opened) {
    refuse(message, "open stdio", opened.error().code, stdio.path());
    delete process;
    return;
  }
  LaunchArgs args;
  args.init_fd = init_.get();
  args.plan = message.plan;
  for (int i = 0; i < 3; i++) args.stdio[i] = stdio.process_fd(i);
  args.exit_signal = SIGCHLD;
  auto outer = bulkhead::launch(args);
  if (!outer) {
    refuse(message, outer.error().op, outer.error().code, "");
    delete process;
    return;
  }
  stdio.launched();
  process->next_ = processes_;
  processes_ = process;
  process->begin(outer.take(), message.request);
}

void ProcessTable::proceed(const ToMonitor& message) {
  Process* process = find(message.key);
  if (process == nullptr || process->exited()) {
    refuse(message, "continue", ESRCH, "");
    return;
  }
  process->proceed(message.request);
}

void ProcessTable::signal(const ToMonitor& message) {
  Process* process = find(message.key);
  reply(message.request,
        process == nullptr ? ESRCH : process->signal(static_cast<int>(message.signal)));
}

void ProcessTable::resize(const ToMonitor& message) {
  Process* process = find(message.key);
  int err = ESRCH;
  if (process != nullptr && !process->exited())
    err = process->stdio().resize(message.width, message.height);
  reply(message.request, err);
}

void ProcessTable::close_stdin(const ToMonitor& message) {
  Process* process = find(message.key);
  if (process != nullptr) process->stdio().close_stdin();
  reply(message.request, process == nullptr ? ESRCH : 0);
}

void ProcessTable::forget(const ToMonitor& message) {
  Process* process = find(message.key);
  if (process == nullptr) {
    reply(message.request, ESRCH);
    return;
  }
  if (!process->exited()) {
    reply(message.request, EBUSY);
    return;
  }
  remove(process);
  reply(message.request, 0);
}

void ProcessTable::add_states(HelloBuilder& hello) const {
  for (const Process* process = processes_; process != nullptr; process = process->next_) {
    // A launch that is about to fail is as good as gone.
    if (process->phase_ != Process::Phase::kFailing) hello.add(process->state());
  }
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

}  // namespace bulkhead::shim
