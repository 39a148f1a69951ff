// What the supervisor knows of its sandbox.
#pragma once

#include <sys/utsname.h>
#include <time.h>

#include <cstdint>
#include <string_view>

#include "core/fd.h"

namespace bulkhead::sentry {

struct Sandbox {
  utsname names{};
  timespec started{};
  // Files of the memory controller; absent: the host's memory.
  UniqueFd memory_limit, memory_usage;
  UniqueFd proc;

  // bytes; false: no limit
  bool memory(uint64_t& limit, uint64_t& used) const;
};

// Opens what is needed later, by names of the host. 0 or errno.
int prepare(Sandbox& sandbox, const char* memory_cgroup);

// Into the user namespace (and for its name the UTS namespace) of a process of the sandbox, as root
// of it. Fills the names: release and version without what tells of the host. 0 or errno.
int enter(Sandbox& sandbox, int pid);

// Decimal digits at the start of `text`, which shrinks by them and by what stands before. False:
// none.
bool take_number(std::string_view& text, uint64_t& value);

}  // namespace bulkhead::sentry
