// A path followed component by component.
#pragma once

#include <string>

#include "core/fd.h"
#include "sentry/caller.h"
#include "sentry/sandbox.h"

namespace bulkhead::sentry {

struct Walked {
  // The directory of the last component, in which there is no other link to follow.
  UniqueFd at;
  // What `name` is a name of, when that is one of the supervisor's own.
  UniqueFd held;
  // With the slashes that followed it. It need not exist.
  std::string name;
  // It is a magic link of procfs that the caller may follow: opened by following it.
  bool magic = false;
  // It is below the caller's own directory in procfs, where the kernel asks for no rights
  // (ptrace(2)).
  bool own = false;
  // It is, or is in, the caller's own fd directory.
  bool descriptors = false;
};

// `base` and `root` are borrowed; the thread has become the caller. `follow`: a link as the last
// component too. 0 or errno.
int walk(const Sandbox& sandbox, Caller& caller, int root, int base, const char* path, bool follow,
         Walked& result);

}  // namespace bulkhead::sentry
