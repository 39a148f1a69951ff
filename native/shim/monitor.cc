// One thread, one epoll set:
//
//   containerd ── Relay ──┐                    ┌── ProcessTable ── bulkhead-init, containers, ptys,
//   fifos
//                         ├── Monitor ─────────┤
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
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "shim/engine_link.h"
#include "shim/log.h"
#include "shim/poller.h"
#include "shim/process.h"
#include "shim/relay.h"

namespace bulkhead::shim {

namespace {

constexpr int kFlushMs = 2000;
constexpr uint32_t kTrimMs = 1000;
constexpr uint32_t kAbandonedMs = 10000;
constexpr int kLargeBlock = 64 << 10;

class Monitor : public EngineHandler {
 public:
  Monitor(const Hello& hello, const Install& install, ShimSocket socket)
      : hello_(hello),
        socket_(std::move(socket)),
        engine_(poller_, install, *this),
        relay_(poller_, engine_),
        processes_(poller_, engine_, install),
        trim_(poller_, on_timer<Monitor, &Monitor::trim>, this),
        abandoned_(poller_, on_timer<Monitor, &Monitor::leave_if_abandoned>, this) {}

  int run(UniqueFd engine);

  void engine_up() override;
  void engine_down() override;
  bool engine_message(std::span<const uint8_t> bytes) override;
  void engine_drained() override { relay_.engine_drained(); }

 private:
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
  Watch signals_;
  Timer trim_;
  Timer abandoned_;
  bool running_ = true;
  bool served_ = false;  // the engine has said Welcome
};

int Monitor::run(UniqueFd engine) {
  if (Status opened = poller_.open(); !opened) return 1;
  if (!watch_signals() || !relay_.start(socket_.take_listener())) return 1;
  abandoned_.arm(kAbandonedMs);
  engine_.start(std::move(engine));
  trim_.arm(kTrimMs);
  while (running_) poller_.run_once();
  socket_.remove();
  relay_.finish(kFlushMs);
  engine_.finish(kFlushMs);
  return 0;
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
    if (processes_.idle()) {
      running_ = false;
    } else {
      log_warning("monitor: signal ignored: its processes still run");
    }
  }
  processes_.reap_orphans();
}

void Monitor::engine_down() {
  served_ = false;
  if (!abandoned_.armed()) abandoned_.arm(kAbandonedMs);
  relay_.engine_down();
}

// Without an engine nobody could tell us to leave: a monitor that nobody is connected to and that
// has nothing to remember would stay for ever where Bulkhead was removed, or cannot start.
void Monitor::leave_if_abandoned() {
  if (served_) return;
  if (processes_.empty() && relay_.empty()) {
    log_warning("monitor: no engine, no containers, no connections: leaving");
    running_ = false;
  } else {
    abandoned_.arm(kAbandonedMs);
  }
}

void Monitor::engine_up() {
  HelloBuilder hello(hello_);
  processes_.add_states(hello);
  engine_.send(hello.finish());
  relay_.engine_up();
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
      if (message.protocol != kProtocol) log_warning("monitor: the engine speaks another protocol");
      break;
    case Kind::kStreamData:
      relay_.stream_data(message.conn, message.data);
      break;
    case Kind::kStreamClose:
      relay_.stream_close(message.conn);
      break;
    case Kind::kLaunch:
      processes_.launch(message);
      break;
    case Kind::kContinue:
      processes_.proceed(message);
      break;
    case Kind::kSignal:
      processes_.signal(message);
      break;
    case Kind::kResize:
      processes_.resize(message);
      break;
    case Kind::kCloseStdin:
      processes_.close_stdin(message);
      break;
    case Kind::kForget:
      processes_.forget(message);
      break;
    case Kind::kStateAnswer:
      relay_.state_answer(message.state_request, message.state_response);
      break;
    case Kind::kShutdown:
      if (processes_.idle()) {
        running_ = false;
      } else {
        log_warning("monitor: shutdown ignored: its processes still run");
      }
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
                std::string_view shim_cgroup) {
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
  return monitor.run(std::move(engine));
}

}  // namespace bulkhead::shim
