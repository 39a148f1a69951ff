// Copying a directory's contents, for tmpcopyup.
#pragma once

#include <string>

namespace bulkhead {

// Copies everything below `from` to below `to` (both directory descriptors, borrowed): files,
// directories, symlinks, device nodes and fifos with owner, mode and extended attributes; does not
// cross into other file systems' contents by symlink. Returns 0 or an errno; `where` is the path,
// relative to `from`, that failed.
int copy_tree(int from, int to, std::string& where);

}  // namespace bulkhead
