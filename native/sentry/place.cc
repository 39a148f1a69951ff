#include "sentry/place.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "sentry/walk.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

// RESOLVE_IN_ROOT gives up when a rename or mount anywhere could have led ".." astray.
constexpr int kTries = 64;

UniqueFd open_at(int base, const char* path, uint64_t flags, uint64_t mode, uint64_t resolve) {
  open_how how{flags | O_CLOEXEC, mode, resolve};
  int fd = -1;
  for (int i = 0; i < kTries; i++) {
    fd = static_cast<int>(::syscall(SYS_openat2, base, path, &how, sizeof how));
    if (fd >= 0 || errno != EAGAIN) break;
  }
  return UniqueFd(fd);
}

}  // namespace

int look_at(int fd, Kind& kind) {
  struct statx file {};
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
              STATX_TYPE | STATX_MODE | STATX_UID | STATX_INO | STATX_MNT_ID, &file) < 0) {
    return errno;
  }
  kind.mode = file.stx_mode;
  kind.uid = file.stx_uid;
  kind.device = makedev(file.stx_dev_major, file.stx_dev_minor);
  kind.inode = file.stx_ino;
  kind.is_mount_root = (file.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
  kind.mount = (file.stx_mask & STATX_MNT_ID) != 0 ? file.stx_mnt_id : 0;
  return 0;
}

int Place::from(int number, uint64_t address) {
  if (int error = caller_.read_path(address, path_); error != 0) return error;
  return start(number);
}

int Place::from_text(const char* path) {
  std::snprintf(path_, sizeof path_, "%s", path);
  return start(AT_FDCWD);
}

int Place::from_cwd() {
  path_[0] = '\0';
  return start(AT_FDCWD);
}

// A thread's root is its own here (CLONE_FS); it takes the caller's.
int Place::take_root() {
  root_ = sandbox_.root.get();
  if (!sandbox_.roots_differ()) return 0;
  if (int error = caller_.worker().self.gain(CAP_SYS_CHROOT); error != 0) return error;
  own_root_ = caller_.link("root");
  if (!own_root_ || ::fchdir(own_root_.get()) < 0 || ::chroot(".") < 0) return errno;
  root_ = own_root_.get();
  return 0;
}

int Place::start(int number) {
  if (int error = take_root(); error != 0) return error;
  if (*path_ == '/') {
    base_ = root_;
    return caller_.worker().become(caller_);
  }
  held_ = number == AT_FDCWD ? caller_.link("cwd") : caller_.descriptor(number);
  if (!held_) return errno;
  base_ = held_.get();
  if (int error = caller_.worker().become(caller_); error != 0) return error;
  if (empty()) return 0;
  Kind kind;
  if (int error = look_at(base_, kind); error != 0) return error;
  if (!S_ISDIR(kind.mode)) return ENOTDIR;
  // A directory of the host that found its way in leads nowhere (CVE-2024-21626).
  return sandbox_.has_mount(kind.mount) ? 0 : EXDEV;
}

UniqueFd Place::walk_and_open(const char* path, uint64_t flags, uint64_t mode) {
  Walked walked;
  bool follow = (flags & O_NOFOLLOW) == 0 && (flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  if (errno = walk(sandbox_, caller_, root_, base_, path, follow, walked); errno != 0) return {};
  Kind kind;
  if (errno = look_at(walked.at.get(), kind); errno != 0) return {};
  // The supervisor may look into every process of the sandbox; the caller may not. A magic link's
  // rights were seen to on the way.
  Worker& worker = caller_.worker();
  bool other = !walked.magic && !walked.own && sandbox_.is_proc(kind.device);
  if (other && (errno = worker.become(caller_, true)) != 0) return {};
  if (!walked.magic && walked.descriptors && (errno = worker.self.gain(CAP_DAC_OVERRIDE)) != 0)
    return {};
  UniqueFd fd = open_at(walked.at.get(), walked.name.c_str(), flags, mode,
                        walked.magic ? 0 : RESOLVE_NO_SYMLINKS);
  if (fd && ::fstat(fd.get(), &stat_) < 0) fd.reset();
  return fd;
}

UniqueFd Place::open_path(const char* path, uint64_t flags, uint64_t mode) {
  uint64_t resolve = RESOLVE_NO_MAGICLINKS | (*path == '/' ? RESOLVE_IN_ROOT : 0);
  UniqueFd fd = open_at(base_, path, flags, mode, resolve);
  if (fd) {
    if (::fstat(fd.get(), &stat_) < 0) return {};
    // In procfs, who asks matters.
    return sandbox_.is_proc(stat_.st_dev) ? walk_and_open(path, flags, mode) : std::move(fd);
  }
  if (errno == ENOENT) {
    // Without a symbolic link on the way there is nothing that a walk would find.
    UniqueFd again = open_at(base_, path, O_PATH, 0, resolve | RESOLVE_NO_SYMLINKS);
    if (!again && errno == ENOENT) return {};
  } else if (errno != ELOOP && errno != EACCES) {
    return {};
  }
  return walk_and_open(path, flags, mode);
}

UniqueFd Place::open(uint64_t flags, uint64_t mode) {
  return open_path(path_, flags, mode);
}

int Place::look_here() {
  if (empty() || std::strchr(path_, '/') != nullptr || std::strcmp(path_, "..") == 0) return -1;
  if (::fstatat(base_, path_, &stat_, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) return errno;
  return sandbox_.is_proc(stat_.st_dev) ? -1 : 0;
}

int Place::parent(const char*& name) {
  if (empty()) {
    errno = ENOENT;
    return -1;
  }
  size_t end = std::strlen(path_);
  while (end > 0 && path_[end - 1] == '/') end--;
  if (end == 0) {
    name = ".";
    return root_;
  }
  size_t at = end;
  while (at > 0 && path_[at - 1] != '/') at--;
  name = path_ + at;
  if (at == 0) return base_;
  std::memcpy(directory_, path_, at);
  directory_[at] = '\0';
  parent_ = open_path(directory_, O_PATH | O_DIRECTORY, 0);
  return parent_.get();
}

}  // namespace bulkhead::sentry
