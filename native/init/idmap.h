// Id maps of user namespaces: user_namespaces(7).
#pragma once

#include <sys/types.h>

#include <vector>

#include "init/context.h"

namespace bulkhead {

// Writes setgroups, uid_map and gid_map of a process that waits in a new user namespace.
Outcome write_id_maps(Context& context, pid_t pid, const std::vector<IdMap>& uids,
                      const std::vector<IdMap>& gids, bool deny_setgroups);

// A user namespace with these maps, for MOUNT_ATTR_IDMAP; borrowed, kept for later mounts with the
// same maps.
Outcome mapped_namespace(Context& context, const std::vector<IdMap>& uids,
                         const std::vector<IdMap>& gids, int& fd);

// After entering a user namespace: root in it, where root is mapped.
void become_namespace_root();

}  // namespace bulkhead
