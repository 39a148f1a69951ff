// `start`, `delete`, `-info` and `-v`: the short-lived face that containerd executes.
#pragma once

#include "shim/args.h"
#include "shim/install.h"

namespace bulkhead::shim {

// Returns the exit status. `start` forks the monitor and returns in the parent only.
int run_launcher(const ShimArgs& args, const Install& install);

}  // namespace bulkhead::shim
