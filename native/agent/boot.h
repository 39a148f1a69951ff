// Making a machine out of an initrd, before anything else of the agent.
#pragma once

#include <string>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead::agent {

// Root, kernel file systems, cgroups, modules, loopback. False: something that nothing works
// without failed and was logged; PID 1 may only leave then.
bool set_up_guest();

// The agent's port by its name; waits for it. Non-blocking.
Result<UniqueFd> open_port(const char* name, uint32_t timeout_ms);

}  // namespace bulkhead::agent
