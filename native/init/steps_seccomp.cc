// The system call filter, and the hand-over of its notification descriptor.
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>

#include "core/pidfd.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

constexpr size_t kStack = 32u << 10;

int install(const Seccomp& step, uint32_t flags) {
  sock_fprog program{};
  program.len = static_cast<unsigned short>(step.program.size() / sizeof(sock_filter));
  program.filter = reinterpret_cast<sock_filter*>(const_cast<uint8_t*>(step.program.data()));
  return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

// Shared with the sender. The values of `state` go up.
struct HandOver {
  enum : int { kWaiting, kInstalled, kAbandoned, kSent, kFailed };
  std::atomic<int> state{kWaiting};
  int listener = -1;
  int socket = -1;
  std::string message;
};

bool send_listener(HandOver& shared) {
  iovec part{shared.message.data(), shared.message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &shared.listener, sizeof(int));
  return ::sendmsg(shared.socket, &header, MSG_NOSIGNAL) >= 0;
}

int sender_main(void* data) {
  HandOver& shared = *static_cast<HandOver*>(data);
  while (shared.state.load() == HandOver::kWaiting) {
    timespec pause{0, 50000};
    ::nanosleep(&pause, nullptr);
  }
  if (shared.state.load() == HandOver::kInstalled) {
    shared.state.store(send_listener(shared) ? HandOver::kSent : HandOver::kFailed);
  }
  return 0;
}

// Once the filter is in, any system call of ours may wait for the very agent that does not have the
// descriptor yet. So a helper that shares our memory and descriptors, started before and thus
// unfiltered, sends it; the two talk by memory only.
Outcome install_with_listener(const Seccomp& step, int socket) {
  HandOver shared;
  shared.socket = socket;
  // An agent that does not read must not keep us spinning below.
  timeval limit{10, 0};
  (void)::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  shared.message.assign(reinterpret_cast<const char*>(step.state_prefix.data()),
                        step.state_prefix.size());
  shared.message += std::to_string(::getpid());
  shared.message.append(reinterpret_cast<const char*>(step.state_suffix.data()),
                        step.state_suffix.size());
  void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return fail("mmap");
  int pidfd = -1;
  pid_t pid = ::clone(sender_main, static_cast<char*>(stack) + kStack,
                      CLONE_VM | CLONE_FILES | CLONE_PIDFD, &shared, &pidfd);
  if (pid < 0) return fail("clone");
  UniqueFd helper(pidfd);
  int listener = install(step, step.flags | SECCOMP_FILTER_FLAG_NEW_LISTENER);
  int err = errno;
  if (listener < 0) {
    shared.state.store(HandOver::kAbandoned);
    (void)wait_pidfd(helper.get(), true);
    return fail_with(err, "seccomp");
  }
  shared.listener = listener;
  shared.state.store(HandOver::kInstalled);
  // No system call here, see above; the helper needs some microseconds.
  while (shared.state.load() == HandOver::kInstalled) __asm__ __volatile__("" ::: "memory");
  bool sent = shared.state.load() == HandOver::kSent;
  (void)wait_pidfd(helper.get(), true);
  ::close(listener);
  return sent ? done() : fail_with(EPIPE, "listener");
}

}  // namespace

Outcome carry_out(Context& context, const Seccomp& step) {
  size_t count = step.program.size() / sizeof(sock_filter);
  if (count == 0 || count > BPF_MAXINSNS || step.program.size() % sizeof(sock_filter) != 0) {
    return fail_with(EINVAL, "program-size");
  }
  int socket = step.listener_slot ? context.slot(step.listener_slot).fd.get() : -1;
  if (step.listener_slot && socket < 0) return fail_with(EBADF, "empty-slot");
  const auto& steps = context.plan->steps;
  if (context.index + 1 < steps.size()) {
    if (const Exec* exec = std::get_if<Exec>(&steps[context.index + 1].body)) {
      Outcome outcome = prepare_exec(context, *exec, socket < 0 ? nullptr : &socket);
      if (!outcome.ok()) return outcome;
    }
  }
  Outcome outcome = done();
  if (socket >= 0) {
    outcome = install_with_listener(step, socket);
  } else if (install(step, step.flags) < 0) {
    outcome = fail("seccomp");
  }
  context.filtered = outcome.ok();
  return outcome;
}

}  // namespace bulkhead
