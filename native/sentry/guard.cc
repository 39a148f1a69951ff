// A supervisor that is gone must not be outlived by what it supervised. Two pidfds are all that the
// guard has; it keeps CAP_KILL of the sandbox's user namespace and may wait, signal and end.
#include "sentry/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/fd.h"

namespace bulkhead::sentry {

namespace {

int open_pid(int pid) {
  return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
}

void close_all_but(std::array<unsigned, 3> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned from = 0;
  for (unsigned fd : kept) {
    if (from < fd) ::syscall(SYS_close_range, from, fd - 1, 0);
    from = fd + 1;
  }
  ::syscall(SYS_close_range, from, ~0u, 0);
}

bool keep_kill_only() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  data[0].effective = data[0].permitted = 1u << CAP_KILL;
  if (::syscall(SYS_capset, &header, data) < 0) return false;
  static sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_poll, 5, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_restart_syscall, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_send_signal, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{sizeof code / sizeof *code, code};
  return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// Without its own walls it does not go on; the supervisor then misses the byte.
[[noreturn]] void watch(int supervisor, int target, int ready) {
  ::prctl(PR_SET_NAME, "bulkhead-guard");
  close_all_but({static_cast<unsigned>(supervisor), static_cast<unsigned>(target),
                 static_cast<unsigned>(ready)});
  if (!keep_kill_only() || ::write(ready, "+", 1) != 1) ::_exit(1);
  pollfd both[] = {{supervisor, POLLIN, 0}, {target, POLLIN, 0}};
  while (::poll(both, 2, -1) < 0 && errno == EINTR) {
  }
  if (both[0].revents != 0) ::syscall(SYS_pidfd_send_signal, target, SIGKILL, nullptr, 0);
  ::_exit(0);
}

}  // namespace

int start_guard(int pid) {
  UniqueFd target(open_pid(pid));
  UniqueFd own(open_pid(::getpid()));
  int ends[2];
  if (!target || !own || ::pipe2(ends, O_CLOEXEC) < 0) return errno;
  UniqueFd ready(ends[0]);
  UniqueFd tell(ends[1]);
  pid_t child = ::fork();
  if (child < 0) return errno;
  if (child == 0) watch(own.get(), target.get(), tell.get());
  tell.reset();
  char byte = 0;
  return ::read(ready.get(), &byte, 1) == 1 ? 0 : ECHILD;
}

}  // namespace bulkhead::sentry
