// Unix stream sockets by path.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead::shim {

// Longest path of a socket: sun_path holds 108 bytes with the final zero (unix(7)).
inline constexpr size_t kMaxSocketPath = 107;

// Connects. `nonblocking`: the socket is O_NONBLOCK, EAGAIN when the listener's queue is full.
// Errors: ENAMETOOLONG, ENOENT (nothing there), ECONNREFUSED (nobody listens), …
Result<UniqueFd> connect_unix(std::string_view path, bool nonblocking);

// Binds and listens, mode 0600. EADDRINUSE when the path exists.
Result<UniqueFd> listen_unix(std::string_view path);

// mkdir -p; only directories that are made get `mode`. Returns 0 or an errno.
int make_directories(const std::string& path, unsigned mode);

}  // namespace bulkhead::shim
