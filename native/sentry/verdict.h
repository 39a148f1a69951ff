// What the policy says of a system call: the workload's filter, run here once more.
//
// A filter hands some refusals over so that they can be counted. Why it would have refused is known
// by running the plain one, which is made from the same table: there is no second truth.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace bulkhead::sentry {

struct Verdict {
  // SECCOMP_RET_*, with its data.
  uint32_t action = SECCOMP_RET_ERRNO | 38;
  // Bit n: argument n was looked at.
  unsigned looked_at = 0;
};

class Policy {
 public:
  // Instructions of struct sock_filter in hexadecimal. False: malformed, or with an instruction or
  // a jump that seccomp(2) has not.
  bool parse(std::string_view hex);
  bool empty() const { return code_.empty(); }
  Verdict decide(const seccomp_data& call) const;

 private:
  std::vector<sock_filter> code_;
};

}  // namespace bulkhead::sentry
