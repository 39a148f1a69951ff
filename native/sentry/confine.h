#pragma once

namespace bulkhead::sentry {

// Gives up every capability that no caller can have. To be called in the sandbox's user namespace,
// by the only thread. 0 or errno.
int keep_capabilities();

// Installs the supervisor's own filter in all its threads. 0 or errno.
int confine();

}  // namespace bulkhead::sentry
