// What the supervisor says of calls (verdict), and what it tells of them (watch).
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/fd.h"
#include "sentry/verdict.h"
#include "sentry/watch.h"
#include "test/check.h"

namespace bulkhead::test {

namespace {

using namespace bulkhead::sentry;

std::string hex(const std::vector<sock_filter>& code) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const sock_filter& instruction : code) {
    unsigned char bytes[sizeof instruction];
    std::memcpy(bytes, &instruction, sizeof bytes);
    for (unsigned char byte : bytes) {
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
  }
  return text;
}

// socket(AF_PACKET, ...) is EAFNOSUPPORT (97), other calls are allowed.
std::vector<sock_filter> sample() {
  return {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_PACKET, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 97),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
}

seccomp_notif call_of(int number, uint64_t argument) {
  seccomp_notif call{};
  call.pid = 4711;
  call.data.arch = AUDIT_ARCH_X86_64;
  call.data.nr = number;
  call.data.args[0] = argument;
  return call;
}

struct Ends {
  UniqueFd ours, theirs;
};
Ends connected() {
  int pair[2];
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  return {UniqueFd(pair[0]), UniqueFd(pair[1])};
}

std::string counts_of(const Watch& watch) {
  Ends ends = connected();
  watch.send_counts(ends.ours.get());
  char buffer[65536];
  ssize_t got = ::recv(ends.theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  return got < 0 ? std::string() : std::string(buffer, static_cast<size_t>(got));
}

}  // namespace

TEST(sentry_policy_decides_as_the_filter) {
  Policy policy;
  CHECK(policy.parse(hex(sample())));
  Verdict refused = policy.decide(call_of(SYS_socket, 0x100 | AF_PACKET).data);
  CHECK_EQ(refused.action, SECCOMP_RET_ERRNO | 97u);
  CHECK_EQ(refused.looked_at, 1u);
  CHECK_EQ(policy.decide(call_of(SYS_socket, AF_INET).data).action, SECCOMP_RET_ALLOW);
  Verdict other = policy.decide(call_of(SYS_read, AF_PACKET).data);
  CHECK_EQ(other.action, SECCOMP_RET_ALLOW);
  CHECK_EQ(other.looked_at, 0u);
}

TEST(sentry_policy_refuses_what_is_no_program) {
  Policy policy;
  CHECK(!policy.parse(""));
  CHECK(!policy.parse("06"));
  CHECK(!policy.parse(hex(sample()).substr(2)));
  CHECK(!policy.parse("0z00000000000000"));
  // No return at the end; jumps and loads that lead outside; instructions that seccomp has not.
  std::vector<sock_filter> code = sample();
  code.pop_back();
  CHECK(!policy.parse(hex(code)));
  code = sample();
  code[1].jf = 6;
  CHECK(!policy.parse(hex(code)));
  code = sample();
  code[0] = BPF_JUMP(BPF_JMP | BPF_JA, 6, 0, 0);
  CHECK(!policy.parse(hex(code)));
  code = sample();
  code[0].k = sizeof(seccomp_data);
  CHECK(!policy.parse(hex(code)));
  code = sample();
  code[0].k = 2;
  CHECK(!policy.parse(hex(code)));
  code = sample();
  code[3].code = BPF_ALU | BPF_DIV | BPF_K;
  CHECK(!policy.parse(hex(code)));
  CHECK(policy.empty());
}

TEST(sentry_watch_counts_and_keeps_distinct_refusals) {
  Watch watch;
  for (int i = 0; i < 3; i++) watch.record(call_of(SYS_uname, 0), {}, 0);
  for (uint64_t i = 0; i < 200; i++) {
    Outcome refused{Decision::kRefused, 97, 0};
    watch.record(call_of(SYS_socket, i), refused, 1);
    // The same again, and another that differs only in what nobody looked at.
    watch.record(call_of(SYS_mount, i), {Decision::kRefused, 1, 0}, 0);
  }
  std::string counts = counts_of(watch);
  uint32_t counters = 0;
  uint32_t refusals = 0;
  uint64_t more = 0;
  CHECK(counts.size() > 24);
  std::memcpy(&counters, counts.data() + 8, sizeof counters);
  std::memcpy(&refusals, counts.data() + 12, sizeof refusals);
  std::memcpy(&more, counts.data() + 16, sizeof more);
  CHECK_EQ(counters, 3u);
  CHECK_EQ(refusals, 128u);
  CHECK_EQ(more, 200u - 127u);
  CHECK_EQ(counts.size(), 24u + 3 * 16 + 128 * 56);
}

TEST(sentry_watch_counts_foreign_numbers_apart) {
  Watch watch;
  seccomp_notif call = call_of(11, 0);
  call.data.arch = AUDIT_ARCH_I386;
  watch.record(call, {Decision::kRefused, 38, 0}, 0);
  watch.record(call_of(0x4000003b, 0), {Decision::kRefused, 38, 0}, 0);
  watch.record(call_of(-1, 0), {Decision::kRefused, 38, 0}, 0);
  std::string counts = counts_of(watch);
  int32_t number = 0;
  uint64_t count = 0;
  std::memcpy(&number, counts.data() + 24, sizeof number);
  std::memcpy(&count, counts.data() + 32, sizeof count);
  CHECK_EQ(number, -1);
  CHECK_EQ(count, 3u);
}

TEST(sentry_watch_never_waits_for_a_reader) {
  Watch watch;
  Ends ends = connected();
  CHECK(watch.add_reader(ends.ours.get()));
  constexpr int kRecords = 20000;
  for (int i = 0; i < kRecords; i++) watch.record(call_of(SYS_uname, 0), {}, 0);
  Record record{};
  uint64_t seen = 0;
  while (::recv(ends.theirs.get(), &record, sizeof record, MSG_DONTWAIT) == sizeof record) {
    CHECK_EQ(record.lost, 0u);
    seen++;
  }
  CHECK(seen > 0 && seen < kRecords);
  watch.record(call_of(SYS_uname, 7), {}, 0);
  CHECK(::recv(ends.theirs.get(), &record, sizeof record, MSG_DONTWAIT) == sizeof record);
  CHECK_EQ(record.lost, kRecords - seen);
  CHECK_EQ(record.tid, 4711u);
  CHECK_EQ(record.arguments[0], 7u);
  CHECK(watch.remove_reader(ends.ours.get()));
  CHECK(!watch.remove_reader(ends.ours.get()));
}

TEST(sentry_watch_has_a_bounded_number_of_readers) {
  Watch watch;
  for (int fd = 0; fd < 8; fd++) CHECK(watch.add_reader(fd + 1000));
  CHECK(!watch.add_reader(1008));
  CHECK(watch.remove_reader(1003));
  CHECK(watch.add_reader(1008));
}

}  // namespace bulkhead::test
