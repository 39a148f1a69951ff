#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "agent/boot.h"
#include "agent/calls.h"
#include "agent/log.h"
#include "agent/messages.h"
#include "agent/streams.h"
#include "agent/text_file.h"
#include "core/frame.h"
#include "core/mux_link.h"
#include "core/poller.h"
#include "core/process.h"
#include "core/vsock.h"
#include "shim/messages.h"

namespace bulkhead::agent {

namespace {

constexpr const char* kPortName = "bulkhead.agent";
constexpr const char* kVersion = "1";
constexpr uint32_t kPortTimeoutMs = 60000;
// Where the host looks for the agent (src/sandbox/vm/hypervisor/agent_socket.ts), as for Kata's.
constexpr uint32_t kVsockPort = 1024;
constexpr uint32_t kTrimMs = 1000;
constexpr uint32_t kSyncMs = 2000;
constexpr uint32_t kFlushMs = 200;
constexpr int kKeptHeap = 4 << 20;

// The monitor's codec frames messages for a byte stream; the channel has frames of its own.
std::string_view unframed(const std::string& framed) {
  return std::string_view(framed).substr(kFrameHeader);
}

class Agent : private MuxHandler, private ProcessEvents, private CallsOwner {
 public:
  explicit Agent(const AgentOptions& options)
      : options_(options),
        link_(poller_, *this),
        streams_(poller_, link_),
        processes_(poller_, *this, options.init),
        calls_(poller_, *this),
        trim_(poller_, on_timer<Agent, &Agent::trim>, this),
        reopen_(poller_, on_timer<Agent, &Agent::serve_next>, this),
        end_(poller_, on_timer<Agent, &Agent::end_machine>, this) {}

  int run();

 private:
  // Init of a machine of its own, not a process that a test runs on a host.
  bool machine() const { return options_.connect.empty() && options_.listen.empty(); }
  bool watch_signals();
  void signal_ready(uint32_t events);
  bool open_channel();
  bool open_socket();
  bool open_vsock();
  void serve_next();
  void accept_ready(uint32_t events);
  void await_host();
  void port_ready(uint32_t events);
  void trim() { ::malloc_trim(0); }
  void end_machine();
  void session_ended();
  void launch(const ToAgent& message);

  // MuxHandler
  void mux_session() override;
  const char* mux_control(std::span<const uint8_t> message) override;
  void mux_lost(const char* reason) override;

  // ProcessEvents
  void launched(uint64_t request, const ProcessState& process) override {
    send_framed(shim::encode_launched(request, process.key, process.pid, process.paused_at));
  }
  void launch_failed(const LaunchFailure& failure) override {
    send_framed(shim::encode_launch_failed(failure));
  }
  void launch_warning(std::string_view key, const StepFailure& warning) override {
    send_framed(shim::encode_launch_warning(key, warning));
  }
  void started(uint64_t request, const ProcessState& process) override {
    send_framed(shim::encode_started(request, process.key, process.pid));
  }
  void exited(const ProcessState& process) override {
    calls_.tell_oom_kills();
    send_framed(
        shim::encode_exited(process.key, process.pid, process.wait_status, process.exited_at_ns));
  }
  void reply(uint64_t request, int err) override { send_framed(shim::encode_reply(request, err)); }
  void process_warning(const std::string& what, int err) override {
    log_warning(describe(what, err));
  }

  // CallsOwner
  void send(const std::string& message) override { send_bytes(message); }
  void power_off(bool reboot) override;

  void send_framed(const std::string& framed) { send_bytes(unframed(framed)); }
  void send_bytes(std::string_view bytes) {
    if (!link_.send_control({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}))
      log_error("a message over 8 MiB was not sent");
  }

  const AgentOptions& options_;
  Poller poller_;
  MuxLink link_;
  StreamTable streams_;
  ProcessTable processes_;
  Calls calls_;
  UniqueFd port_;  // a second descriptor of what the link has
  Watch host_;     // tells when the host comes back
  Watch listener_;
  Watch signals_;
  Timer trim_;
  Timer reopen_;
  Timer end_;
  bool reboot_ = false;
  bool running_ = true;
};

bool Agent::watch_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signum : {SIGCHLD, SIGTERM, SIGINT}) ::sigaddset(&set, signum);
  ::sigprocmask(SIG_SETMASK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  return fd && signals_.start(poller_, std::move(fd), EPOLLIN,
                              on_ready<Agent, &Agent::signal_ready>, this);
}

void Agent::signal_ready(uint32_t) {
  signalfd_siginfo info;
  while (::read(signals_.fd(), &info, sizeof info) == sizeof info) {
    // Only for tests on a host: what ends a machine is a call.
    if (info.ssi_signo != SIGCHLD && !machine()) running_ = false;
  }
  processes_.reap_orphans();
}

bool Agent::open_socket() {
  const std::string& path = options_.connect.empty() ? options_.listen : options_.connect;
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!fd || path.size() >= sizeof address.sun_path) {
    log_error(describe("socket " + path, fd ? ENAMETOOLONG : errno));
    return false;
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  const bool serve = options_.connect.empty();
  if (serve ? ::bind(fd.get(), where, sizeof address) < 0 || ::listen(fd.get(), 1) < 0
            : ::connect(fd.get(), where, sizeof address) < 0) {
    log_error(describe("socket " + path, errno));
    return false;
  }
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  if (serve)
    return listener_.start(poller_, std::move(fd), EPOLLIN, on_ready<Agent, &Agent::accept_ready>,
                           this);
  port_.reset(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  return link_.serve(std::move(fd));
}

bool Agent::open_vsock() {
  auto fd = listen_vsock(kVsockPort);
  if (!fd) {
    log_error(describe("vsock", fd.error().code));
    return false;
  }
  return listener_.start(poller_, fd.take(), EPOLLIN, on_ready<Agent, &Agent::accept_ready>, this);
}

void Agent::accept_ready(uint32_t) {
  UniqueFd fd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  if (options_.vsock && !is_from_host(fd.get())) {
    log_warning("vsock: somebody who is not the host's root was turned away");
    return;
  }
  listener_.mute();
  port_.reset(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  link_.serve(std::move(fd));
}

void Agent::serve_next() {
  link_.stop();
  port_.reset();
  listener_.want(EPOLLIN);
}

bool Agent::open_channel() {
  if (!machine()) return open_socket();
  if (options_.vsock) return open_vsock();
  auto port = open_port(kPortName, kPortTimeoutMs);
  if (!port) {
    log_error(describe("port bulkhead.agent", port.error().code));
    return false;
  }
  port_.reset(::fcntl(port->get(), F_DUPFD_CLOEXEC, 3));
  return link_.serve(port.take());
}

// A port whose host has gone reads as ended and polls as hung up for as long as that lasts.
// Edge-triggered, it tells of every change, and of nothing else.
void Agent::await_host() {
  UniqueFd port(::fcntl(port_.get(), F_DUPFD_CLOEXEC, 3));
  host_.start(poller_, std::move(port), EPOLLIN | EPOLLOUT | EPOLLET,
              on_ready<Agent, &Agent::port_ready>, this);
}

void Agent::port_ready(uint32_t events) {
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) return;
  host_.stop();
  link_.listen();
}

void Agent::session_ended() {
  calls_.session_ended();
  streams_.session_ended();
}

void Agent::mux_session() {
  session_ended();
  utsname kernel{};
  ::uname(&kernel);
  std::string processes;
  processes_.each_state(
      [&processes](const ProcessState& process) { processes += encode_process(process); });
  send_bytes(encode_hello(kVersion, kernel.release, now_ms(), processes));
}

void Agent::mux_lost(const char* reason) {
  session_ended();
  // A connection that is lost is lost, and nothing tells that its other end has gone for good.
  if (options_.vsock) {
    reopen_.arm(0);
    return;
  }
  pollfd state{port_.get(), 0, 0};
  if (::poll(&state, 1, 0) == 0 || (state.revents & (POLLHUP | POLLERR)) == 0) {
    // The host is there: it said what cannot be, or went and came back. Everything up to its next
    // session is passed over.
    log_error("channel: " + std::string(reason));
    link_.listen();
    return;
  }
  if (!options_.connect.empty()) {
    running_ = false;
  } else if (!options_.listen.empty()) {
    reopen_.arm(0);
  } else {
    await_host();
  }
}

const char* Agent::mux_control(std::span<const uint8_t> bytes) {
  using Kind = ToAgent::Kind;
  ToAgent message;
  if (!decode_to_agent(bytes, message)) return "a control message that is none";
  if (!trim_.armed()) trim_.arm(kTrimMs);
  switch (message.kind) {
    case Kind::kHello:
      if (message.protocol != kProtocol) log_warning("the host speaks another protocol");
      break;
    case Kind::kLaunch:
      launch(message);
      break;
    case Kind::kContinue:
      processes_.proceed(message.request, message.key);
      break;
    case Kind::kSignal:
      processes_.signal(message.request, message.key, static_cast<int>(message.signal));
      break;
    case Kind::kResize:
      processes_.resize(message.request, message.key, message.width, message.height);
      break;
    case Kind::kForget:
      processes_.forget(message.request, message.key);
      break;
    case Kind::kCall:
      calls_.start(message.request, message.call);
      break;
    case Kind::kNone:
      break;
  }
  return nullptr;
}

void Agent::launch(const ToAgent& message) {
  LaunchRequest request;
  request.request = message.request;
  request.key = message.key;
  request.plan = message.plan;
  request.dies_with = message.dies_with;
  processes_.launch(request, std::make_unique<GuestStreams>(streams_, message));
}

// The answer goes out first; what does not sync in time is lost, as with any machine that is
// switched off.
void Agent::power_off(bool reboot) {
  reboot_ = reboot;
  end_.arm(kFlushMs);
}

void Agent::end_machine() {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::sync();
    ::_exit(0);
  }
  const uint64_t deadline = now_ms() + kSyncMs;
  while (pid > 0 && ::waitpid(pid, nullptr, WNOHANG) == 0 && now_ms() < deadline) ::usleep(1000);
  // Off a machine of its own there is nothing to switch off.
  if (machine() && ::getpid() == 1) ::reboot(reboot_ ? RB_AUTOBOOT : RB_POWER_OFF);
  running_ = false;
}

int Agent::run() {
  if (machine() && !set_up_guest()) return 1;
  if (Status opened = poller_.open(); !opened) return 1;
  if (!watch_signals()) return 1;
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  // Now, so that a template has it; a copy, since only Linux 6.15 lets an overlay be made of what
  // is mounted nowhere, and older ones say so on the console.
  auto init = open_init_copy(options_.init.c_str());
  if (!init) {
    log_error(describe(options_.init, init.error().code));
    return 1;
  }
  processes_.set_init(init.take());
  if (!open_channel()) return 1;
  set_log_sink(
      [](void* self, std::string_view level, std::string_view message) {
        static_cast<Agent*>(self)->send_bytes(encode_log_event(level, message));
      },
      this);
  while (running_) poller_.run_once();
  set_log_sink(nullptr, nullptr);
  return 0;
}

}  // namespace

int run_agent(const AgentOptions& options) {
  // A stream's buffers come and go at every round: mappings of their own would be faulted in each
  // time. What a burst has left goes back by trim().
  ::mallopt(M_MMAP_THRESHOLD, kKeptHeap);
  ::mallopt(M_TRIM_THRESHOLD, kKeptHeap);
  ::prctl(PR_SET_NAME, "bulkhead-agent");
  Agent agent(options);
  return agent.run();
}

}  // namespace bulkhead::agent
