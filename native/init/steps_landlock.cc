// Landlock: what the kernel lets this process reach by name, however it came by a descriptor.
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/steps.h"

namespace bulkhead {

namespace {

// Access rights that exist from an ABI on (landlock(7)): 1 has 13, 2 adds REFER, 3 TRUNCATE, 5
// IOCTL_DEV. 4 adds rights of TCP ports, which the pod's network namespace decides; 6 adds scopes,
// which would keep an exec apart from the container that it was made in.
uint64_t file_rights(int abi) {
  uint64_t rights = (1u << 13) - 1;
  if (abi >= 2) rights |= 1u << 13;
  if (abi >= 3) rights |= 1u << 14;
  if (abi >= 5) rights |= 1u << 15;
  return rights;
}

}  // namespace

Outcome carry_out(Context& context, const Landlock& step) {
  long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 0) {
    if (!step.best_effort || (errno != ENOSYS && errno != EOPNOTSUPP)) return fail("landlock");
    report_warning(context, errno, "landlock");
    return done();
  }
  landlock_ruleset_attr ruleset{};
  ruleset.handled_access_fs = file_rights(static_cast<int>(abi));
  UniqueFd rules(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &ruleset, sizeof(uint64_t), 0)));
  if (!rules) return fail("landlock-ruleset");
  UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return fail("landlock-root");
  landlock_path_beneath_attr beneath{};
  beneath.allowed_access = ruleset.handled_access_fs;
  beneath.parent_fd = root.get();
  if (::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0)
    return fail("landlock-rule");
  if (::syscall(SYS_landlock_restrict_self, rules.get(), 0) < 0) return fail("landlock-restrict");
  return done();
}

}  // namespace bulkhead
