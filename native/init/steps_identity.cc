// User, groups, capabilities.
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/steps.h"

namespace bulkhead {

namespace {

struct CapSets {
  uint64_t effective = 0, permitted = 0, inheritable = 0;
};

int cap_call(long number, CapSets& sets) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (number == SYS_capset) {
    for (int half = 0; half < 2; half++) {
      data[half].effective = static_cast<uint32_t>(sets.effective >> (32 * half));
      data[half].permitted = static_cast<uint32_t>(sets.permitted >> (32 * half));
      data[half].inheritable = static_cast<uint32_t>(sets.inheritable >> (32 * half));
    }
  }
  if (::syscall(number, &header, data) < 0) return errno;
  sets.effective = static_cast<uint64_t>(data[1].effective) << 32 | data[0].effective;
  sets.permitted = static_cast<uint64_t>(data[1].permitted) << 32 | data[0].permitted;
  sets.inheritable = static_cast<uint64_t>(data[1].inheritable) << 32 | data[0].inheritable;
  return 0;
}

}  // namespace

Outcome carry_out(Context&, const User& step) {
  if (!step.keep_groups &&
      ::setgroups(step.additional_gids.size(), step.additional_gids.data()) < 0) {
    return fail("setgroups");
  }
  // Capabilities stay until Capabilities says what remains.
  if (::prctl(PR_SET_KEEPCAPS, 1) < 0) return fail("keepcaps");
  if (::setresgid(step.gid, step.gid, step.gid) < 0) return fail("setgid");
  if (::setresuid(step.uid, step.uid, step.uid) < 0) return fail("setuid");
  // Changing ids has reset it to suid_dumpable.
  ::prctl(PR_SET_DUMPABLE, 0);
  if (step.uid == 0) return done();
  // setuid has cleared the effective set (capabilities(7)).
  CapSets sets;
  int err = cap_call(SYS_capget, sets);
  if (err == 0) {
    sets.effective = sets.permitted;
    err = cap_call(SYS_capset, sets);
  }
  return err == 0 ? done() : fail_with(err, "capset");
}

Outcome carry_out(Context&, const BoundingSet& step) {
  for (unsigned cap = 0; cap < 64; cap++) {
    if ((step.mask >> cap & 1) != 0) continue;
    if (::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0) continue;
    // EINVAL: beyond the kernel's last capability. EPERM: without CAP_SETPCAP; fine if it is not
    // there anyway.
    if (errno == EINVAL) break;
    int err = errno;
    if (::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1) return fail_with(err, "bounding-set");
  }
  return done();
}

Outcome carry_out(Context&, const Capabilities& step) {
  CapSets sets{step.effective, step.permitted, step.inheritable};
  if (int err = cap_call(SYS_capset, sets); err != 0) return fail_with(err, "capset");
  if (::prctl(PR_SET_KEEPCAPS, 0) < 0) return fail("keepcaps");
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL) {
    return fail("ambient");
  }
  for (unsigned cap = 0; cap < 64; cap++) {
    if ((step.ambient >> cap & 1) == 0) continue;
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0) return fail("ambient");
  }
  return done();
}

Outcome carry_out(Context&, const NoNewPrivs&) {
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? fail("no-new-privs") : done();
}

}  // namespace bulkhead
