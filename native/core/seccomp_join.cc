#include "core/seccomp_join.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include <algorithm>

namespace bulkhead {
namespace {

using Program = std::vector<sock_filter>;

constexpr uint32_t kX32Bit = 0x40000000;
// What a tracer sets to have a call skipped; libseccomp's x86-64 programs know it.
constexpr uint32_t kSkipped = 0xffffffff;

constexpr uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS;
constexpr uint16_t kEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr uint16_t kGreater = BPF_JMP | BPF_JGT | BPF_K;
constexpr uint16_t kGreaterEqual = BPF_JMP | BPF_JGE | BPF_K;
constexpr uint16_t kSkip = BPF_JMP | BPF_JA;
constexpr uint16_t kReturn = BPF_RET | BPF_K;

void append(Program& program, const Program& more) {
  program.insert(program.end(), more.begin(), more.end());
}

sock_filter load_number() {
  return BPF_STMT(kLoad, offsetof(seccomp_data, nr));
}

// The ENOSYS check, with the number in the accumulator, and the table's program.
Program make_block(const SeccompTable& table) {
  Program block;
  if (table.last) {
    const bool plain_x86 = table.audit_arch == AUDIT_ARCH_X86_64 && !table.x32;
    if (plain_x86) block.push_back(BPF_JUMP(kGreaterEqual, kX32Bit, 2, 0));
    block.push_back(BPF_JUMP(kGreater, *table.last, 0, 1));
    block.push_back(BPF_STMT(kReturn, SECCOMP_RET_ERRNO | ENOSYS));
  }
  append(block, table.program);
  return block;
}

const SeccompTable* find(const std::vector<SeccompTable>& tables, uint32_t arch, bool x32) {
  const auto found = std::find_if(tables.begin(), tables.end(), [&](const SeccompTable& table) {
    return table.audit_arch == arch && table.x32 == x32;
  });
  return found == tables.end() ? nullptr : &*found;
}

// Everything for one value of seccomp_data.arch.
Program make_architecture(const std::vector<SeccompTable>& tables, uint32_t arch) {
  Program code{load_number()};
  const SeccompTable* plain = find(tables, arch, false);
  const SeccompTable* x32 = find(tables, arch, true);
  const Program plain_block = plain != nullptr ? make_block(*plain) : Program{};
  if (x32 != nullptr) {
    const auto length = static_cast<uint32_t>(plain_block.size());
    code.push_back(BPF_JUMP(kEqual, kSkipped, 2, 0));
    code.push_back(BPF_JUMP(kGreaterEqual, kX32Bit, 0, 1));
    code.push_back(BPF_STMT(kSkip, length));
  }
  append(code, plain_block);
  if (x32 != nullptr) append(code, make_block(*x32));
  return code;
}

}  // namespace

std::vector<sock_filter> join_seccomp(const std::vector<SeccompTable>& tables) {
  std::vector<uint32_t> archs;
  for (const SeccompTable& table : tables) {
    if (std::find(archs.begin(), archs.end(), table.audit_arch) == archs.end()) {
      archs.push_back(table.audit_arch);
    }
  }
  Program joined{BPF_STMT(kLoad, offsetof(seccomp_data, arch))};
  for (const uint32_t arch : archs) {
    const Program code = make_architecture(tables, arch);
    // Past the code the accumulator still holds the architecture.
    joined.push_back(BPF_JUMP(kEqual, arch, 1, 0));
    joined.push_back(BPF_STMT(kSkip, static_cast<uint32_t>(code.size())));
    append(joined, code);
  }
  joined.push_back(BPF_STMT(kReturn, SECCOMP_RET_KILL_THREAD));
  return joined;
}

}  // namespace bulkhead
