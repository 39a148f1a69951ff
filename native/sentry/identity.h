// Who a caller is, and how a thread of the supervisor becomes it for one call: the kernel then
// decides about files as if the caller had made the call itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace bulkhead::sentry {

struct Identity {
  // Effective ids, which are those of the file system too: setfsuid(2) is refused.
  uint32_t uid = 0, gid = 0;
  uint32_t real_uid = 0, real_gid = 0;
  uint64_t effective = 0, permitted = 0;
  std::vector<uint32_t> groups;
  mode_t umask = 022;
  // In the supervisor's pid namespace, and in the caller's own.
  uint32_t process = 0;
  uint32_t own_process = 0, own_thread = 0;

  // What access(2) asks with instead: the real ids, and the capabilities that go with them.
  Identity real() const;
};

// Reads a status file of procfs (proc_pid_status(5)). False: a field is not there, or nonsense.
bool parse_identity(std::string_view status, Identity& identity);

// Capabilities that mean something for files; a caller keeps those of them that it has.
extern const uint64_t kFileCapabilities;

// The credentials of the calling thread of the supervisor.
class Impersonation {
 public:
  // Ids, groups and capabilities of the identity. CAP_SYS_PTRACE stays, for the caller's memory and
  // descriptors, unless `plainly`. 0 or errno, after which the thread may be anybody.
  int become(const Identity& identity, bool plainly = false);
  // Has this capability (CAP_*), until it becomes a caller. 0 or errno.
  int gain(int capability);
  // Gives CAP_SYS_PTRACE back after a `plainly`.
  void regain_sight();
  void set_umask(mode_t mask);

 private:
  int set_capabilities(uint64_t effective);

  uint32_t uid_ = 0, gid_ = 0;
  std::vector<uint32_t> groups_;
  uint64_t effective_ = ~0ull;
  mode_t umask_ = 0xffff;
};

// What the supervisor's threads may have, of the sandbox's user namespace: what callers may have,
// as a thread takes those of its caller for the length of a call.
// `mounts`: the one to mount as well.
uint64_t kept_capabilities(bool mounts = false);
// What Impersonation works within from now on.
void set_kept_capabilities(uint64_t mask);

}  // namespace bulkhead::sentry
