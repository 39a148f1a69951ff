// What the supervisor knows of its sandbox.
#pragma once

#include <pthread.h>
#include <sys/utsname.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/fd.h"
#include "sentry/mounts.h"
#include "sentry/text.h"

namespace bulkhead::sentry {

class Sandbox {
 public:
  utsname names{};
  timespec started{};
  // Files of the memory controller; absent: the host's memory.
  UniqueFd memory_limit, memory_usage;
  // The host's /proc.
  UniqueFd proc;
  // Of the sandbox, which is the root of every thread here too.
  UniqueFd root;

  // bytes; false: no limit
  bool memory(uint64_t& limit, uint64_t& used) const;

  // A mount of the sandbox, also one that was made since the last look.
  bool has_mount(uint64_t id) const;
  bool is_proc(dev_t device) const;
  // The mounts have changed.
  void look_again() const;

  // How many there were at the last look.
  size_t mount_count() const;
  // Was there from the start, at or beneath /proc, /sys or /dev.
  bool is_guarded(uint64_t id) const;
  // Made by the supervisor, at a caller's wish, and still there.
  void note_mount(uint64_t id) const;
  bool made_mount(uint64_t id) const;

  // From the first chroot(2) on, a caller's root has to be asked for.
  bool roots_differ() const { return roots_differ_.load(); }
  void roots_may_differ() const { roots_differ_ = true; }

 private:
  friend int enter(Sandbox& sandbox, int pid);
  bool knows_mount(uint64_t id) const;

  mutable std::atomic<bool> roots_differ_{false};
  mutable pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  UniqueFd mount_info_;
  mutable MountTable table_;
  mutable std::vector<uint64_t> made_;
  std::vector<uint64_t> guarded_;
};

// Opens what is needed later, by names of the host. 0 or errno.
int prepare(Sandbox& sandbox, const char* memory_cgroup);

// Into the user, mount, UTS and IPC namespaces of a process of the sandbox, as root of it. Fills
// the names: release and version without what tells of the host. 0 or errno.
int enter(Sandbox& sandbox, int pid);

}  // namespace bulkhead::sentry
