// The container's root: entered, pivoted to, parts of it masked or read-only.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <string>

#include "init/mounting.h"
#include "init/resolve.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

// pivot_root(2) refuses a new root whose parent mount is shared (rootfsPropagation "shared"). Names
// are tried from the root upwards: the first one that is a mount point is the parent mount.
void make_parent_private(const std::string& root_path) {
  char resolved[PATH_MAX];
  if (::realpath(root_path.c_str(), resolved) == nullptr) return;
  std::string path(resolved);
  while (path.size() > 1) {
    size_t slash = path.rfind('/');
    path.resize(slash == 0 ? 1 : slash);
    if (set_mount_attr(AT_FDCWD, path.c_str(), 0, 0, MS_PRIVATE, false) == 0) return;
  }
}

Outcome pivot(Context& context) {
  UniqueFd old_root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!old_root) return fail("open", "/");
  if (::fchdir(context.root.get()) < 0) return fail("chdir");
  if (::syscall(SYS_pivot_root, ".", ".") < 0) {
    if (errno != EINVAL) return fail("pivot-root");
    make_parent_private(context.root_path);
    // Nor may the root itself be shared: it is put_old as well. PivotRoot.root_propagation shares
    // it again.
    (void)set_mount_attr(context.root.get(), "", 0, 0, MS_PRIVATE, false);
    if (::syscall(SYS_pivot_root, ".", ".") < 0) return fail("pivot-root");
  }
  // The old root lies on top of the new one, but "." is still the new one: only umount(2) looks for
  // what is on top. The old root's unmounting must not propagate to the host, and the container's
  // own mounts keep their propagation.
  if (::fchdir(old_root.get()) < 0) return fail("chdir");
  if (::mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) < 0) return fail("old-root-slave");
  if (::umount2(".", MNT_DETACH) < 0) return fail("old-root-detach");
  return done();
}

// Where pivot_root is impossible (initramfs as root): the root's mount is moved over "/".
Outcome move_root(Context& context) {
  if (::fchdir(context.root.get()) < 0) return fail("chdir");
  if (::mount(".", "/", nullptr, MS_MOVE, nullptr) < 0) return fail("move-root");
  if (::chroot(".") < 0) return fail("chroot");
  return done();
}

// /dev/null of this root, once, and really that device (CVE-2025-31133).
Outcome open_null_device(Context& context) {
  if (context.null_device) return done();
  UniqueFd null_device = open_in_root(context.root.get(), "/dev/null", O_PATH | O_NOFOLLOW);
  if (!null_device) return fail("open", "/dev/null");
  struct stat info;
  if (::fstat(null_device.get(), &info) < 0) return fail("open", "/dev/null");
  if (!S_ISCHR(info.st_mode) || info.st_rdev != makedev(1, 3)) {
    return fail_with(EPERM, "not-the-null-device", "/dev/null");
  }
  context.null_device = std::move(null_device);
  return done();
}

// One empty read-only tmpfs for all masked directories.
UniqueFd make_empty_directory() {
  UniqueFd fs(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!fs) return fs;
  if (::fsconfig(fs.get(), FSCONFIG_SET_STRING, "nr_blocks", "1", 0) < 0 ||
      ::fsconfig(fs.get(), FSCONFIG_SET_STRING, "nr_inodes", "1", 0) < 0 ||
      ::fsconfig(fs.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) < 0 ||
      ::fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    return UniqueFd();
  }
  return UniqueFd(
      ::fsmount(fs.get(), FSMOUNT_CLOEXEC,
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
}

Outcome cover(int source, int target, std::string_view path) {
  UniqueFd copy = clone_mount(source, false);
  if (!copy) return fail("open-tree", path);
  int err = attach_mount(copy.get(), target);
  return err == 0 ? done() : fail_with(err, "attach", path);
}

Outcome mask_directory(Context& context, int target, std::string_view path) {
  if (context.empty_directory) return cover(context.empty_directory.get(), target, path);
  UniqueFd empty = make_empty_directory();
  if (!empty) return fail("tmpfs", path);
  int err = attach_mount(empty.get(), target);
  if (err != 0) return fail_with(err, "attach", path);
  context.empty_directory = std::move(empty);
  return done();
}

bool missing(int err) {
  return err == ENOENT || err == ENOTDIR;
}

}  // namespace

Outcome carry_out(Context& context, const EnterRoot& step) {
  context.root.reset(::open(step.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!context.root) return fail("open", step.path.view());
  context.root_path = step.path.view();
  return done();
}

Outcome carry_out(Context& context, const PivotRoot& step) {
  if (!context.root) return fail_with(EINVAL, "no-root");
  Outcome outcome = step.no_pivot ? move_root(context) : pivot(context);
  if (!outcome.ok()) {
    outcome.path = context.root_path;
    return outcome;
  }
  if (::chdir("/") < 0) return fail("chdir", "/");
  if (uint64_t propagation = propagation_flag(step.root_propagation); propagation != 0) {
    int err = set_mount_attr(AT_FDCWD, "/", 0, 0, propagation, step.propagation_recursive);
    if (err != 0) return fail_with(err, "propagation", "/");
  }
  context.root.reset(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!context.root) return fail("open", "/");
  context.pivoted = true;
  return done();
}

Outcome carry_out(Context& context, const MaskPath& step) {
  if (!context.root) return fail_with(EINVAL, "no-root", step.target.view());
  UniqueFd target = open_in_root(context.root.get(), step.target.c_str());
  if (!target) return missing(errno) ? done() : fail("resolve", step.target.view());
  struct stat info;
  if (::fstat(target.get(), &info) < 0) return fail("resolve", step.target.view());
  if (S_ISDIR(info.st_mode)) return mask_directory(context, target.get(), step.target.view());
  Outcome outcome = open_null_device(context);
  if (!outcome.ok()) return outcome;
  return cover(context.null_device.get(), target.get(), step.target.view());
}

Outcome carry_out(Context& context, const ReadonlyPath& step) {
  if (!context.root) return fail_with(EINVAL, "no-root", step.target.view());
  UniqueFd target = open_in_root(context.root.get(), step.target.c_str());
  if (!target) return missing(errno) ? done() : fail("resolve", step.target.view());
  UniqueFd copy = clone_mount(target.get(), true);
  if (!copy) return fail("open-tree", step.target.view());
  if (int err = set_mount_attr(copy.get(), "", MOUNT_ATTR_RDONLY, 0, 0, true); err != 0) {
    return fail_with(err, "attributes", step.target.view());
  }
  int err = attach_mount(copy.get(), target.get());
  return err == 0 ? done() : fail_with(err, "attach", step.target.view());
}

Outcome carry_out(Context&, const RemountRoot& step) {
  int err = set_mount_attr(AT_FDCWD, "/", step.set, 0, 0, false);
  return err == 0 ? done() : fail_with(err, "attributes", "/");
}

}  // namespace bulkhead
