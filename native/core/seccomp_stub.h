// The part of a seccomp program that runs before libseccomp's: newer system calls answer ENOSYS.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

namespace bulkhead {

// The highest known number of one system call table.
struct SeccompTable {
  // AUDIT_ARCH_* that the kernel reports in seccomp_data.arch.
  uint32_t audit_arch = 0;
  uint32_t last = 0;
  // x86-64 and x32 share AUDIT_ARCH_X86_64; x32 numbers carry bit 30.
  bool x32 = false;
};

// Instructions that answer ENOSYS for numbers above `last` of the tables given, and fall through for everything else
// (also for architectures and the x32 range when they have no table here: the filter behind decides).
// Empty when there are no tables.
std::vector<sock_filter> seccomp_enosys_stub(const std::vector<SeccompTable>& tables);

}  // namespace bulkhead
