// Mounts put in place.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <string>

#include "init/copy_tree.h"
#include "init/idmap.h"
#include "init/mounting.h"
#include "init/resolve.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

bool is_directory(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode);
}

UniqueFd open_target(Context& context, const Attach& step, int slot, bool& found) {
  found = true;
  if (step.host_target) return UniqueFd(::open(step.target.c_str(), O_PATH | O_CLOEXEC));
  TargetKind make = step.make;
  if (make == TargetKind::kLikeSource) {
    make = is_directory(slot) ? TargetKind::kDirectory : TargetKind::kFile;
  }
  int root = context.root.get();
  // An image must not be able to turn /proc into a link elsewhere: the last component stays what it
  // is.
  int flags = O_PATH | (step.require_directory ? O_NOFOLLOW : 0);
  UniqueFd target = open_in_root(root, step.target.c_str(), flags);
  if (target || errno != ENOENT || make == TargetKind::kExisting) return target;
  found = false;
  if (make == TargetKind::kFile) return make_file(root, step.target.view());
  return make_directories(root, step.target.view(), step.make_mode == 0 ? 0755 : step.make_mode);
}

// TypeScript refuses targets inside /proc by name; here a symlink cannot turn another name into one
// (CVE-2019-16884, CVE-2025-52881).
bool slipped_into_proc(const Attach& step, int target) {
  if (step.host_target || step.target.view().starts_with("/proc/")) return false;
  struct statfs info;
  return ::fstatfs(target, &info) == 0 && info.f_type == PROC_SUPER_MAGIC;
}

// After mounting, the name leads to the new mount's root; for the root file system that is what
// EnterRoot opens.
Outcome attach_late(const Attach& step, Slot& slot) {
  if (slot.mounted) return done();
  const LateMount& late = *slot.late_mount;
  if (::mount(late.source.c_str(), late.target.c_str(), late.fstype.c_str(), late.flags,
              late.data.c_str()) < 0) {
    return fail("mount", step.target.view());
  }
  slot.mounted = true;
  slot.fd.reset(::open(late.target.c_str(), O_PATH | O_CLOEXEC));
  if (!slot.fd) return fail("open", step.target.view());
  return done();
}

// A tmpfs without a mode of its own looks like the directory that it covers (runc does so; images
// rely on it for /tmp).
bool copy_mode(int target, int mount) {
  struct stat info;
  if (::fstat(target, &info) < 0) return false;
  if (!S_ISDIR(info.st_mode)) return true;
  UniqueFd top(::openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return top && ::fchmod(top.get(), info.st_mode & 07777) == 0;
}

Outcome copy_up(const Attach& step, int target, int mount) {
  std::string where;
  if (int err = copy_tree(target, mount, where); err != 0) {
    return fail_with(err, "copy-up", std::string(step.target.view()) + "/" + where);
  }
  return done();
}

}  // namespace

Outcome carry_out(Context& context, const MountSetattr& step) {
  int fd = context.slot(step.slot).fd.get();
  if (fd < 0) return fail_with(EBADF, "empty-slot");
  if (!step.uid_maps.empty() || !step.gid_maps.empty()) {
    int userns = -1;
    Outcome outcome = mapped_namespace(context, step.uid_maps, step.gid_maps, userns);
    if (!outcome.ok()) return outcome;
    if (int err = set_mount_attr(fd, "", 0, 0, 0, step.idmap_recursive, userns); err != 0) {
      return fail_with(err, "idmap");
    }
  }
  uint64_t propagation = propagation_flag(step.propagation);
  bool attributes = step.set != 0 || step.clear != 0;
  bool together = attributes && propagation != 0 && step.recursive == step.propagation_recursive;
  if (attributes) {
    int err =
        set_mount_attr(fd, "", step.set, step.clear, together ? propagation : 0, step.recursive);
    if (err != 0) return fail_with(err, "attributes");
  }
  if (propagation != 0 && !together) {
    int err = set_mount_attr(fd, "", 0, 0, propagation, step.propagation_recursive);
    if (err != 0) return fail_with(err, "propagation");
  }
  return done();
}

Outcome carry_out(Context& context, const Attach& step) {
  Slot& slot = context.slot(step.slot);
  if (!slot.fd || slot.mounted) {
    if (slot.mounted || slot.late_mount != nullptr) return attach_late(step, slot);
    return fail_with(EBADF, "empty-slot", step.target.view());
  }
  if (!step.host_target && !context.root) return fail_with(EINVAL, "no-root", step.target.view());
  bool found = false;
  UniqueFd target = open_target(context, step, slot.fd.get(), found);
  if (!target) {
    if (step.optional && errno == ENOENT) return done();
    return fail("resolve", step.target.view());
  }
  if (step.require_directory && !is_directory(target.get())) {
    return fail_with(ENOTDIR, "not-a-directory", step.target.view());
  }
  if (slipped_into_proc(step, target.get()))
    return fail_with(EPERM, "inside-proc", step.target.view());
  if (step.copy_mode && found && !copy_mode(target.get(), slot.fd.get())) {
    return fail("copy-mode", step.target.view());
  }
  if (step.tmpcopyup) {
    Outcome outcome = copy_up(step, target.get(), slot.fd.get());
    if (!outcome.ok()) return outcome;
  }
  if (int err = attach_mount(slot.fd.get(), target.get()); err != 0) {
    return fail_with(err, "attach", step.target.view());
  }
  return done();
}

Outcome carry_out(Context& context, const SetPropagation& step) {
  uint64_t propagation = propagation_flag(step.propagation);
  if (propagation == 0) return done();
  int err;
  if (!context.root) {
    err = set_mount_attr(AT_FDCWD, step.path.c_str(), 0, 0, propagation, step.recursive);
  } else {
    UniqueFd target = open_in_root(context.root.get(), step.path.c_str());
    if (!target) return fail("resolve", step.path.view());
    err = set_mount_attr(target.get(), "", 0, 0, propagation, step.recursive);
  }
  return err == 0 ? done() : fail_with(err, "propagation", step.path.view());
}

Outcome carry_out(Context&, const Unmount& step) {
  if (::umount2(step.path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return done();
  if (errno == ENOENT || errno == EINVAL) return done();
  return fail("unmount", step.path.view());
}

}  // namespace bulkhead
