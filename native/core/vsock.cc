#include "core/vsock.h"

#include <sys/socket.h>

#include <charconv>

// Needs sockaddr.
#include <linux/vm_sockets.h>

namespace bulkhead {

namespace {

constexpr std::string_view kScheme = "vsock://";
constexpr uint32_t kLastReservedPort = 1023;

bool take_number(std::string_view& text, uint32_t& out) {
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, out);
  if (error != std::errc() || rest == text.data()) return false;
  text = {rest, static_cast<size_t>(end - rest)};
  return true;
}

sockaddr_vm vsock_address(uint32_t cid, uint32_t port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

int bind_to(int fd, uint32_t port) {
  sockaddr_vm address = vsock_address(VMADDR_CID_ANY, port);
  return ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
}

}  // namespace

bool parse_vsock(std::string_view text, VsockAddress& out) {
  if (!text.starts_with(kScheme)) return false;
  text.remove_prefix(kScheme.size());
  if (!take_number(text, out.cid) || !text.starts_with(':')) return false;
  text.remove_prefix(1);
  return take_number(text, out.port) && text.empty();
}

Result<UniqueFd> connect_vsock(const VsockAddress& address, bool nonblocking) {
  const int flags = SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
  UniqueFd fd(::socket(AF_VSOCK, flags, 0));
  if (!fd) return last_error("socket");
  uint32_t port = kLastReservedPort;
  while (bind_to(fd.get(), port) < 0) {
    if (errno != EADDRINUSE || --port == 0) return last_error("bind");
  }
  sockaddr_vm to = vsock_address(address.cid, address.port);
  int rc;
  do {
    rc = ::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to);
  } while (rc < 0 && errno == EINTR);
  if (rc < 0 && errno != EINPROGRESS) return last_error("connect");
  return fd;
}

Result<UniqueFd> listen_vsock(uint32_t port) {
  UniqueFd fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return last_error("socket");
  if (bind_to(fd.get(), port) < 0) return last_error("bind");
  if (::listen(fd.get(), SOMAXCONN) < 0) return last_error("listen");
  return fd;
}

bool is_from_host(int fd) {
  sockaddr_vm peer{};
  socklen_t size = sizeof peer;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) < 0) return false;
  return peer.svm_family == AF_VSOCK && peer.svm_cid == VMADDR_CID_HOST &&
         peer.svm_port <= kLastReservedPort;
}

}  // namespace bulkhead
