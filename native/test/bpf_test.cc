// bpf(2) under signals.
#include <linux/bpf.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "core/bpf_call.h"
#include "core/fd.h"
#include "test/check.h"

namespace bulkhead::test {

namespace {

volatile sig_atomic_t signals = 0;
void count(int) {
  signals = signals + 1;
}

// "Allow": r0 = 1; exit. Behind a long row of moves, so that the verifier has something to do.
int load() {
  constexpr size_t kMoves = 400;
  static bpf_insn code[kMoves + 2];
  for (size_t i = 0; i < kMoves + 1; i++) {
    code[i] = {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 1};
  }
  code[kMoves + 1] = {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0};
  bpf_attr attr;
  ::memset(&attr, 0, sizeof attr);
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = reinterpret_cast<uint64_t>(code);
  attr.insn_cnt = kMoves + 2;
  attr.license = reinterpret_cast<uint64_t>("");
  attr.expected_attach_type = BPF_CGROUP_DEVICE;
  return bpf(BPF_PROG_LOAD, &attr);
}

}  // namespace

TEST(bpf_programs_are_loaded_while_signals_come) {
  UniqueFd first(load());
  REQUIRE(first);
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = count;
  ::sigaction(SIGALRM, &action, &before);
  itimerval often{{0, 1000}, {0, 1000}};
  itimerval never{};
  ::setitimer(ITIMER_REAL, &often, nullptr);
  int failed = 0;
  for (int i = 0; i < 1000; i++) {
    UniqueFd program(load());
    if (!program) failed = errno;
  }
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  CHECK_EQ(failed, 0);
  CHECK(signals > 0);
}

}  // namespace bulkhead::test
