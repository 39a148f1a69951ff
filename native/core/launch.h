// Starting bulkhead-init with a plan, and the launcher's side of the sync socket
// (proto/executor.proto).
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>

#include "core/fd.h"
#include "core/pidfd.h"
#include "core/result.h"

namespace bulkhead {

struct LaunchArgs {
  // From open_init. Borrowed, like every descriptor here.
  int init_fd = -1;
  // Encoded bulkhead.plan.v1.LaunchPlan.
  std::span<const uint8_t> plan;
  // Become 0, 1 and 2. -1: /dev/null.
  int stdio[3] = {-1, -1, -1};
  // Become 3, 4, … of the program that Exec starts (Exec.preserve_fds says how many are kept).
  std::span<const int> extra_fds;
  // Signal to the parent at exit; 0: none, the child is only seen by pidfd and __WALL.
  int exit_signal = 0;
  // RLIMIT_NOFILE of what is launched, where the launcher has raised its own. nullptr: the same.
  const rlimit* open_files = nullptr;
};

struct LaunchedOuter {
  // The outer stage (the process itself when the plan has no Clone). Must be reaped: wait_pidfd.
  UniqueFd pidfd;
  pid_t pid = 0;
  // Our end of the sync socket, SOCK_SEQPACKET, blocking, O_CLOEXEC.
  UniqueFd sync;
};

// Most descriptors that LaunchArgs::extra_fds may hold.
inline constexpr size_t kMaxExtraFds = 512;

// Starts bulkhead-init: 0, 1, 2 = stdio, 3 = sync socket, 4 = sealed memfd with the plan, 5.. =
// extra_fds. The caller is suspended until execve (CLONE_VM | CLONE_VFORK), which takes about 0.1
// ms whatever the size of the caller; safe in programs with threads. Errors: of clone, memfd,
// socketpair, or op "exec bulkhead-init".
Result<LaunchedOuter> launch(const LaunchArgs& args);

// A bulkhead-init without a plan, for a launch that is about to come: it is executed, and has made
// a network namespace if it is told to, while others think. It does nothing else before
// begin_spare, and leaves when `sync` is closed. The caller is not suspended. Errors: of clone or
// socketpair.
Result<LaunchedOuter> launch_spare(int init_fd, int exit_signal, bool network,
                                   const rlimit* open_files = nullptr);
// Hands plan and standard streams to a spare, which is as if launched with them from then on; what
// else is in `args` is not looked at. Error: it has ended (EPIPE), or memfd.
Status begin_spare(const LaunchedOuter& spare, const LaunchArgs& args);

// A descriptor of bulkhead-init that a container cannot use to write to the file (CVE-2019-5736):
// through a private read-only overlay, so that all launches share the page cache; where that is
// refused (rootless, old kernel), a sealed copy in memory. Open it once and use it for every
// launch.
Result<UniqueFd> open_init(const char* path);
// The second way only (tests, and callers that must not hold a mount).
Result<UniqueFd> open_init_copy(const char* path);

// StepFailed and Warning of executor.proto. Strings are cut at 4096 bytes by the sender.
struct StepFailure {
  uint32_t index = 0;
  uint32_t action = 0;
  std::string path;
  int32_t err = 0;
  std::string detail;
  int32_t status = 0;
  // What the kernel (mount option log) or a hook (start of its stderr) said.
  std::string output;
};

struct InitEvent {
  enum class Kind {
    kEnd,      // end of file: execve succeeded, or the process died (its pidfd tells)
    kCloned,   // pid: the container's process, our child from now on; the outer stage is about to
               // exit 0
    kPaused,   // point: the gate it waits at; answer with send_to_init
    kFailed,   // failure; the process exits with status 1 by itself
    kConsole,  // console: the pty master
    kWarning,  // failure
  };
  Kind kind = Kind::kEnd;
  pid_t pid = 0;
  std::string point;
  StepFailure failure;
  UniqueFd console;
};

// Longest datagram on the sync socket.
inline constexpr size_t kMaxInitMessage = 16384;

// Receives one report. On a non-blocking socket error EAGAIN says that there is none. EBADMSG: not
// a FromInit.
Result<InitEvent> read_init_event(int sync_fd, bool nonblocking = false);
// Decodes one FromInit (without the descriptor of Console). False: malformed.
bool decode_init_event(std::span<const uint8_t> bytes, InitEvent& event);

// Answers kPaused. False: the process leaves quietly. `stdin_fd` (borrowed) becomes its standard
// input.
Status send_to_init(int sync_fd, bool proceed, int stdin_fd = -1);
// What a spare waits for; -1 in `stdio`: it keeps /dev/null.
Status send_plan_to_init(int sync_fd, int plan_fd, const int (&stdio)[3]);

}  // namespace bulkhead
