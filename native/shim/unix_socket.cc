#include "shim/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>

namespace bulkhead::shim {

namespace {

constexpr int kBacklog = 1024;  // cut to net.core.somaxconn by the kernel

bool fill_address(std::string_view path, sockaddr_un& address) {
  if (path.empty() || path.size() > kMaxSocketPath) return false;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  address.sun_path[path.size()] = '\0';
  return true;
}

}  // namespace

Result<UniqueFd> connect_unix(std::string_view path, bool nonblocking) {
  sockaddr_un address{};
  if (!fill_address(path, address)) return Error{ENAMETOOLONG, "connect"};
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0));
  if (!fd) return last_error("socket");
  int rc;
  do {
    rc = ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  } while (rc < 0 && errno == EINTR);
  if (rc < 0) return last_error("connect");
  return fd;
}

Result<UniqueFd> listen_unix(std::string_view path) {
  sockaddr_un address{};
  if (!fill_address(path, address)) return Error{ENAMETOOLONG, "bind"};
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return last_error("socket");
  // fchmod before bind is what the new inode's mode comes from; there is no moment at which others
  // could connect.
  if (::fchmod(fd.get(), 0600) < 0) return last_error("fchmod");
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return last_error("bind");
  if (::listen(fd.get(), kBacklog) < 0) return last_error("listen");
  return fd;
}

int make_directories(const std::string& path, unsigned mode) {
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return 0;
  if (errno != ENOENT) return errno;
  size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash == 0) return ENOENT;
  int err = make_directories(path.substr(0, slash), 0755);
  if (err != 0) return err;
  return ::mkdir(path.c_str(), mode) == 0 || errno == EEXIST ? 0 : errno;
}

}  // namespace bulkhead::shim
