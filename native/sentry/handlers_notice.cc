// Calls that the kernel carries out itself, because they change what only the caller's own thread
// can change (SECCOMP_USER_NOTIF_FLAG_CONTINUE). Nothing is decided here: the supervisor forgets
// what it knows of the caller before that becomes untrue.
#include <errno.h>

#include "sentry/handlers_more.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

Answer go_on() {
  Answer answer;
  answer.go_on = true;
  return answer;
}

}  // namespace

// set*id, setgroups, capset: of the calling thread.
Answer credentials_change(const Sandbox&, Caller& caller) {
  caller.worker().callers.forget(caller, false);
  return go_on();
}

// execve: of the whole process, whose first thread the calling one becomes.
Answer execution(const Sandbox&, Caller& caller) {
  // A thread that was held up between handing over and closing has the program open for writing,
  // maybe: ETXTBSY.
  settle_hand_overs();
  caller.worker().callers.forget(caller, true);
  return go_on();
}

Answer umask_change(const Sandbox&, Caller& caller) {
  caller.worker().callers.umask_changes(caller);
  return go_on();
}

Answer root_change(const Sandbox& sandbox, Caller&) {
  sandbox.roots_may_differ();
  return go_on();
}

}  // namespace bulkhead::sentry
