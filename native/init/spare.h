// A bulkhead-init that was started before its plan was known (core/launch.h, launch_spare).
#pragma once

#include "core/fd.h"

namespace bulkhead {

// Makes what `role` (kSpare, kSpareWithNetwork of init_codec.h) names, and waits for the plan and
// the standard streams; leaves quietly when the launcher has no use for it. The plan's descriptor;
// `network`: a new network namespace, or nothing when none was wanted or could be made (Clone then
// makes it, and says why not).
UniqueFd await_plan(const char* role, int sync, UniqueFd& network);

}  // namespace bulkhead
