#pragma once

namespace bulkhead::sentry {

// Gives up every capability that no caller can have. To be called in the sandbox's user namespace,
// by the only thread. 0 or errno.
// `mounts`: callers may ask for mounts.
int keep_capabilities(bool mounts);

// Installs the supervisor's own filter in all its threads. 0 or errno.
int confine(bool mounts);

}  // namespace bulkhead::sentry
