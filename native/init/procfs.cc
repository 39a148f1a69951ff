#include "init/procfs.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "init/resolve.h"

namespace bulkhead {

namespace {

constexpr ino_t kProcRootInode = 1;

bool is_procfs(int fd, bool root) {
  struct statfs file_system;
  struct stat info;
  if (::fstatfs(fd, &file_system) < 0 || ::fstat(fd, &info) < 0) return false;
  bool good = file_system.f_type == PROC_SUPER_MAGIC && (!root || info.st_ino == kProcRootInode);
  if (!good) errno = EXDEV;
  return good;
}

UniqueFd mount_private_procfs() {
  UniqueFd context(::fsopen("proc", FSOPEN_CLOEXEC));
  if (!context) return context;
  if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return UniqueFd();
  return UniqueFd(::fsmount(context.get(), FSMOUNT_CLOEXEC,
                            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
}

UniqueFd open_verified(int root, const char* path) {
  UniqueFd proc = open_in_root(root, path, O_PATH | O_DIRECTORY);
  if (proc && !is_procfs(proc.get(), true)) {
    int err = errno;
    proc.reset();
    errno = err;
  }
  return proc;
}

}  // namespace

int procfs_root(Context& context) {
  bool host = !context.cloned && !context.joined_mount_namespace && !context.root;
  if (!context.cloned && (context.host_proc || host)) {
    if (!context.host_proc) context.host_proc = open_verified(AT_FDCWD, "/proc");
    return context.host_proc.get();
  }
  if (!context.procfs) context.procfs = mount_private_procfs();
  if (!context.procfs) {
    int root = context.root ? context.root.get() : AT_FDCWD;
    context.procfs = open_verified(root, "/proc");
  }
  return context.procfs.get();
}

UniqueFd open_proc_file(Context& context, const char* path, int flags) {
  int root = procfs_root(context);
  if (root < 0) return UniqueFd();
  char by_pid[128];
  // "self" is a symlink; its contents are our pid in this procfs' namespace.
  if (std::strncmp(path, "self/", 5) == 0) {
    char pid[16];
    ssize_t size = ::readlinkat(root, "self", pid, sizeof pid - 1);
    if (size <= 0) return UniqueFd();
    pid[size] = '\0';
    std::snprintf(by_pid, sizeof by_pid, "%s/%s", pid, path + 5);
    path = by_pid;
  }
  UniqueFd fd = open_plain(root, path, flags);
  if (fd && !is_procfs(fd.get(), false)) fd.reset();
  return fd;
}

int write_proc_file(Context& context, const char* path, std::string_view data) {
  UniqueFd fd = open_proc_file(context, path, O_WRONLY);
  if (!fd) return errno;
  ssize_t wrote = ::write(fd.get(), data.data(), data.size());
  if (wrote < 0) return errno;
  return static_cast<size_t>(wrote) == data.size() ? 0 : EIO;
}

}  // namespace bulkhead
