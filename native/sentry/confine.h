#pragma once

namespace bulkhead::sentry {

// Gives up every capability but the two that reading and writing the callers' memory needs, and
// installs the supervisor's own filter: from here on it opens nothing but files below the
// descriptor `proc`. 0 or errno.
int confine(int proc);

}  // namespace bulkhead::sentry
