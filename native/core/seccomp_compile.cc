#include "core/seccomp_compile.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "core/fd.h"
#include "core/seccomp_join.h"

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

// As detected, before use_newest_api changes what the library believes.
uint32_t detected_api_level() {
  static const uint32_t level = ::seccomp_api_get();
  return level;
}

// The newest level this library has, so that the outcome depends on the policy and not on the
// kernel that compiles: what the kernel that loads the program refuses, it refuses then.
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

// The machine's own architecture and those that the policy names.
struct Arch {
  uint32_t token = 0;
  std::string name;
};

std::vector<Arch> find_archs(const SeccompPolicy& policy, std::vector<std::string>& unknown) {
  std::vector<Arch> archs{Arch{::seccomp_arch_native(), "native"}};
  for (const std::string& name : policy.archs) {
    const uint32_t token = ::seccomp_arch_resolve_name(name.c_str());
    const auto same = [token](const Arch& arch) { return arch.token == token; };
    if (token == 0) {
      unknown.push_back(name);
    } else if (std::none_of(archs.begin(), archs.end(), same)) {
      archs.push_back(Arch{token, name});
    }
  }
  return archs;
}

// A rule whose name is resolved. Names that no table has stay behind in `unknown`.
struct Resolved {
  int number;
  uint32_t action;
  const std::string* name;
  std::vector<scmp_arg_cmp> conditions;
};

std::vector<Resolved> resolve(const SeccompPolicy& policy, std::vector<std::string>& unknown) {
  std::vector<Resolved> resolved;
  resolved.reserve(policy.rules.size());
  for (const SeccompRule& rule : policy.rules) {
    const int number = ::seccomp_syscall_resolve_name(rule.name.c_str());
    if (number == __NR_SCMP_ERROR) {
      if (std::find(unknown.begin(), unknown.end(), rule.name) == unknown.end()) {
        unknown.push_back(rule.name);
      }
      continue;
    }
    Resolved& added = resolved.emplace_back(Resolved{number, rule.action, &rule.name, {}});
    for (const SeccompCondition& c : rule.conditions) {
      added.conditions.push_back(scmp_arg_cmp{c.index, static_cast<scmp_compare>(c.op), c.a, c.b});
    }
  }
  return resolved;
}

// seccomp_export_bpf writes to a descriptor; libseccomp has no export to memory before 2.6.
int export_program(scmp_filter_ctx filter, std::vector<sock_filter>& program) {
  const UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) return errno;
  const int rc = ::seccomp_export_bpf(filter, file.get());
  if (rc != 0) return -rc;
  struct stat status;
  if (::fstat(file.get(), &status) != 0) return errno;
  const auto size = static_cast<size_t>(status.st_size);
  program.resize(size / sizeof(sock_filter));
  const ssize_t got = ::pread(file.get(), program.data(), size, 0);
  if (got < 0) return errno;
  return static_cast<size_t>(got) == size ? 0 : EIO;
}

// libseccomp's program for one architecture. Its time grows faster than the number of architectures
// in a filter, so each has a filter of its own: 6 ms instead of 9 ms for a default profile with
// three.
int compile_arch(const Arch& arch, uint32_t default_action, const std::vector<Resolved>& rules,
                 std::vector<sock_filter>& program, SeccompOutcome& outcome) {
  const Filter filter(::seccomp_init(default_action));
  outcome.op = "seccomp_init";
  outcome.object = arch.name;
  if (!filter) return EINVAL;
  // Binary search over the numbers instead of a chain: halves what the kernel needs to load the
  // program, for it runs it for every number then (Linux 5.11). Libraries before 2.5 do not know
  // it.
  (void)::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (arch.token != ::seccomp_arch_native()) {
    outcome.op = "seccomp_arch_add";
    if (const int rc = ::seccomp_arch_add(filter.get(), arch.token); rc != 0) return -rc;
    if (const int rc = ::seccomp_arch_remove(filter.get(), SCMP_ARCH_NATIVE); rc != 0) return -rc;
  }
  outcome.op = "seccomp_rule_add";
  for (const Resolved& rule : rules) {
    // libseccomp refuses (EACCES) a rule that says what the default says.
    if (rule.action == default_action) continue;
    const int rc = ::seccomp_rule_add_array(filter.get(), rule.action, rule.number,
                                            static_cast<unsigned>(rule.conditions.size()),
                                            rule.conditions.data());
    // The same rule twice changes nothing.
    if (rc == 0 || rc == -EEXIST) continue;
    outcome.object = arch.name + " " + *rule.name;
    return -rc;
  }
  outcome.op = "seccomp_export_bpf";
  return export_program(filter.get(), program);
}

// The highest number that the policy names. Names of other architectures resolve to negative pseudo
// numbers.
std::optional<uint32_t> find_last(uint32_t arch, const SeccompPolicy& policy) {
  int last = -1;
  for (const SeccompRule& rule : policy.rules) {
    last = std::max(last, ::seccomp_syscall_resolve_name_arch(arch, rule.name.c_str()));
  }
  if (last < 0) return std::nullopt;
  return static_cast<uint32_t>(last) | (arch == SCMP_ARCH_X32 ? kX32Bit : 0);
}

}  // namespace

SeccompOutcome compile_seccomp(const SeccompPolicy& policy) {
  use_newest_api();
  SeccompOutcome outcome;
  const std::vector<Arch> archs = find_archs(policy, outcome.unknown_archs);
  const std::vector<Resolved> rules = resolve(policy, outcome.unknown_syscalls);
  constexpr uint32_t kNoSys = SECCOMP_RET_ERRNO | ENOSYS;
  const bool add_nosys = !is_permissive(policy.default_action) && policy.default_action != kNoSys;

  std::vector<SeccompTable> tables;
  for (const Arch& arch : archs) {
    SeccompTable& table = tables.emplace_back();
    table.x32 = arch.token == SCMP_ARCH_X32;
    table.audit_arch = table.x32 ? uint32_t{SCMP_ARCH_X86_64} : arch.token;
    if (add_nosys) table.last = find_last(arch.token, policy);
    outcome.error = compile_arch(arch, policy.default_action, rules, table.program, outcome);
    if (outcome.error != 0) return outcome;
  }
  const std::vector<sock_filter> joined = join_seccomp(tables);
  if (joined.size() > BPF_MAXINSNS) {
    outcome.error = E2BIG;
    outcome.object = std::to_string(joined.size()) + " instructions";
    return outcome;
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(joined.data());
  outcome.program.assign(bytes, bytes + joined.size() * sizeof(sock_filter));
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
