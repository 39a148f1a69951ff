#include "shim/shim_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/sha256.h"
#include "shim/unix_socket.h"

namespace bulkhead::shim {

namespace {

constexpr const char kDirectory[] = "/run/containerd/s";

// The lock orders check, bind and listen of all launchers: without it one could see a socket that
// is bound but does not listen yet, take it for a dead one and replace it. A path that cannot be
// locked is used all the same.
UniqueFd lock_directory() {
  UniqueFd directory(::open(kDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory) ::flock(directory.get(), LOCK_EX);
  return directory;
}

}  // namespace

int ShimSocket::open(std::string_view containerd_address, std::string_view name_space,
                     std::string_view group) {
  // filepath.Join of the three, as containerd's shims do it; an absolute address is the rule.
  std::string name(containerd_address);
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  name += "/";
  name += name_space;
  name += "/";
  name += group;
  path_ = std::string(kDirectory) + "/" + sha256_hex(name);

  int err = make_directories(kDirectory, 0700);
  if (err != 0) return err;
  UniqueFd lock = lock_directory();
  auto listener = listen_unix(path_);
  if (!listener && listener.error().code == EADDRINUSE) {
    auto probe = connect_unix(path_, true);
    // EAGAIN: its queue is full, so somebody serves it.
    if (probe || probe.error().code == EAGAIN) return 0;
    if (::unlink(path_.c_str()) < 0 && errno != ENOENT) return errno;
    listener = listen_unix(path_);
  }
  if (!listener) return listener.error().code;
  struct stat info;
  if (::stat(path_.c_str(), &info) < 0) return errno;
  device_ = info.st_dev;
  inode_ = info.st_ino;
  listener_ = listener.take();
  return 0;
}

void ShimSocket::remove() {
  UniqueFd lock = lock_directory();
  struct stat info;
  if (inode_ != 0 && ::stat(path_.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  inode_ = 0;
  listener_.reset();
}

void ShimSocket::remove_dead(const std::string& path) {
  std::string prefix = std::string(kDirectory) + "/";
  if (!path.starts_with(prefix) || path.find('/', prefix.size()) != std::string::npos) return;
  UniqueFd lock = lock_directory();
  auto probe = connect_unix(path, true);
  if (!probe && probe.error().code == ECONNREFUSED) ::unlink(path.c_str());
}

}  // namespace bulkhead::shim
