// Giving up a descriptor that is slow to go.
#pragma once

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead {

// close(2) by a thread of its own: the last reference to a mount namespace unmounts what is in it,
// and an overlay's unmount writes its upper file system back (sync_filesystem), which takes
// milliseconds, or as long as the disk needs. The result is an eventfd, readable once the
// descriptor is closed. On error (EAGAIN, EMFILE, …) it has been closed here. `another` goes the
// same way, after it.
Result<UniqueFd> close_elsewhere(UniqueFd fd, UniqueFd another = UniqueFd());

}  // namespace bulkhead
