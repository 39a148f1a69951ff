#include "init/mounting.h"

#include <fcntl.h>
#include <sys/mount.h>

#include <cerrno>

namespace bulkhead {

uint64_t propagation_flag(Propagation propagation) {
  switch (propagation) {
    case Propagation::kPrivate:
      return MS_PRIVATE;
    case Propagation::kSlave:
      return MS_SLAVE;
    case Propagation::kShared:
      return MS_SHARED;
    case Propagation::kUnbindable:
      return MS_UNBINDABLE;
    case Propagation::kUnchanged:
      break;
  }
  return 0;
}

int set_mount_attr(int fd, const char* path, uint64_t set, uint64_t clear, uint64_t propagation,
                   bool recursive, int userns) {
  mount_attr attr{};
  attr.attr_set = set;
  attr.attr_clr = clear;
  attr.propagation = propagation;
  if (userns >= 0) {
    attr.attr_set |= MOUNT_ATTR_IDMAP;
    attr.userns_fd = static_cast<uint64_t>(userns);
  }
  unsigned flags = (*path == '\0' ? AT_EMPTY_PATH : 0) | (recursive ? AT_RECURSIVE : 0);
  return ::mount_setattr(fd, path, flags, &attr, sizeof attr) < 0 ? errno : 0;
}

int attach_mount(int mount, int target) {
  int result =
      ::move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  return result < 0 ? errno : 0;
}

UniqueFd clone_mount(int fd, bool recursive) {
  unsigned flags =
      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);
  return UniqueFd(::open_tree(fd, "", flags));
}

}  // namespace bulkhead
