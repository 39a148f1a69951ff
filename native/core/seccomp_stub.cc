#include "core/seccomp_stub.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include <algorithm>

namespace bulkhead {
namespace {

constexpr uint32_t kX32Bit = 0x40000000;

// Numbers of one audit architecture; absent tables are -1.
struct Limits {
  uint32_t audit_arch;
  int64_t plain = -1;
  int64_t x32 = -1;
};

std::vector<Limits> merge(const std::vector<SeccompTable>& tables) {
  std::vector<Limits> merged;
  for (const SeccompTable& table : tables) {
    auto found = std::find_if(merged.begin(), merged.end(),
                              [&](const Limits& l) { return l.audit_arch == table.audit_arch; });
    if (found == merged.end()) {
      merged.push_back(Limits{.audit_arch = table.audit_arch});
      found = merged.end() - 1;
    }
    (table.x32 ? found->x32 : found->plain) = table.last;
  }
  return merged;
}

sock_filter load(size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}

// The checks of one architecture; `kPass` and `kRefuse` stand for jumps that finish() fills in.
constexpr uint32_t kPass = 0xfffffffe;
constexpr uint32_t kRefuse = 0xffffffff;

sock_filter jump(uint32_t where) {
  return BPF_STMT(BPF_JMP | BPF_JA, where);
}

void add_checks(const Limits& limits, std::vector<sock_filter>& out) {
  out.push_back(load(offsetof(seccomp_data, nr)));
  if (limits.audit_arch == AUDIT_ARCH_X86_64) {
    // nr -1 is what a tracer sets to skip a call; it is above every limit and libseccomp treats it specially.
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 0, 1));
    out.push_back(jump(kPass));
    const uint8_t plain_checks = limits.plain >= 0 ? 3 : 1;
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, plain_checks, 0));
  }
  if (limits.plain >= 0) {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, static_cast<uint32_t>(limits.plain), 0, 1));
    out.push_back(jump(kRefuse));
  }
  out.push_back(jump(kPass));
  if (limits.x32 >= 0) {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, static_cast<uint32_t>(limits.x32), 0, 1));
    out.push_back(jump(kRefuse));
  }
  if (limits.audit_arch == AUDIT_ARCH_X86_64) out.push_back(jump(kPass));
}

}  // namespace

std::vector<sock_filter> seccomp_enosys_stub(const std::vector<SeccompTable>& tables) {
  std::vector<sock_filter> stub;
  if (tables.empty()) return stub;
  stub.push_back(load(offsetof(seccomp_data, arch)));
  for (const Limits& limits : merge(tables)) {
    std::vector<sock_filter> checks;
    add_checks(limits, checks);
    // Past the checks the accumulator still holds the architecture.
    const auto length = static_cast<uint8_t>(checks.size());
    stub.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, limits.audit_arch, 0, length));
    stub.insert(stub.end(), checks.begin(), checks.end());
  }
  stub.push_back(jump(kPass));
  stub.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));

  const auto end = static_cast<uint32_t>(stub.size());
  for (uint32_t i = 0; i < end; ++i) {
    if (stub[i].code != (BPF_JMP | BPF_JA)) continue;
    stub[i].k = (stub[i].k == kRefuse ? end - 1 : end) - (i + 1);
  }
  return stub;
}

}  // namespace bulkhead
