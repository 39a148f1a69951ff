// The agent: one thread, one epoll set.
//
//   host ── virtio port ── MuxLink ──┬── control ── ProcessTable ── bulkhead-init, containers
//                                    │          └── calls, in workers when they may wait
//                                    └── streams ── StreamTable ── pipes and ptys
//
// It decides nothing. As PID 1 it must neither end (the kernel panics) nor block.
#pragma once

#include <string>

namespace bulkhead::agent {

struct AgentOptions {
  std::string init = "/bin/bulkhead-init";
  // For tests on a host, instead of the virtio port: connects to this unix socket and leaves when
  // it is closed, …
  std::string connect;
  // … or serves one connection after the other on it.
  std::string listen;
  // In a machine: serves the host's connections by vsock, one after the other, instead of the port.
  bool vsock = false;
};

// Returns the exit status.
int run_agent(const AgentOptions& options);

}  // namespace bulkhead::agent
