// The monitor: what stays of the shim while its pod lives.
#pragma once

#include <string_view>

#include "core/fd.h"
#include "shim/install.h"
#include "shim/messages.h"
#include "shim/shim_socket.h"

namespace bulkhead::shim {

// Runs in the launcher's fork, with the bundle as working directory, until the engine says
// Shutdown. `engine` is the launcher's connection, of which the monitor goes on to be the user.
// `network`: its first container will most likely get a network namespace of its own. Returns the
// exit status.
int run_monitor(const Hello& hello, const Install& install, ShimSocket socket, UniqueFd engine,
                std::string_view shim_cgroup, bool network);

}  // namespace bulkhead::shim
