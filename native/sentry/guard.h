#pragma once

namespace bulkhead::sentry {

// Forks a process that kills `pid`, the first process of the sandbox, when this one has ended, and
// ends itself when that one has. For sandboxes that no monitor looks after (command line). To be
// called as root of the sandbox's user namespace, before confine(). 0 or errno.
int start_guard(int pid);

}  // namespace bulkhead::sentry
