// Paths beneath the container's root, by openat2(2): a symlink, whatever it says and whoever swaps
// it meanwhile, cannot lead out (CVE-2021-30465, CVE-2023-27561, CVE-2024-45310). What is resolved
// is used by descriptor, never by name again.
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include <string_view>

#include "core/fd.h"

namespace bulkhead {

// openat2(root, path, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) with O_CLOEXEC. Absolute paths and
// symlinks start at root. AT_FDCWD: our own root. Invalid with errno on failure; EAGAIN (a rename
// meanwhile) is tried again.
UniqueFd open_in_root(int root, const char* path, int flags = O_PATH);
// openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS: for
// names inside procfs, where neither links nor overmounts are wanted (CVE-2025-52881).
UniqueFd open_plain(int directory, const char* path, int flags);

// openat2 with RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS: symlinks are followed as long as they stay
// beneath directory.
UniqueFd open_beneath(int directory, const char* path, int flags);

// mkdir -p beneath root; the directory, O_PATH. Directories made get `mode` (umask is 0; a setgid
// parent passes its group and bit on, as mkdir(2) does). ".." in the part that is to be made is
// EINVAL.
UniqueFd make_directories(int root, std::string_view path, mode_t mode, bool* made_last = nullptr);

// The directory that holds the last component of path (made when missing, 0755), and that
// component.
struct Place {
  UniqueFd parent;
  char name[256];
};
// False with errno: EINVAL when the path has no last component, ENAMETOOLONG.
bool make_place(int root, std::string_view path, Place& place);

// An empty file beneath root, made when missing (0644), parents too; O_PATH.
UniqueFd make_file(int root, std::string_view path);

}  // namespace bulkhead
