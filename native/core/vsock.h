// AF_VSOCK (vsock(7)): a guest's agent without a virtio port between.
//
// Whoever can make a socket on the host can connect to a guest, so the agent takes nobody but the
// host's root: a connection from VMADDR_CID_HOST and from a reserved port, which needs
// CAP_NET_BIND_SERVICE as it does with TCP.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead {

struct VsockAddress {
  uint32_t cid = 0;
  uint32_t port = 0;
};

// "vsock://CID:PORT", both decimal. False: it is something else.
bool parse_vsock(std::string_view text, VsockAddress& out);

// Connects from a reserved port; there are 1023. `nonblocking`: the connection may still be under
// way (EINPROGRESS is no error); SO_ERROR has the result when the socket is writable. Errors:
// ENODEV (no such guest, or no driver), ECONNRESET (nobody listens there yet), ETIMEDOUT,
// EADDRINUSE (all reserved ports are taken).
Result<UniqueFd> connect_vsock(const VsockAddress& address, bool nonblocking);

// Listens, non-blocking, for whoever reaches this machine at `port`.
Result<UniqueFd> listen_vsock(uint32_t port);

// The host's root has made this accepted connection.
bool is_from_host(int fd);

}  // namespace bulkhead
