#include "sentry/identity.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>

#include "sentry/text.h"

namespace bulkhead::sentry {

namespace {

constexpr uint64_t bit(int capability) {
  return 1ull << capability;
}

constexpr uint64_t kPtrace = bit(CAP_SYS_PTRACE);
// As many as a user has anywhere but in tests of kernels.
constexpr size_t kMaxGroups = 256;

// Written once, before there is a second thread.
uint64_t kept = ~0ull;

// Numbers of a line such as "Uid:\t0\t0\t0\t0".
bool numbers(std::string_view status, std::string_view name, uint32_t* values, int count) {
  std::string_view field = status_field(status, name);
  for (int i = 0; i < count; i++) {
    uint64_t value = 0;
    if (!take_number(field, value)) return false;
    values[i] = static_cast<uint32_t>(value);
  }
  return true;
}

bool number_in(std::string_view status, std::string_view name, int base, uint64_t& value) {
  std::string_view field = status_field(status, name);
  while (!field.empty() && (field.front() == '\t' || field.front() == ' ')) field.remove_prefix(1);
  auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value, base);
  return error == std::errc() && end != field.data();
}

// The last number of a line such as "NSpid:\t4711\t1": that of the innermost pid namespace.
bool innermost(std::string_view status, std::string_view name, uint32_t& value) {
  std::string_view field = status_field(status, name);
  uint64_t number = 0;
  bool any = false;
  while (take_number(field, number)) any = true;
  value = static_cast<uint32_t>(number);
  return any;
}

}  // namespace

const uint64_t kFileCapabilities = bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) |
                                   bit(CAP_DAC_READ_SEARCH) | bit(CAP_FOWNER) | bit(CAP_FSETID) |
                                   bit(CAP_SETFCAP);

Identity Identity::real() const {
  Identity other = *this;
  other.uid = real_uid;
  other.gid = real_gid;
  other.effective = real_uid == 0 ? permitted : 0;
  return other;
}

bool parse_identity(std::string_view status, Identity& identity) {
  uint32_t users[4];
  uint32_t groups[4];
  uint64_t mask = 0;
  if (!numbers(status, "Uid", users, 4) || !numbers(status, "Gid", groups, 4) ||
      !numbers(status, "Tgid", &identity.process, 1) || !number_in(status, "Umask", 8, mask) ||
      !innermost(status, "NStgid", identity.own_process) ||
      !innermost(status, "NSpid", identity.own_thread) ||
      !number_in(status, "CapEff", 16, identity.effective) ||
      !number_in(status, "CapPrm", 16, identity.permitted)) {
    return false;
  }
  identity.real_uid = users[0];
  identity.uid = users[1];
  identity.real_gid = groups[0];
  identity.gid = groups[1];
  identity.umask = static_cast<mode_t>(mask & 0777);
  std::string_view field = status_field(status, "Groups");
  uint64_t group = 0;
  identity.groups.clear();
  while (take_number(field, group)) {
    if (identity.groups.size() >= kMaxGroups) return false;
    identity.groups.push_back(static_cast<uint32_t>(group));
  }
  return true;
}

uint64_t kept_capabilities(bool mounts) {
  // An administrator's, which no container has (spec.ts refuses them).
  constexpr uint64_t kNever = bit(CAP_SYS_MODULE) | bit(CAP_SYS_RAWIO) | bit(CAP_SYS_BOOT) |
                              bit(CAP_BPF) | bit(CAP_PERFMON) | bit(CAP_CHECKPOINT_RESTORE);
  constexpr uint64_t kAll = bit(CAP_LAST_CAP + 1) - 1;
  return kAll & ~kNever & ~(mounts ? 0 : bit(CAP_SYS_ADMIN));
}

void set_kept_capabilities(uint64_t mask) {
  kept = mask;
}

int Impersonation::set_capabilities(uint64_t effective) {
  effective &= kept;
  if (effective == effective_) return 0;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  data[0].effective = static_cast<uint32_t>(effective);
  data[1].effective = static_cast<uint32_t>(effective >> 32);
  data[0].permitted = static_cast<uint32_t>(kept);
  data[1].permitted = static_cast<uint32_t>(kept >> 32);
  if (::syscall(SYS_capset, &header, data) < 0) return errno;
  effective_ = effective;
  return 0;
}

// By the raw calls, which change the calling thread alone; the C library's change all.
int Impersonation::become(const Identity& identity, bool plainly) {
  bool groups = groups_ != identity.groups;
  if (groups || uid_ != identity.uid || gid_ != identity.gid) {
    if (int error = set_capabilities(bit(CAP_SETUID) | bit(CAP_SETGID)); error != 0) return error;
    if (groups) {
      if (::syscall(SYS_setgroups, identity.groups.size(), identity.groups.data()) < 0)
        return errno;
      groups_ = identity.groups;
    }
    // Both answer with the former id, whether or not they did anything.
    ::syscall(SYS_setfsgid, identity.gid);
    ::syscall(SYS_setfsuid, identity.uid);
    if (static_cast<uint32_t>(::syscall(SYS_setfsgid, -1)) != identity.gid ||
        static_cast<uint32_t>(::syscall(SYS_setfsuid, -1)) != identity.uid) {
      return EPERM;
    }
    gid_ = identity.gid;
    uid_ = identity.uid;
    // setfsuid(2) takes capabilities away, or gives them.
    effective_ = ~0ull;
  }
  // Who may look into whom is decided by all capabilities (ptrace(2)), the rest by those of files.
  return set_capabilities(plainly ? identity.effective
                                  : (identity.effective & kFileCapabilities) | kPtrace);
}

int Impersonation::gain(int capability) {
  return set_capabilities(bit(capability) | kPtrace);
}

void Impersonation::regain_sight() {
  if ((effective_ & kPtrace) == 0) (void)set_capabilities(effective_ | kPtrace);
}

void Impersonation::set_umask(mode_t mask) {
  if (mask == umask_) return;
  ::umask(mask);
  umask_ = mask;
}

}  // namespace bulkhead::sentry
