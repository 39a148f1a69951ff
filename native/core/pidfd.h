// Processes by descriptor: no signal and no wait can hit a recycled pid.
#pragma once

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
// false while it still runs. Error ECHILD: not our child, or reaped already.
Result<ExitStatus> wait_pidfd(int pidfd, bool block);

// Start time in clock ticks since boot, proc_pid_stat(5) field 22. Error ESRCH: no such process.
Result<uint64_t> process_start_time(pid_t pid);

}  // namespace bulkhead
