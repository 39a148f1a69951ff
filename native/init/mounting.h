// Small pieces of the mount API that several steps use.
#pragma once

#include <cstdint>

#include "core/fd.h"
#include "init/plan.h"

namespace bulkhead {

// mount_setattr(2) propagation value (MS_PRIVATE, …); 0 for kUnchanged.
uint64_t propagation_flag(Propagation propagation);

// mount_setattr on a descriptor, or with fd AT_FDCWD on a path. 0 or errno.
int set_mount_attr(int fd, const char* path, uint64_t set, uint64_t clear, uint64_t propagation,
                   bool recursive, int userns = -1);

// move_mount(2) of a detached mount onto what `target` names. 0 or errno.
int attach_mount(int mount, int target);

// open_tree(2) copy of what `fd` names.
UniqueFd clone_mount(int fd, bool recursive);

}  // namespace bulkhead
