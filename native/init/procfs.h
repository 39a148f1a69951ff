// A procfs that the container has had no hand in.
#pragma once

#include <string_view>

#include "init/context.h"

namespace bulkhead {

// Descriptor (borrowed) of a procfs root for our pid namespace: outside the container's mounts the
// host's /proc; inside a private instance by fsopen(2); where the kernel refuses that (masked /proc
// in a user namespace) the container's own, verified to be a procfs root (CVE-2025-52881). -1 with
// errno.
int procfs_root(Context& context);

// Opens a file beneath that root: no symlinks except "self", no overmounts.
UniqueFd open_proc_file(Context& context, const char* path, int flags);

// Writes to such a file in one write(2). 0 or errno.
int write_proc_file(Context& context, const char* path, std::string_view data);

}  // namespace bulkhead
