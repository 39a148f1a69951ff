// One thread, one epoll set:
//
//   containerd ── Relay ──┐                    ┌── ProcessTable ── bulkhead-init, containers, ptys,
//   fifos
//                         ├── Monitor ─────────┼── Guests ── the agents in virtual machines
//   engine ── EngineLink ─┘   (dispatch)       └── signalfd: SIGCHLD, SIGTERM, SIGINT
//
// It decides nothing: the engine says what to launch and what to answer. It must survive the
// engine, so everything that cannot be had twice is here: the listening socket, containerd's
// connections and unanswered requests, the parenthood of the pod's processes, their terminals,
// fifos and exit statuses.
#include "shim/monitor.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/poller.h"
#include "core/process.h"
#include "shim/engine_link.h"
#include "shim/guests.h"
#include "shim/log.h"
#include "shim/relay.h"
#include "shim/stdio.h"

namespace bulkhead::shim {

namespace {

constexpr int kFlushMs = 2000;
constexpr uint32_t kTrimMs = 1000;
constexpr uint32_t kAbandonedMs = 10000;
constexpr int kLargeBlock = 64 << 10;

class Monitor : public EngineHandler, private ProcessEvents {
 public:
  Monitor(const Hello& hello, const Install& install, ShimSocket socket)
      : hello_(hello),
        socket_(std::move(socket)),
        engine_(poller_, install, *this),
        relay_(poller_, engine_),
        processes_(poller_, *this, install.init()),
        guests_(poller_, engine_, *this),
        trim_(poller_, on_timer<Monitor, &Monitor::trim>, this),
        abandoned_(poller_, on_timer<Monitor, &Monitor::leave_if_abandoned>, this) {}

  // `network`: the first container will have a network namespace of its own.
  int run(UniqueFd engine, bool network);

  void engine_up() override;
  void engine_down() override;
  bool engine_message(std::span<const uint8_t> bytes) override;
  void engine_drained() override {
    relay_.engine_drained();
    guests_.engine_drained();
  }

 private:
  void launched(uint64_t request, const ProcessState& process) override {
    engine_.send(encode_launched(request, process.key, process.pid, process.paused_at));
  }
  void launch_failed(const LaunchFailure& failure) override {
    engine_.send(encode_launch_failed(failure));
  }
  void launch_warning(std::string_view key, const StepFailure& warning) override {
    engine_.send(encode_launch_warning(key, warning));
  }
  void started(uint64_t request, const ProcessState& process) override {
    engine_.send(encode_started(request, process.key, process.pid));
  }
  void exited(const ProcessState& process) override {
    engine_.send(encode_exited(process.key, process.pid, process.wait_status, process.exited_at_ns,
                               process.output_waits, process.running));
    guests_.host_process_ended(process.key);
  }
  void reply(uint64_t request, int err) override { engine_.send(encode_reply(request, err)); }
  void process_warning(const std::string& what, int err) override {
    log_warning(describe(what, err));
  }
  void launch(const ToMonitor& message);
  void process_message(const ToMonitor& message);
  void shut_down(const char* asked_by);
  bool idle() { return processes_.idle() && guests_.idle(); }
  void raise_open_files();
  bool watch_signals();
  void signal_ready(uint32_t events);
  void trim() { ::malloc_trim(0); }
  void leave_if_abandoned();

  Hello hello_;
  ShimSocket socket_;
  Poller poller_;
  EngineLink engine_;
  Relay relay_;
  ProcessTable processes_;
  Guests guests_;
  Watch signals_;
  Timer trim_;
  Timer abandoned_;
  bool running_ = true;
  bool served_ = false;  // the engine has said Welcome
};

int Monitor::run(UniqueFd engine, bool network) {
  if (Status opened = poller_.open(); !opened) return 1;
  raise_open_files();
  if (!watch_signals() || !relay_.start(socket_.take_listener())) return 1;
  abandoned_.arm(kAbandonedMs);
  engine_.start(std::move(engine));
  trim_.arm(kTrimMs);
  // While containerd connects and the engine thinks; what fails here fails again at the launch.
  processes_.make_spare(network);
  while (running_) poller_.run_once();
  socket_.remove();
  relay_.finish(kFlushMs);
  engine_.finish(kFlushMs);
  return 0;
}

// Every process and every exec keeps a few open here, and containerd is often started with 1024.
// What a container has is not ours to raise.
void Monitor::raise_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max) return;
  processes_.set_open_files(limit);
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) < 0)
    log_warning(describe("monitor: RLIMIT_NOFILE", errno));
}

bool Monitor::watch_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signum : {SIGCHLD, SIGTERM, SIGINT}) ::sigaddset(&set, signum);
  ::sigprocmask(SIG_SETMASK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  return fd && signals_.start(poller_, std::move(fd), EPOLLIN,
                              on_ready<Monitor, &Monitor::signal_ready>, this);
}

void Monitor::signal_ready(uint32_t) {
  signalfd_siginfo info;
  while (::read(signals_.fd(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue;
    shut_down("signal");
  }
  processes_.reap_orphans();
}

void Monitor::shut_down(const char* asked_by) {
  if (idle()) {
    running_ = false;
  } else {
    log_warning(std::string("monitor: ") + asked_by + " ignored: its processes still run");
  }
}

void Monitor::engine_down() {
  served_ = false;
  if (!abandoned_.armed()) abandoned_.arm(kAbandonedMs);
  relay_.engine_down();
  guests_.engine_down();
  processes_.requester_gone();
}

// Without an engine nobody could tell us to leave: a monitor that nobody is connected to and that
// has nothing to remember would stay for ever where Bulkhead was removed, or cannot start.
void Monitor::leave_if_abandoned() {
  if (served_) return;
  if (processes_.empty() && guests_.empty() && relay_.empty()) {
    log_warning("monitor: no engine, no containers, no connections: leaving");
    running_ = false;
  } else {
    abandoned_.arm(kAbandonedMs);
  }
}

void Monitor::engine_up() {
  HelloBuilder hello(hello_);
  processes_.each_state([&hello](const ProcessState& process) { hello.add(process); });
  guests_.add_states(hello);
  engine_.send(hello.finish());
  relay_.engine_up();
}

void Monitor::launch(const ToMonitor& message) {
  bool on_host = message.guest.empty();
  if (guests_.has(message.key) || (!on_host && processes_.has(message.key))) {
    LaunchFailure failure;
    failure.request = message.request;
    failure.key = message.key;
    failure.op = "duplicate key";
    failure.err = EEXIST;
    launch_failed(failure);
    return;
  }
  if (!on_host) {
    guests_.launch(message);
    return;
  }
  LaunchRequest request;
  request.request = message.request;
  request.key = message.key;
  request.plan = message.plan;
  request.dies_with = message.dies_with;
  request.hold_mounts = message.hold_mounts;
  processes_.launch(request, std::make_unique<ProcessStdio>(poller_, message.stdio));
}

// What names a process goes to whoever has it; an unknown one is the host's to refuse.
void Monitor::process_message(const ToMonitor& message) {
  using Kind = ToMonitor::Kind;
  bool in_guest = guests_.has(message.key);
  switch (message.kind) {
    case Kind::kContinue:
      if (in_guest) return guests_.proceed(message);
      return processes_.proceed(message.request, message.key);
    case Kind::kSignal:
      if (in_guest) return guests_.signal(message);
      return processes_.signal(message.request, message.key, static_cast<int>(message.signal));
    case Kind::kResize:
      if (in_guest) return guests_.resize(message);
      return processes_.resize(message.request, message.key, message.width, message.height);
    case Kind::kCloseStdin:
      if (in_guest) return guests_.close_stdin(message);
      return processes_.close_stdin(message.request, message.key);
    case Kind::kForget:
      if (in_guest) return guests_.forget(message);
      return processes_.forget(message.request, message.key);
    default:
      return;
  }
}

bool Monitor::engine_message(std::span<const uint8_t> bytes) {
  using Kind = ToMonitor::Kind;
  ToMonitor message;
  if (!decode_to_monitor(bytes, message)) return false;
  // What a burst of messages took from the heap goes back to the kernel once it is over.
  if (!trim_.armed()) trim_.arm(kTrimMs);
  switch (message.kind) {
    case Kind::kWelcome:
      engine_.welcomed();
      served_ = true;
      abandoned_.cancel();
      guests_.engine_welcomed();
      if (message.protocol != kProtocol) log_warning("monitor: the engine speaks another protocol");
      break;
    case Kind::kStreamData:
      relay_.stream_data(message.conn, message.data);
      break;
    case Kind::kStreamClose:
      relay_.stream_close(message.conn);
      break;
    case Kind::kLaunch:
      launch(message);
      break;
    case Kind::kContinue:
    case Kind::kSignal:
    case Kind::kResize:
    case Kind::kCloseStdin:
    case Kind::kForget:
      process_message(message);
      break;
    case Kind::kGuestConnect:
      guests_.connect(message);
      break;
    case Kind::kGuestCall:
      guests_.call(message);
      break;
    case Kind::kLeftAnswer:
      relay_.left_answer(message.method, message.left_request, message.left_response);
      break;
    case Kind::kShutdown:
      shut_down("shutdown");
      break;
    case Kind::kShimReply:
    case Kind::kNone:
      break;
  }
  return true;
}

// containerd waits until nobody holds its pipe any more: this comes before everything else.
void leave_containerd() {
  int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; fd++) ::dup2(null, fd);
  if (null > 2) ::close(null);
  ::setsid();
}

bool write_file(const std::string& path, std::string_view text) {
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// One above containerd's, as its own shims do it: under memory pressure they go first. Raising
// needs no privilege.
void raise_oom_score() {
  UniqueFd file(::open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));
  char text[16] = {};
  if (!file || ::read(file.get(), text, sizeof text - 1) <= 0) return;
  int score = std::atoi(text) + 1;
  if (score > 1000) return;
  int length = std::snprintf(text, sizeof text, "%d", score);
  (void)!::pwrite(file.get(), text, static_cast<size_t>(length), 0);
}

// Absolute cgroup directories, one a line (cgroup v1 has one in every hierarchy).
void join_cgroups(std::string_view directories) {
  while (!directories.empty()) {
    size_t end = directories.find('\n');
    std::string directory(directories.substr(0, end));
    directories.remove_prefix(end == std::string_view::npos ? directories.size() : end + 1);
    if (!directory.empty() && !write_file(directory + "/cgroup.procs", "0")) {
      log_warning(describe("monitor: cgroup " + directory, errno));
    }
  }
}

}  // namespace

int run_monitor(const Hello& hello, const Install& install, ShimSocket socket, UniqueFd engine,
                std::string_view shim_cgroup, bool network) {
  leave_containerd();
  // Large buffers are mappings of their own, returned when freed. Set explicitly: glibc would raise
  // the threshold to the largest block ever freed, and keep later ones in its heap.
  ::mallopt(M_MMAP_THRESHOLD, kLargeBlock);
  ::mallopt(M_TRIM_THRESHOLD, kLargeBlock);
  ::prctl(PR_SET_NAME, "bulkhead-shim");
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  open_log(hello.group);
  raise_oom_score();
  join_cgroups(shim_cgroup);
  (void)!::chdir("/");
  Hello own = hello;
  own.monitor_pid = static_cast<uint32_t>(::getpid());
  Monitor monitor(own, install, std::move(socket));
  return monitor.run(std::move(engine), network);
}

}  // namespace bulkhead::shim
