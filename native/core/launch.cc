#include "core/launch.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "core/init_codec.h"

namespace bulkhead {

namespace {

constexpr int kSyncFd = 3;
constexpr int kPlanFd = 4;
constexpr int kFirstExtra = 5;
constexpr size_t kSignalSetBytes = 8;  // sizeof(kernel sigset_t)
constexpr size_t kChildStack = 64u << 10;

// All signals, also the two that glibc keeps for itself and that sigprocmask(3) leaves out: a
// handler that ran in the child would run in the parent's memory.
void block_all_signals(uint64_t* previous) {
  uint64_t all = ~0ull;
  ::syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, previous, kSignalSetBytes);
}
void restore_signals(const uint64_t* previous) {
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, previous, nullptr, kSignalSetBytes);
}

// What the child needs; it shares our memory and must not allocate.
struct Child {
  const LaunchArgs* args;
  int sync;
  int plan;          // -1: a spare, which gets it later
  const char* role;  // of a spare; nullptr: none
  int error = 0;
  const char* op = "exec bulkhead-init";
};

// Puts a copy of `fd` above every number that will be assigned.
int lift(int fd, int floor) {
  return ::fcntl(fd, F_DUPFD_CLOEXEC, floor);
}

// dup2(n, n) keeps O_CLOEXEC, hence lift(): source and target never are the same number.
bool place_descriptors(Child& child, int& init_fd) {
  const LaunchArgs& args = *child.args;
  int extra_count = static_cast<int>(args.extra_fds.size());
  int floor = kFirstExtra + extra_count;
  int null_fd = -1;
  int lifted[kFirstExtra];
  init_fd = lift(args.init_fd, floor);
  if (init_fd < 0) return false;
  for (int i = 0; i < 3; i++) {
    if (args.stdio[i] < 0 && null_fd < 0) {
      null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
      if (null_fd < 0) return false;
    }
    lifted[i] = lift(args.stdio[i] < 0 ? null_fd : args.stdio[i], floor);
    if (lifted[i] < 0) return false;
  }
  const int placed = child.plan < 0 ? kPlanFd : kFirstExtra;
  lifted[kSyncFd] = lift(child.sync, floor);
  if (child.plan >= 0) lifted[kPlanFd] = lift(child.plan, floor);
  if (lifted[kSyncFd] < 0 || (child.plan >= 0 && lifted[kPlanFd] < 0)) return false;
  int extra[kMaxExtraFds];
  for (int i = 0; i < extra_count; i++) {
    extra[i] = lift(args.extra_fds[static_cast<size_t>(i)], floor);
    if (extra[i] < 0) return false;
  }
  for (int i = 0; i < placed; i++) {
    if (::dup2(lifted[i], i) < 0) return false;
  }
  for (int i = 0; i < extra_count; i++) {
    if (::dup2(extra[i], kFirstExtra + i) < 0) return false;
  }
  if (child.plan < 0) {
    // A spare may outlive its launcher until it is executed: what that has open (the socket of a
    // pod, which would look served) goes now, not with execve.
    if (::dup3(init_fd, kPlanFd, O_CLOEXEC) < 0) return false;
    init_fd = kPlanFd;
    ::syscall(SYS_close_range, static_cast<unsigned>(kFirstExtra), ~0u, 0);
    return true;
  }
  // Whatever a library opened without O_CLOEXEC stays behind too. Before Linux 5.11 (EINVAL) the
  // helper's own close_range does it.
  ::syscall(SYS_close_range, static_cast<unsigned>(placed + extra_count), ~0u, CLOSE_RANGE_CLOEXEC);
  return true;
}

// Ignored signals survive execve (SIGPIPE is ignored in Node and in the monitor); handlers do not.
void reset_ignored_signals() {
  for (int signum = 1; signum < _NSIG; signum++) {
    struct {
      void (*handler)(int);
      unsigned long flags;
      void (*restorer)();
      uint64_t mask;
    } action = {};
    if (::syscall(SYS_rt_sigaction, signum, nullptr, &action, kSignalSetBytes) != 0) continue;
    if (action.handler != SIG_IGN) continue;
    action = {};
    ::syscall(SYS_rt_sigaction, signum, &action, nullptr, kSignalSetBytes);
  }
}

int child_main(void* data) {
  Child& child = *static_cast<Child*>(data);
  int init_fd = -1;
  if (!place_descriptors(child, init_fd)) {
    child.error = errno;
    child.op = "place descriptors";
    return 127;
  }
  // Not before: the descriptors above may be beyond it.
  const rlimit* open_files = child.args->open_files;
  if (open_files != nullptr && ::setrlimit(RLIMIT_NOFILE, open_files) < 0) {
    child.error = errno;
    child.op = "setrlimit";
    return 127;
  }
  reset_ignored_signals();
  char name[] = "bulkhead-init";
  char* argv[] = {name, const_cast<char*>(child.role), nullptr};
  char* envp[] = {nullptr};
  ::syscall(SYS_execveat, init_fd, "", argv, envp, AT_EMPTY_PATH);
  child.error = errno;
  return 127;
}

// The plan in a memfd that nobody can change any more; bulkhead-init maps it.
Result<UniqueFd> seal_plan(std::span<const uint8_t> plan) {
  UniqueFd fd(::memfd_create("bulkhead-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return last_error("memfd_create");
  size_t done = 0;
  while (done < plan.size()) {
    ssize_t wrote = ::write(fd.get(), plan.data() + done, plan.size() - done);
    if (wrote < 0) {
      if (errno == EINTR) continue;
      return last_error("write plan");
    }
    done += static_cast<size_t>(wrote);
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) <
      0) {
    return last_error("seal plan");
  }
  return fd;
}

// `plan` -1 and a role: a spare.
Result<LaunchedOuter> execute_init(const LaunchArgs& args, int plan, const char* role) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return last_error("socketpair");
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);

  // Its own stack: with CLONE_VM the child would otherwise grow over the frames of the suspended
  // parent.
  void* stack = ::mmap(nullptr, kChildStack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return last_error("mmap");
  Child child{&args, theirs.get(), plan, role};
  int pidfd = -1;
  uint64_t mask = 0;
  block_all_signals(&mask);
  // Nobody waits for a spare to be executed; that it could not be is seen by its end.
  const int sharing = role == nullptr ? CLONE_VM | CLONE_VFORK : 0;
  // clone(2) of the C library switches stacks for us on every architecture; clone3 would give
  // nothing more here.
  pid_t pid = ::clone(child_main, static_cast<char*>(stack) + kChildStack,
                      sharing | CLONE_PIDFD | (args.exit_signal & 0xff), &child, &pidfd);
  int clone_error = errno;
  restore_signals(&mask);
  ::munmap(stack, kChildStack);
  if (pid < 0) return Error{clone_error, "clone"};

  LaunchedOuter outer;
  outer.pidfd = UniqueFd(pidfd);
  outer.pid = pid;
  outer.sync = std::move(ours);
  if (child.error != 0) {
    (void)wait_pidfd(pidfd, true);
    return Error{child.error, child.op};
  }
  return outer;
}

}  // namespace

Result<LaunchedOuter> launch(const LaunchArgs& args) {
  if (args.extra_fds.size() > kMaxExtraFds) return Error{E2BIG, "place descriptors"};
  auto plan = seal_plan(args.plan);
  if (!plan) return plan.error();
  return execute_init(args, plan->get(), nullptr);
}

Result<LaunchedOuter> launch_spare(int init_fd, int exit_signal, bool network,
                                   const rlimit* open_files) {
  LaunchArgs args;
  args.init_fd = init_fd;
  args.exit_signal = exit_signal;
  args.open_files = open_files;
  return execute_init(args, -1, network ? kSpareWithNetwork : kSpare);
}

Status begin_spare(const LaunchedOuter& spare, const LaunchArgs& args) {
  auto plan = seal_plan(args.plan);
  if (!plan) return plan.error();
  return send_plan_to_init(spare.sync.get(), plan->get(), args.stdio);
}

}  // namespace bulkhead
