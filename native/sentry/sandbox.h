// What the supervisor knows of its sandbox: handed over at start, never changed.
#pragma once

#include <sys/utsname.h>
#include <time.h>

#include <cstdint>
#include <string_view>

#include "core/fd.h"

namespace bulkhead::sentry {

inline constexpr int kMaxRanges = 32;
inline constexpr uint32_t kOverflowId = 65534;

// Ids of the sandbox and of the host, from "container:host:size,...".
struct IdRanges {
  struct Range {
    uint32_t inside, outside, size;
  };
  Range ranges[kMaxRanges];
  int count = 0;

  // False: malformed.
  bool parse(std::string_view text);
  // kOverflowId for one that the sandbox has no id for.
  uint32_t inside(uint32_t outside) const;
};

struct Sandbox {
  IdRanges uids, gids;
  utsname names{};
  timespec started{};
  // Files of the memory controller; absent: the host's memory.
  UniqueFd memory_limit, memory_usage;
  UniqueFd proc;

  // bytes; false: no limit
  bool memory(uint64_t& limit, uint64_t& used) const;
};

// Opens what is needed later and fills the names: release and version without what tells of the
// host. 0 or errno.
int prepare(Sandbox& sandbox, const char* memory_cgroup, const char* hostname,
            const char* domainname);

// Decimal digits at the start of `text`, which shrinks by them and by what stands before. False:
// none.
bool take_number(std::string_view& text, uint64_t& value);

}  // namespace bulkhead::sentry
