// Reaching the engine, and starting it when it is not there.
#pragma once

#include <string>

#include "core/fd.h"
#include "shim/install.h"

namespace bulkhead::shim {

struct EngineConnection {
  UniqueFd fd;
  // Set when there is no fd: the errno, and the sentence's object and operation
  // ("/run/bulkhead/engine.sock: connect"). EAGAIN: somebody else is starting it, or its queue is
  // full.
  int err = 0;
  std::string what;
};

// Connects to the engine's socket. When nobody listens: takes the lock, binds and listens itself
// (so that connecting succeeds at once and everybody queues), and starts the engine with that
// listener as descriptor 3. `nonblocking`: for the event loop: never waits for the lock, and the
// descriptor is O_NONBLOCK.
EngineConnection connect_engine(const Install& install, bool nonblocking);

}  // namespace bulkhead::shim
