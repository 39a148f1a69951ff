// Seccomp policies to classic BPF by libseccomp. Needs libseccomp; linked into the addon only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bulkhead {

// One comparison of a system call argument; operators are those of enum scmp_compare
// (seccomp_rule_add(3)).
struct SeccompCondition {
  uint32_t index = 0;
  uint32_t op = 0;
  uint64_t a = 0;
  uint64_t b = 0;
};

// All conditions must hold. Several rules for one name are alternatives.
struct SeccompRule {
  std::string name;
  // SECCOMP_RET_* with its 16 data bits.
  uint32_t action = 0;
  std::vector<SeccompCondition> conditions;
};

struct SeccompPolicy {
  uint32_t default_action = 0;
  // libseccomp's names ("x86_64", "x32"). The machine's own is always in the filter.
  std::vector<std::string> archs;
  std::vector<SeccompRule> rules;
};

struct SeccompOutcome {
  // 0, or the errno of what failed; then `object` says on what and `op` in which call.
  int error = 0;
  std::string op;
  std::string object;
  // struct sock_filter[], host byte order.
  std::vector<uint8_t> program;
  // Names of system calls and architectures that this libseccomp does not know; they were passed
  // over.
  std::vector<std::string> unknown_syscalls;
  std::vector<std::string> unknown_archs;
};

// Compiles the policy. Where the default action refuses, system calls with numbers above the
// highest one that the policy names answer ENOSYS: a C library that tries a newer call then falls
// back to the older one, which it does not do for EPERM.
SeccompOutcome compile_seccomp(const SeccompPolicy& policy);

struct SeccompLibrary {
  uint32_t major = 0;
  uint32_t minor = 0;
  uint32_t micro = 0;
  // What libseccomp found in this kernel, seccomp_api_get(3).
  uint32_t api_level = 0;
  // SECCOMP_FILTER_FLAG_* that this kernel takes.
  uint32_t kernel_flags = 0;
  std::string native_arch;
};
SeccompLibrary seccomp_library();

}  // namespace bulkhead
