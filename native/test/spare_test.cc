// A bulkhead-init that is there before its plan.
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

using Spare = RunOptions::Spare;

std::string link_to(const std::string& path) {
  char value[64];
  ssize_t size = ::readlink(path.c_str(), value, sizeof value);
  return std::string(value, size > 0 ? static_cast<size_t>(size) : 0);
}

std::string network_of(pid_t pid) {
  return link_to("/proc/" + (pid == 0 ? std::string("self") : std::to_string(pid)) + "/ns/net");
}

// A container with a gate, at which `visit` sees its process.
Run run_spare(const std::string& root, Spare spare, ContainerSteps more,
              std::function<void(pid_t)> visit) {
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  RunOptions options;
  options.spare = spare;
  options.stdin_text = "what it reads\n";
  options.at_gate = [&](const std::string&, pid_t pid) {
    visit(pid);
    return true;
  };
  return run_container(root, "cat; ls /proc/self/fd; echo to stderr >&2; exit 7", more, options);
}

std::string descriptors_of(pid_t pid) {
  std::string numbers;
  for (int fd = 0; fd < 1024; fd++) {
    std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
    if (std::filesystem::is_symlink(path)) numbers += " " + std::to_string(fd);
  }
  return numbers;
}

// Launches a spare in a process of its own, and stops it where it calls execveat. 0: it never did.
pid_t stop_before_execution(pid_t& launcher) {
  const int program = init_fd();
  launcher = ::fork();
  if (launcher == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    (void)launch_spare(program, SIGCHLD, false).ok();
    ::_exit(1);
  }
  constexpr long kOptions = PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK |
                            PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
  int status = 0;
  if (::waitpid(launcher, &status, 0) < 0 || !WIFSTOPPED(status)) return 0;
  if (::ptrace(PTRACE_SETOPTIONS, launcher, nullptr, kOptions) < 0) return 0;
  if (::ptrace(PTRACE_CONT, launcher, nullptr, nullptr) < 0) return 0;
  if (::waitpid(launcher, &status, 0) < 0 || (status >> 16) == 0) return 0;
  unsigned long born = 0;
  ::ptrace(PTRACE_GETEVENTMSG, launcher, nullptr, &born);
  pid_t spare = static_cast<pid_t>(born);
  while (::waitpid(spare, &status, __WALL) > 0 && WIFSTOPPED(status)) {
    __ptrace_syscall_info info{};
    if (WSTOPSIG(status) == (SIGTRAP | 0x80) &&
        ::ptrace(PTRACE_GET_SYSCALL_INFO, spare, sizeof info, &info) > 0 &&
        info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_execveat) {
      return spare;
    }
    if (::ptrace(PTRACE_SYSCALL, spare, nullptr, nullptr) < 0) return 0;
  }
  return 0;
}

bool ends(const LaunchedOuter& outer) {
  pollfd state{outer.pidfd.get(), POLLIN, 0};
  return ::poll(&state, 1, 5000) == 1;
}

}  // namespace

TEST(spare_carries_out_a_plan_with_the_streams_that_come_with_it) {
  Rootfs root;
  for (Spare spare : {Spare::kPlain, Spare::kWithNetwork}) {
    Run run = run_spare(root.path(), spare, {}, [](pid_t) {});
    CHECK(run.launched);
    CHECK_EQ(run.failure.detail, "");
    // 3 is ls's own.
    CHECK_EQ(run.out, "what it reads\n0\n1\n2\n3\nto stderr\n");
    CHECK_EQ(run.exit_code(), 7);
  }
}

TEST(spare_keeps_dev_null_for_streams_that_do_not_come) {
  Rootfs root;
  auto spare = launch_spare(init_fd(), 0, false);
  REQUIRE(spare.ok());
  PlanText plan;
  plan.steps = container(root.path(), "for n in 0 2; do readlink /proc/self/fd/$n; done > /seen");
  std::string bytes = encode_plan(plan);
  LaunchArgs args;
  args.plan = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  REQUIRE(begin_spare(*spare, args).ok());
  pid_t pid = 0;
  for (;;) {
    auto event = read_init_event(spare->sync.get());
    REQUIRE(event.ok());
    if (event->kind == InitEvent::Kind::kEnd) break;
    CHECK(event->kind == InitEvent::Kind::kCloned);
    pid = event->pid;
  }
  auto pidfd = pidfd_open(pid);
  REQUIRE(pidfd.ok());
  CHECK(wait_pidfd(pidfd->get(), true).ok());
  CHECK(wait_pidfd(spare->pidfd.get(), true).ok());
  CHECK_EQ(read_text(root / "seen"), "/dev/null\n/dev/null\n");
}

TEST(spare_has_made_the_network_and_stays_outside_of_it) {
  Rootfs root;
  std::string before, inside;
  RunOptions options;
  options.spare = Spare::kWithNetwork;
  Gate gate;
  gate.point = text("start");
  ContainerSteps more;
  more.late = {LoopbackUp{}, gate};
  options.before_plan = [&](const LaunchedOuter& spare) {
    // It has the network at number 4, the plan's otherwise, and waits in the one that it came from.
    std::string held = "/proc/" + std::to_string(spare.pid) + "/fd/4";
    for (int i = 0; i < 500; i++, ::usleep(10000)) {
      before = link_to(held);
      if (before.starts_with("net:") && before != network_of(0) &&
          network_of(spare.pid) == network_of(0)) {
        return;
      }
    }
  };
  options.at_gate = [&](const std::string&, pid_t pid) {
    inside = network_of(pid);
    return true;
  };
  Run run = run_container(root.path(), "exit 3", more, options);
  CHECK_EQ(run.exit_code(), 3);
  CHECK_EQ(inside, before);
  CHECK(inside != network_of(0));
}

TEST(spare_network_is_not_for_containers_that_want_another) {
  Rootfs root;
  std::string inside;
  auto look = [&](pid_t pid) { inside = network_of(pid); };
  ContainerSteps host;
  host.namespaces = CLONE_NEWNS | CLONE_NEWPID;
  CHECK_EQ(run_spare(root.path(), Spare::kWithNetwork, host, look).exit_code(), 7);
  CHECK_EQ(inside, network_of(0));

  // It would belong to the host's user namespace: the container could not configure it.
  std::string command = "chown -R 100000:100000 " + root.path();
  CHECK_EQ(std::system(command.c_str()), 0);
  ContainerSteps mapped;
  mapped.namespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUSER;
  mapped.uid_maps = {{0, 100000, 65536}};
  mapped.gid_maps = {{0, 100000, 65536}};
  mapped.with_dev = false;
  mapped.late = {LoopbackUp{}, Sysctl{text("net/ipv4/ip_forward"), text("1")}};
  Run run = run_spare(root.path(), Spare::kWithNetwork, mapped, look);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.exit_code(), 7);
  CHECK(inside != network_of(0));
}

TEST(spare_says_what_is_wrong_with_its_plan) {
  RunOptions options;
  options.spare = Spare::kPlain;
  Run run = run_bytes("\xff\xff", options);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EBADMSG);
}

TEST(spare_leaves_with_its_launcher) {
  auto spare = launch_spare(init_fd(), 0, true);
  REQUIRE(spare.ok());
  spare->sync.reset();
  CHECK(ends(*spare));
  auto status = wait_pidfd(spare->pidfd.get(), true);
  REQUIRE(status.ok());
  CHECK_EQ(status->wait_status, 0);
}

// Its launcher may have died meanwhile, and a listening socket of that would look served.
TEST(spare_has_nothing_of_its_launcher_before_it_is_executed) {
  UniqueFd kept(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  UniqueFd inheritable(::open("/dev/null", O_RDONLY));
  pid_t launcher = 0;
  pid_t spare = stop_before_execution(launcher);
  // 3 is its socket, 4 the program.
  if (spare != 0) CHECK_EQ(descriptors_of(spare), " 0 1 2 3 4");
  CHECK(spare > 0);
  for (pid_t pid : {spare, launcher}) {
    if (pid <= 0) continue;
    ::kill(pid, SIGKILL);
    CHECK_EQ(::waitpid(pid, nullptr, __WALL), pid);
  }
}

TEST(spare_that_is_gone_takes_no_plan) {
  auto spare = launch_spare(init_fd(), 0, false);
  REQUIRE(spare.ok());
  CHECK(pidfd_signal(spare->pidfd.get(), SIGKILL).ok());
  CHECK(wait_pidfd(spare->pidfd.get(), true).ok());
  Status begun = begin_spare(*spare, LaunchArgs{});
  CHECK(!begun.ok());
  CHECK_EQ(begun.error().code, EPIPE);
}

// The file is no program: only its end tells.
TEST(spare_that_cannot_be_executed_ends) {
  UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  auto spare = launch_spare(nothing.get(), 0, false);
  REQUIRE(spare.ok());
  CHECK(ends(*spare));
  CHECK(wait_pidfd(spare->pidfd.get(), true).ok());
  CHECK(!begin_spare(*spare, LaunchArgs{}).ok());
}

}  // namespace bulkhead::test
