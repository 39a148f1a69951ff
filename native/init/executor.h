// Carries a launch plan out, step by step, in the order given.
#pragma once

#include "core/fd.h"
#include "init/plan.h"

namespace bulkhead {

// Descriptors as launch() of core/launch.h places them.
inline constexpr int kSyncFd = 3;
inline constexpr int kPlanFd = 4;
inline constexpr int kFirstExtraFd = 5;

// Runs the plan. Returns only when it failed (the report has been sent); the status to exit with.
// `network`: one that was made ahead (spare.h), may be empty.
int execute(const Plan& plan, UniqueFd sync, UniqueFd network);

}  // namespace bulkhead
