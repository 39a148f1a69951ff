#include "core/pidfd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bulkhead {

namespace {

constexpr int kIdTypePidfd = 3;  // P_PIDFD, Linux 5.4

// waitid(2) gives the parts; waitpid(2)'s encoding is what containerd's exit codes are derived
// from.
int encode_wait_status(const siginfo_t& info) {
  switch (info.si_code) {
    case CLD_EXITED:
      return (info.si_status & 0xff) << 8;
    case CLD_DUMPED:
      return (info.si_status & 0x7f) | 0x80;
    default:
      return info.si_status & 0x7f;
  }
}

// What a tracee that stops for a signal is to get of it.
int signal_to_deliver(const siginfo_t& stop) {
  siginfo_t cause{};
  // EINVAL: its whole group has stopped, and stays so without us.
  if (::ptrace(PTRACE_GETSIGINFO, stop.si_pid, nullptr, &cause) < 0) return 0;
  // Only a tracee gets a SIGTRAP of execve(2).
  return cause.si_signo == SIGTRAP && cause.si_code == SI_USER ? 0 : cause.si_signo;
}

// A number of /proc/PID/stat, counted from 1 as in proc_pid_stat(5).
Result<uint64_t> stat_field(pid_t pid, int wanted) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return Error{errno == ENOENT ? ESRCH : errno, "open"};
  char text[1024];
  ssize_t got = ::read(fd.get(), text, sizeof text - 1);
  if (got <= 0) return Error{got == 0 ? ESRCH : errno, "read"};
  text[got] = '\0';
  // The name (field 2) may hold spaces and parentheses: count from the last ")".
  const char* at = std::strrchr(text, ')');
  if (at == nullptr) return Error{EBADMSG, "read"};
  for (int field = 2; field < wanted; field++) {
    at = std::strchr(at + 1, ' ');
    if (at == nullptr) return Error{EBADMSG, "read"};
  }
  return static_cast<uint64_t>(std::strtoull(at + 1, nullptr, 10));
}

}  // namespace

Result<UniqueFd> pidfd_open(pid_t pid) {
  long fd = ::syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return last_error("pidfd_open");
  return UniqueFd(static_cast<int>(fd));
}

Status pidfd_signal(int pidfd, int signum) {
  if (::syscall(SYS_pidfd_send_signal, pidfd, signum, nullptr, 0) < 0) {
    return last_error("pidfd_send_signal");
  }
  return success();
}

Result<ExitStatus> wait_pidfd(int pidfd, bool block) {
  siginfo_t info;
  for (;;) {
    std::memset(&info, 0, sizeof info);
    int options = WEXITED | __WALL | (block ? 0 : WNOHANG);
    if (::waitid(static_cast<idtype_t>(kIdTypePidfd), static_cast<id_t>(pidfd), &info, options) <
        0) {
      if (errno != EINTR) return last_error("waitid");
    } else if (info.si_pid == 0 || !is_trace_stop(info)) {
      break;
    } else {
      (void)end_trace(info).ok();  // ESRCH: its end is next
    }
  }
  ExitStatus status;
  if (info.si_pid == 0) return status;
  status.pid = info.si_pid;
  status.wait_status = encode_wait_status(info);
  status.exited = true;
  return status;
}

bool is_trace_stop(const siginfo_t& info) {
  return info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED;
}

Status end_trace(const siginfo_t& stop) {
  const long signum = signal_to_deliver(stop);
  if (::ptrace(PTRACE_DETACH, stop.si_pid, nullptr, signum) < 0) return last_error("ptrace");
  return success();
}

Result<uint64_t> process_start_time(pid_t pid) {
  return stat_field(pid, 22);
}

unsigned long task_flags(pid_t pid) {
  const Result<uint64_t> flags = stat_field(pid, 9);
  return flags ? static_cast<unsigned long>(flags.value()) : 0;
}

}  // namespace bulkhead
