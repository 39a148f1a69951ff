// One seccomp program out of one program for each system call table.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace bulkhead {

struct SeccompTable {
  // AUDIT_ARCH_* that the kernel reports in seccomp_data.arch.
  uint32_t audit_arch = 0;
  // x86-64 and x32 share AUDIT_ARCH_X86_64; x32 numbers carry bit 30.
  bool x32 = false;
  // Numbers above this one answer ENOSYS before the program is asked.
  std::optional<uint32_t> last;
  // Decides the rest. Ends in a return on every path; expects nothing in the accumulator.
  std::vector<sock_filter> program;
};

// Looks at the architecture and runs the program of its table; other architectures are killed, as
// libseccomp has it. Where there is no x32 table the x86-64 program gets x32 numbers (and
// libseccomp's kills them).
std::vector<sock_filter> join_seccomp(const std::vector<SeccompTable>& tables);

}  // namespace bulkhead
