// mount(2) and umount2(2), as far as they can be answered for a sandbox: file systems in memory,
// and what is there already at a second place. Nothing of the host comes in by either.
//
// What is hidden stays hidden: a tree is always taken with all that is mounted in it (the masks of
// /proc among them), what was not mounted here is not unmounted, and /proc, /sys and /dev are not
// mounted over, since the runtime's own execs look there (CVE-2019-16884, CVE-2025-52881).
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "sentry/handlers_more.h"
#include "sentry/place.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

constexpr uint64_t kMagicMask = 0xffff0000, kMagic = 0xc0ed0000;
constexpr uint64_t kRestrictions = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
// Of times and speech: they make no difference to who may do what, and are taken without a word.
constexpr uint64_t kHarmless =
    MS_SILENT | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME | MS_LAZYTIME;
constexpr uint64_t kKnown = kRestrictions | kHarmless | MS_BIND | MS_REC | MS_REMOUNT;
// A bind of everything doubles what there is.
constexpr size_t kMaxMounts = 256;
constexpr size_t kMaxOptions = 512;

uint64_t attributes_of(uint64_t flags) {
  return MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | ((flags & MS_RDONLY) != 0 ? MOUNT_ATTR_RDONLY : 0) |
         ((flags & MS_NOEXEC) != 0 ? MOUNT_ATTR_NOEXEC : 0);
}

// Only adds. 0 or errno.
int restrict_tree(int tree, uint64_t flags, unsigned how) {
  mount_attr wanted{};
  wanted.attr_set = attributes_of(flags);
  return ::syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | how, &wanted, sizeof wanted) < 0
             ? errno
             : 0;
}

UniqueFd copy_tree(int source, uint64_t flags) {
  constexpr unsigned kHow = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE;
  UniqueFd tree(static_cast<int>(::syscall(SYS_open_tree, source, "", kHow)));
  if (!tree) return {};
  int error = restrict_tree(tree.get(), flags, AT_RECURSIVE);
  if (error != 0) tree.reset();
  errno = error;
  return tree;
}

// "size=1m,mode=700" to a file system that is being made. 0 or errno.
int configure(int context, std::string_view options) {
  constexpr std::string_view kKeys[] = {"size", "nr_blocks", "nr_inodes", "mode", "uid", "gid"};
  while (!options.empty()) {
    size_t end = options.find(',');
    std::string_view option = options.substr(0, end);
    options.remove_prefix(end == std::string_view::npos ? options.size() : end + 1);
    if (option.empty()) continue;
    size_t equals = option.find('=');
    if (equals == std::string_view::npos) return EINVAL;
    std::string key(option.substr(0, equals));
    std::string value(option.substr(equals + 1));
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) return EINVAL;
    if (::syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) < 0)
      return errno;
  }
  return 0;
}

UniqueFd make_tmpfs(std::string_view options, uint64_t flags) {
  UniqueFd context(static_cast<int>(::syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!context) return {};
  if (errno = configure(context.get(), options); errno != 0) return {};
  if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return {};
  return UniqueFd(static_cast<int>(
      ::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes_of(flags))));
}

// Root of the sandbox, with the capability that decides what a process takes for its root. Read
// anew: under the profile "kernel" nobody tells when a caller's ids change. 0 or errno.
int may_mount(const Sandbox& sandbox, Caller& caller) {
  sandbox.roots_may_differ();
  const Known* known = caller.worker().know_again(caller);
  if (known == nullptr) return ESRCH;
  bool may = known->identity.uid == 0 && (known->identity.effective >> CAP_SYS_CHROOT & 1) != 0;
  return may ? 0 : EPERM;
}

struct Request {
  std::string type, options;
  uint64_t flags = 0;
};

int read_request(Caller& caller, Request& request) {
  request.flags = caller.argument(3);
  if ((request.flags & kMagicMask) == kMagic) request.flags &= ~kMagicMask;
  if ((request.flags & ~kKnown) != 0) return EPERM;
  if ((request.flags & (MS_BIND | MS_REMOUNT)) != 0) return 0;
  char text[kMaxOptions];
  if (caller.argument(2) == 0) return EINVAL;
  if (int error = caller.read_string(caller.argument(2), text, sizeof text); error != 0)
    return error;
  request.type = text;
  if (request.type != "tmpfs" && request.type != "proc") return EPERM;
  if (caller.argument(4) == 0) return 0;
  if (int error = caller.read_string(caller.argument(4), text, sizeof text); error != 0)
    return error;
  request.options = text;
  return 0;
}

// What is to be attached; the thread has become the caller and becomes one that may mount.
UniqueFd make_tree(const Sandbox& sandbox, Caller& caller, const Request& request) {
  Worker& worker = caller.worker();
  if ((request.flags & MS_BIND) == 0 && request.type == "tmpfs") {
    errno = worker.self.gain(CAP_SYS_ADMIN);
    return errno == 0 ? make_tmpfs(request.options, request.flags) : UniqueFd();
  }
  Place from(sandbox, caller);
  bool proc = (request.flags & MS_BIND) == 0;
  // A procfs made anew would be without masks, and the supervisor's.
  errno = proc ? from.from_text("/proc") : from.from(AT_FDCWD, caller.argument(0));
  if (errno != 0) return {};
  UniqueFd source = from.open(O_PATH);
  if (!source) return {};
  if (proc && !sandbox.is_proc(from.stat().st_dev)) {
    errno = EPERM;
    return {};
  }
  if (errno = worker.self.gain(CAP_SYS_ADMIN); errno != 0) return {};
  return copy_tree(source.get(), request.flags);
}

// 0 or errno.
int check_target(const Sandbox& sandbox, int target) {
  Kind there, root;
  if (int error = look_at(target, there); error != 0) return error;
  if (int error = look_at(sandbox.root.get(), root); error != 0) return error;
  bool is_root = there.mount == root.mount && there.inode == root.inode;
  return is_root || sandbox.is_guarded(there.mount) ? EPERM : 0;
}

// MS_REMOUNT | MS_BIND: a mount of ours gets more restrictions, never fewer.
Answer restrict_mount(const Sandbox& sandbox, Caller& caller, int target, uint64_t flags) {
  struct statvfs now {};
  Kind kind;
  if ((flags & MS_BIND) == 0) return refusal(EPERM);
  if (int error = look_at(target, kind); error != 0) return refusal(error);
  if (!kind.is_mount_root) return refusal(EINVAL);
  if (!sandbox.made_mount(kind.mount)) return refusal(EPERM);
  if (::fstatvfs(target, &now) < 0) return refusal(errno);
  bool fewer = ((now.f_flag & ST_RDONLY) != 0 && (flags & MS_RDONLY) == 0) ||
               ((now.f_flag & ST_NOEXEC) != 0 && (flags & MS_NOEXEC) == 0);
  if (fewer) return refusal(EPERM);
  if (int error = caller.worker().self.gain(CAP_SYS_ADMIN); error != 0) return refusal(error);
  if (!caller.still_waits()) return gone();
  int error = restrict_tree(target, flags, 0);
  return error == 0 ? value_of(0) : refusal(error);
}

// So that nothing else is done with what only a mount needs.
Answer as_caller_again(Caller& caller, Answer answer) {
  (void)caller.worker().become(caller);
  return answer;
}

Answer attach(const Sandbox& sandbox, Caller& caller, const Request& request, int target) {
  UniqueFd tree = make_tree(sandbox, caller, request);
  Kind made, there;
  if (!tree) return refusal(errno);
  if (int error = look_at(tree.get(), made); error != 0) return refusal(error);
  if (int error = look_at(target, there); error != 0) return refusal(error);
  // For which move_mount(2) has another word than mount(2).
  if (S_ISDIR(made.mode) != S_ISDIR(there.mode)) return refusal(ENOTDIR);
  if (!caller.still_waits()) return gone();
  if (::syscall(SYS_move_mount, tree.get(), "", target, "",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
    return refusal(errno);
  }
  sandbox.note_mount(made.mount);
  sandbox.look_again();
  return value_of(0);
}

}  // namespace

Answer mount_file_system(const Sandbox& sandbox, Caller& caller) {
  Request request;
  if (int error = read_request(caller, request); error != 0) return refusal(error);
  if (int error = may_mount(sandbox, caller); error != 0) return refusal(error);
  Place place(sandbox, caller);
  if (int error = place.from(AT_FDCWD, caller.argument(1)); error != 0) return refusal(error);
  UniqueFd target = place.open(O_PATH);
  if (!target) return refusal(errno);
  if ((request.flags & MS_REMOUNT) != 0) {
    return as_caller_again(caller, restrict_mount(sandbox, caller, target.get(), request.flags));
  }
  if (int error = check_target(sandbox, target.get()); error != 0) return refusal(error);
  sandbox.look_again();
  if (sandbox.mount_count() > kMaxMounts) return refusal(ENOSPC);
  return as_caller_again(caller, attach(sandbox, caller, request, target.get()));
}

// Always as with MNT_DETACH: the descriptor by which the mount is named keeps it busy.
Answer unmount(const Sandbox& sandbox, Caller& caller) {
  int flags = caller.integer(1);
  if ((flags & MNT_FORCE) != 0) return refusal(EPERM);
  if ((flags & ~(MNT_DETACH | UMOUNT_NOFOLLOW)) != 0) return refusal(EINVAL);
  if (int error = may_mount(sandbox, caller); error != 0) return refusal(error);
  Place place(sandbox, caller);
  if (int error = place.from(AT_FDCWD, caller.argument(0)); error != 0) return refusal(error);
  UniqueFd target = place.open(O_PATH | ((flags & UMOUNT_NOFOLLOW) != 0 ? O_NOFOLLOW : 0));
  if (!target) return refusal(errno);
  Kind kind;
  if (int error = look_at(target.get(), kind); error != 0) return refusal(error);
  if (!kind.is_mount_root) return refusal(EINVAL);
  if (!sandbox.made_mount(kind.mount)) return refusal(EPERM);
  if (::fchdir(sandbox.proc.get()) < 0) return refusal(errno);
  char name[32];
  std::snprintf(name, sizeof name, "self/fd/%d", target.get());
  if (int error = caller.worker().self.gain(CAP_SYS_ADMIN); error != 0) return refusal(error);
  if (!caller.still_waits()) return as_caller_again(caller, gone());
  bool done = ::umount2(name, MNT_DETACH) == 0;
  Answer answer = done ? value_of(0) : refusal(errno);
  if (done) sandbox.look_again();
  return as_caller_again(caller, answer);
}

}  // namespace bulkhead::sentry
