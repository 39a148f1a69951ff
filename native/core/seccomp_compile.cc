#include "core/seccomp_compile.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/fd.h"
#include "core/seccomp_stub.h"

// Newer than Debian 12's <linux/seccomp.h> on some machines (Linux 5.19).
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace bulkhead {
namespace {

struct ReleaseFilter {
  void operator()(void* filter) const { ::seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, ReleaseFilter>;

constexpr uint32_t kX32Bit = 0x40000000;

SeccompOutcome failure(int error, const char* op, std::string object) {
  SeccompOutcome outcome;
  outcome.error = error;
  outcome.op = op;
  outcome.object = std::move(object);
  return outcome;
}

// As detected, before use_newest_api changes what the library believes.
uint32_t detected_api_level() {
  static const uint32_t level = ::seccomp_api_get();
  return level;
}

// The newest level this library has, so that the outcome depends on the policy and not on the kernel that compiles:
// what the kernel that loads the program refuses, it refuses then.
void use_newest_api() {
  detected_api_level();
  for (unsigned level = 7; level > 0; --level) {
    if (::seccomp_api_set(level) == 0) return;
  }
}

// Actions that let an unknown call through, or hand it to a tracer that knows.
bool is_permissive(uint32_t action) {
  const uint32_t kind = action & SECCOMP_RET_ACTION_FULL;
  return kind == SECCOMP_RET_ALLOW || kind == SECCOMP_RET_LOG || kind == SECCOMP_RET_TRACE;
}

int add_archs(scmp_filter_ctx filter, const SeccompPolicy& policy, std::vector<uint32_t>& archs,
              SeccompOutcome& outcome) {
  archs.push_back(::seccomp_arch_native());
  for (const std::string& name : policy.archs) {
    const uint32_t token = ::seccomp_arch_resolve_name(name.c_str());
    if (token == 0) {
      outcome.unknown_archs.push_back(name);
      continue;
    }
    if (std::find(archs.begin(), archs.end(), token) != archs.end()) continue;
    const int rc = ::seccomp_arch_add(filter, token);
    if (rc != 0) {
      outcome.op = "seccomp_arch_add";
      outcome.object = name;
      return -rc;
    }
    archs.push_back(token);
  }
  return 0;
}

int add_rule(scmp_filter_ctx filter, const SeccompPolicy& policy, const SeccompRule& rule,
             SeccompOutcome& outcome) {
  // libseccomp refuses (EACCES) a rule that says what the default says.
  if (rule.action == policy.default_action) return 0;
  const int number = ::seccomp_syscall_resolve_name(rule.name.c_str());
  if (number == __NR_SCMP_ERROR) {
    if (std::find(outcome.unknown_syscalls.begin(), outcome.unknown_syscalls.end(), rule.name) ==
        outcome.unknown_syscalls.end()) {
      outcome.unknown_syscalls.push_back(rule.name);
    }
    return 0;
  }
  std::vector<scmp_arg_cmp> conditions;
  conditions.reserve(rule.conditions.size());
  for (const SeccompCondition& c : rule.conditions) {
    conditions.push_back(
        scmp_arg_cmp{c.index, static_cast<scmp_compare>(c.op), c.a, c.b});
  }
  const int rc = ::seccomp_rule_add_array(filter, rule.action, number,
                                          static_cast<unsigned>(conditions.size()),
                                          conditions.data());
  // The same rule twice changes nothing.
  if (rc == 0 || rc == -EEXIST) return 0;
  outcome.op = "seccomp_rule_add";
  outcome.object = rule.name;
  return -rc;
}

std::vector<SeccompTable> find_last_syscalls(const SeccompPolicy& policy,
                                             const std::vector<uint32_t>& archs) {
  std::vector<SeccompTable> tables;
  for (const uint32_t arch : archs) {
    int last = -1;
    for (const SeccompRule& rule : policy.rules) {
      last = std::max(last, ::seccomp_syscall_resolve_name_arch(arch, rule.name.c_str()));
    }
    // Names of other architectures resolve to negative pseudo numbers.
    if (last < 0) continue;
    const bool x32 = arch == SCMP_ARCH_X32;
    auto number = static_cast<uint32_t>(last);
    if (x32) number |= kX32Bit;
    tables.push_back(SeccompTable{
        .audit_arch = x32 ? uint32_t{SCMP_ARCH_X86_64} : arch, .last = number, .x32 = x32});
  }
  return tables;
}

// seccomp_export_bpf writes to a descriptor; libseccomp has no export to memory before 2.6.
int export_program(scmp_filter_ctx filter, std::vector<uint8_t>& program) {
  const UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) return errno;
  const int rc = ::seccomp_export_bpf(filter, file.get());
  if (rc != 0) return -rc;
  struct stat status;
  if (::fstat(file.get(), &status) != 0) return errno;
  const auto size = static_cast<size_t>(status.st_size);
  const size_t start = program.size();
  program.resize(start + size);
  const ssize_t got = ::pread(file.get(), program.data() + start, size, 0);
  if (got < 0) return errno;
  return static_cast<size_t>(got) == size ? 0 : EIO;
}

}  // namespace

SeccompOutcome compile_seccomp(const SeccompPolicy& policy) {
  use_newest_api();
  const Filter filter(::seccomp_init(policy.default_action));
  if (!filter) return failure(EINVAL, "seccomp_init", "default action");
  // Binary search over the numbers instead of a chain: shorter paths, and the kernel's emulation of every number at
  // load time (Linux 5.11) gets that much faster. Libraries before 2.5 do not know it.
  (void)::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);

  SeccompOutcome outcome;
  std::vector<uint32_t> archs;
  outcome.error = add_archs(filter.get(), policy, archs, outcome);
  if (outcome.error != 0) return outcome;
  for (const SeccompRule& rule : policy.rules) {
    outcome.error = add_rule(filter.get(), policy, rule, outcome);
    if (outcome.error != 0) return outcome;
  }

  constexpr uint32_t kNoSys = SECCOMP_RET_ERRNO | ENOSYS;
  if (!is_permissive(policy.default_action) && policy.default_action != kNoSys) {
    const auto stub = seccomp_enosys_stub(find_last_syscalls(policy, archs));
    const auto* bytes = reinterpret_cast<const uint8_t*>(stub.data());
    outcome.program.assign(bytes, bytes + stub.size() * sizeof(sock_filter));
  }
  outcome.error = export_program(filter.get(), outcome.program);
  if (outcome.error != 0) {
    outcome.op = "seccomp_export_bpf";
  } else if (outcome.program.size() > BPF_MAXINSNS * sizeof(sock_filter)) {
    outcome.error = E2BIG;
    outcome.op = "seccomp_export_bpf";
    outcome.object = std::to_string(outcome.program.size() / sizeof(sock_filter)) + " instructions";
  }
  return outcome;
}

SeccompLibrary seccomp_library() {
  SeccompLibrary library;
  if (const scmp_version* version = ::seccomp_version(); version != nullptr) {
    library.major = version->major;
    library.minor = version->minor;
    library.micro = version->micro;
  }
  library.api_level = detected_api_level();
  // A null program: EFAULT says that the flag itself is known, EINVAL that it is not (seccomp(2)).
  for (const unsigned long flag :
       {SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_TSYNC_ESRCH}) {
    if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag, nullptr) != 0 && errno == EFAULT) {
      library.kernel_flags |= static_cast<uint32_t>(flag);
    }
  }
  // Only together with NEW_LISTENER.
  constexpr unsigned long kWait =
      SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | SECCOMP_FILTER_FLAG_NEW_LISTENER;
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, kWait, nullptr) != 0 && errno == EFAULT) {
    library.kernel_flags |= static_cast<uint32_t>(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
  }
  switch (::seccomp_arch_native()) {
    case SCMP_ARCH_X86_64:
      library.native_arch = "x86_64";
      break;
    case SCMP_ARCH_X86:
      library.native_arch = "x86";
      break;
    case SCMP_ARCH_AARCH64:
      library.native_arch = "aarch64";
      break;
    case SCMP_ARCH_ARM:
      library.native_arch = "arm";
      break;
    case SCMP_ARCH_PPC64LE:
      library.native_arch = "ppc64le";
      break;
    case SCMP_ARCH_S390X:
      library.native_arch = "s390x";
      break;
    case SCMP_ARCH_RISCV64:
      library.native_arch = "riscv64";
      break;
    default:
      library.native_arch = "unknown";
  }
  return library;
}

}  // namespace bulkhead
