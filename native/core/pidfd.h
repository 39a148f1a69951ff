// Processes by descriptor: no signal and no wait can hit a recycled pid.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstdint>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead {

// pidfd_open(2).
Result<UniqueFd> pidfd_open(pid_t pid);
// pidfd_send_signal(2).
Status pidfd_signal(int pidfd, int signum);

struct ExitStatus {
  pid_t pid = 0;
  // As waitpid(2) gives it. Only meaningful when `exited`.
  int wait_status = 0;
  bool exited = false;
};
// Reaps the child behind a pidfd, whatever its exit signal (__WALL). With block false, `exited` is
// false while it still runs, and as long as its end belongs to another that traces it. Error
// ECHILD: not our child, or reaped already.
Result<ExitStatus> wait_pidfd(int pidfd, bool block);

// PTRACE_TRACEME makes a parent the tracer of its child, unasked, and from then on waitid(2) has
// the stops of that child (or of a thread of its) to tell, also without WSTOPPED.
bool is_trace_stop(const siginfo_t& info);
// Traces it no more: it goes on as if it had never asked for it. Error ESRCH: it has been killed.
Status end_trace(const siginfo_t& stop);

// Start time in clock ticks since boot, proc_pid_stat(5) field 22. Error ESRCH: no such process.
Result<uint64_t> process_start_time(pid_t pid);

// Flags of the kernel's task (include/linux/sched.h), visible as field 9 of proc_pid_stat(5).
constexpr unsigned long kTaskExiting = 0x4;  // PF_EXITING
// PF_FORKNOEXEC: cloned, and execve not done yet; cleared before O_CLOEXEC takes effect, kept by a
// zombie.
constexpr unsigned long kTaskForkNoExec = 0x40;
// 0 when they cannot be read. `pid` has to be a child of ours that is not reaped, so that it is
// nobody else.
unsigned long task_flags(pid_t pid);

}  // namespace bulkhead
