// bpf(2), for which the C library has no wrapper.
#pragma once

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace bulkhead {

// A descriptor, 0, or -1 with errno. The verifier stops with EAGAIN when a signal is pending, which
// a program with handlers (Node: SIGCHLD) then handles: it is asked again.
inline int bpf(int command, bpf_attr* attr) {
  constexpr int kAttempts = 32;
  int result;
  int attempt = 0;
  do {
    result = static_cast<int>(::syscall(SYS_bpf, command, attr, sizeof(*attr)));
  } while (result < 0 && errno == EAGAIN && ++attempt < kAttempts);
  return result;
}

}  // namespace bulkhead
