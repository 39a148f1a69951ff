// Files and devices that a process with other credentials may open, given the descriptor: by
// /proc/self/fd/N, whose permission check uses the mount that the descriptor is on.
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"

namespace bulkhead::addon {
namespace {

// lendFile(path, userNamespace, readOnly): number. A detached mount of the file alone, its ids
// mapped by the user namespace (Linux 5.12; EINVAL where the file system cannot).
Napi::Value lend_file(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  int userns = -1;
  if (!get_string(info[0], "path", path) || !get_fd(info[1], "userNamespace", userns)) {
    return env.Undefined();
  }
  UniqueFd tree(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!tree) return throw_errno(env, errno, "open_tree", path);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID |
                        (info[2].ToBoolean() ? MOUNT_ATTR_RDONLY : 0);
  attributes.userns_fd = static_cast<uint64_t>(userns);
  if (::mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
    return throw_errno(env, errno, "mount_setattr", path);
  }
  return Napi::Number::New(env, tree.release());
}

// A node of the same device on a file system of its own.
int make_node(const struct stat& device, int uid, int gid, bool read_only, UniqueFd& out) {
  UniqueFd fs(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!fs) return errno;
  if (::fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return errno;
  const UniqueFd mount(::fsmount(fs.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  if (!mount) return errno;
  const mode_t type = device.st_mode & S_IFMT;
  const mode_t mode = read_only ? 0400 : 0600;
  if (::mknodat(mount.get(), "device", type | mode, device.st_rdev) != 0) return errno;
  if (::fchownat(mount.get(), "device", static_cast<uid_t>(uid), static_cast<gid_t>(gid), 0) != 0)
    return errno;
  out.reset(::openat(mount.get(), "device", O_PATH | O_CLOEXEC));
  return out ? 0 : errno;
}

// lendDevice(path, uid, gid, readOnly): number
Napi::Value lend_device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  int64_t uid = 0;
  int64_t gid = 0;
  if (!get_string(info[0], "path", path) || !get_integer(info[1], "uid", 0, UINT32_MAX, uid) ||
      !get_integer(info[2], "gid", 0, UINT32_MAX, gid)) {
    return env.Undefined();
  }
  struct stat device;
  if (::stat(path.c_str(), &device) != 0) return throw_errno(env, errno, "stat", path);
  if (!S_ISBLK(device.st_mode) && !S_ISCHR(device.st_mode)) {
    return throw_errno(env, ENOTBLK, "stat", path);
  }
  UniqueFd node;
  const int error =
      make_node(device, static_cast<int>(uid), static_cast<int>(gid), info[3].ToBoolean(), node);
  if (error != 0) return throw_errno(env, error, "mknod", path);
  return Napi::Number::New(env, node.release());
}

}  // namespace

void define_lend(Napi::Env env, Napi::Object exports) {
  define<lend_file>(env, exports, "lendFile");
  define<lend_device>(env, exports, "lendDevice");
}

}  // namespace bulkhead::addon
