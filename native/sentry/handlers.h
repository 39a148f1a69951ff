// The brokered system calls. Numbers of handlers are those of src/sandbox/sentry/rules.ts.
#pragma once

#include <cerrno>
#include <cstdint>

#include "sentry/caller.h"
#include "sentry/sandbox.h"

namespace bulkhead::sentry {

// What the caller gets: a value, an errno, or nothing more (a descriptor was handed over with the
// answer, or the call does not wait any more).
struct Answer {
  int64_t value = 0;
  int error = 0;
  bool given = false;
  // Given, and what was given is a descriptor.
  bool handed_over = false;
  // The kernel carries the call out: it has only been noticed.
  bool go_on = false;
};

inline Answer value_of(int64_t value) {
  return {value, 0, false, false, false};
}
inline Answer refusal(int error) {
  return {0, error, false, false, false};
}

// The caller does not wait any more.
inline Answer gone() {
  return {0, 0, true, false, false};
}
// Of Caller::write.
inline Answer written(int error) {
  return error == ESRCH ? gone() : refusal(error);
}

using Handler = Answer (*)(const Sandbox&, Caller&);

// Of whose being there depends what the supervisor keeps.
constexpr unsigned kMountHandler = 47;

// nullptr: no such handler.
Handler handler_of(unsigned number);

}  // namespace bulkhead::sentry
