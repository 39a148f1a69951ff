// What is opened for standard streams: containerd's fifos, or files.
#pragma once

#include "core/fd.h"

namespace bulkhead::shim {

// A second open file of what `fd` has open: the same inode, whatever happens to its path.
UniqueFd reopen(int fd, int flags);
bool is_fifo(int fd);

}  // namespace bulkhead::shim
