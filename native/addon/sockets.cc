// Descriptors over unix sockets, and who is at the other end.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"
#include "core/pidfd.h"

namespace bulkhead::addon {
namespace {

// Connects without waiting: a listener whose backlog is full answers EAGAIN. A path longer than
// sun_path is reached through a descriptor of its directory. 0 or an errno.
int connect_unix(const std::string& path, UniqueFd& out) {
  UniqueFd sock(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!sock) return errno;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string name = path;
  UniqueFd directory;
  if (name.size() >= sizeof(address.sun_path)) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ENAMETOOLONG;
    directory.reset(::open(path.substr(0, slash + 1).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory) return errno;
    name = "/proc/self/fd/" + std::to_string(directory.get()) + path.substr(slash);
    if (name.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  }
  ::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (::connect(sock.get(), generic, sizeof(address)) != 0) return errno;
  out = std::move(sock);
  return 0;
}

int send_with_fd(int sock, const std::string& message, int fd) {
  iovec bytes{const_cast<char*>(message.data()), message.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  ::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  const ssize_t sent = ::sendmsg(sock, &header, MSG_NOSIGNAL);
  if (sent < 0) return errno;
  return static_cast<size_t>(sent) == message.size() ? 0 : EMSGSIZE;
}

// sendFd(socketPath, fd, message)
Napi::Value send_fd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  std::string message;
  int fd = -1;
  if (!get_string(info[0], "socketPath", path) || !get_fd(info[1], "fd", fd) ||
      !get_string(info[2], "message", message)) {
    return env.Undefined();
  }
  // A stream carries descriptors only along with at least one byte.
  if (message.empty()) return throw_type_error(env, "message: expected at least one character");
  UniqueFd sock;
  if (const int error = connect_unix(path, sock); error != 0) {
    return throw_errno(env, error, "connect", path);
  }
  if (const int error = send_with_fd(sock.get(), message, fd); error != 0) {
    return throw_errno(env, error, "sendmsg", path);
  }
  return env.Undefined();
}

// connectUnix(path): number
Napi::Value connect_unix_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!get_string(info[0], "path", path)) return env.Undefined();
  UniqueFd sock;
  if (const int error = connect_unix(path, sock); error != 0) {
    return throw_errno(env, error, "connect", path);
  }
  return Napi::Number::New(env, sock.release());
}

// sendFdOver(socketFd, fd, message): on a connection that is there, whose bytes so far are all
// sent.
Napi::Value send_fd_over(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string message;
  int sock = -1;
  int fd = -1;
  if (!get_fd(info[0], "socketFd", sock) || !get_fd(info[1], "fd", fd) ||
      !get_string(info[2], "message", message)) {
    return env.Undefined();
  }
  if (message.empty()) return throw_type_error(env, "message: expected at least one character");
  if (const int error = send_with_fd(sock, message, fd); error != 0) {
    return throw_errno(env, error, "sendmsg");
  }
  return env.Undefined();
}

// sendPidfd(socketPath, pid, message): a descriptor for the process goes along.
Napi::Value send_pidfd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  std::string message;
  int pid = 0;
  if (!get_string(info[0], "socketPath", path) || !get_int(info[1], "pid", 1, INT32_MAX, pid) ||
      !get_string(info[2], "message", message)) {
    return env.Undefined();
  }
  if (message.empty()) return throw_type_error(env, "message: expected at least one character");
  const Result<UniqueFd> process = pidfd_open(pid);
  if (!process) return throw_error(env, process.error());
  UniqueFd sock;
  if (const int error = connect_unix(path, sock); error != 0) {
    return throw_errno(env, error, "connect", path);
  }
  if (const int error = send_with_fd(sock.get(), message, process.value().get()); error != 0) {
    return throw_errno(env, error, "sendmsg", path);
  }
  return env.Undefined();
}

// peerCredentials(fd): { pid, uid, gid }
Napi::Value peer_credentials(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return throw_errno(env, errno, "getsockopt");
  }
  Napi::Object credentials = Napi::Object::New(env);
  credentials.Set("pid", peer.pid);
  credentials.Set("uid", peer.uid);
  credentials.Set("gid", peer.gid);
  return credentials;
}

}  // namespace

void define_sockets(Napi::Env env, Napi::Object exports) {
  define<send_fd>(env, exports, "sendFd");
  define<connect_unix_function>(env, exports, "connectUnix");
  define<send_fd_over>(env, exports, "sendFdOver");
  define<send_pidfd>(env, exports, "sendPidfd");
  define<peer_credentials>(env, exports, "peerCredentials");
}

}  // namespace bulkhead::addon
