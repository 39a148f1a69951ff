// The mounts of a sandbox, as its processes see them.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace bulkhead::sentry {

struct MountTable {
  // Ascending.
  std::vector<uint64_t> ids;
  // Those at or beneath /proc, /sys and /dev; ascending.
  std::vector<uint64_t> guarded;
  // Device numbers of procfs's.
  std::vector<dev_t> proc;
};

// Reads mountinfo (proc_pid_mountinfo(5)); lines that are not understood are left out.
MountTable parse_mounts(std::string_view text);

}  // namespace bulkhead::sentry
