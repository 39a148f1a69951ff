// Directories, device nodes and symlinks beneath the root.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "init/mounting.h"
#include "init/resolve.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

mode_t type_bits(NodeType type) {
  switch (type) {
    case NodeType::kChar:
      return S_IFCHR;
    case NodeType::kBlock:
      return S_IFBLK;
    case NodeType::kFifo:
      break;
  }
  return S_IFIFO;
}

// User namespaces cannot make nodes; the host's, opened before Clone, is bound over an empty file.
Outcome bind_node(Context& context, const Mknod& step) {
  int source = context.slot(step.bind_slot).fd.get();
  if (source < 0) return fail_with(EBADF, "empty-slot", step.target.view());
  UniqueFd target = make_file(context.root.get(), step.target.view());
  if (!target) return fail("resolve", step.target.view());
  int err = attach_mount(source, target.get());
  return err == 0 ? done() : fail_with(err, "attach", step.target.view());
}

// What now carries the name must be the node asked for, and not what somebody put there
// (CVE-2026-41579).
Outcome verify_node(const Mknod& step, int fd) {
  struct stat info;
  if (::fstat(fd, &info) < 0) return fail("verify", step.target.view());
  bool same_type = (info.st_mode & S_IFMT) == type_bits(step.type);
  bool same_device =
      step.type == NodeType::kFifo || info.st_rdev == makedev(step.major, step.minor);
  return same_type && same_device ? done() : fail_with(EEXIST, "another-node", step.target.view());
}

}  // namespace

Outcome carry_out(Context& context, const Mkdir& step) {
  if (!context.root) return fail_with(EINVAL, "no-root", step.target.view());
  bool made = false;
  mode_t mode = step.mode == 0 ? 0755 : step.mode;
  UniqueFd directory = make_directories(context.root.get(), step.target.view(), mode, &made);
  if (!directory) return fail("mkdir", step.target.view());
  if (made && (step.uid != 0 || step.gid != 0) &&
      ::fchownat(directory.get(), "", step.uid, step.gid, AT_EMPTY_PATH) < 0) {
    return fail("chown", step.target.view());
  }
  return done();
}

Outcome carry_out(Context& context, const Mknod& step) {
  if (!context.root) return fail_with(EINVAL, "no-root", step.target.view());
  if (step.bind_slot) return bind_node(context, step);
  Place place;
  if (!make_place(context.root.get(), step.target.view(), place)) {
    return fail("resolve", step.target.view());
  }
  mode_t mode = type_bits(step.type) | (step.mode & 07777);
  dev_t device = step.type == NodeType::kFifo ? 0 : makedev(step.major, step.minor);
  bool made = ::mknodat(place.parent.get(), place.name, mode, device) == 0;
  if (!made && errno != EEXIST) return fail("mknod", step.target.view());
  UniqueFd node(::openat(place.parent.get(), place.name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!node) return fail("verify", step.target.view());
  Outcome outcome = verify_node(step, node.get());
  if (!outcome.ok()) return outcome;
  if ((!made || step.uid != 0 || step.gid != 0) &&
      ::fchownat(node.get(), "", step.uid, step.gid, AT_EMPTY_PATH) < 0) {
    return fail("chown", step.target.view());
  }
  return done();
}

Outcome carry_out(Context& context, const Symlink& step) {
  if (!context.root) return fail_with(EINVAL, "no-root", step.target.view());
  Place place;
  if (!make_place(context.root.get(), step.target.view(), place)) {
    return fail("resolve", step.target.view());
  }
  if (::symlinkat(step.contents.c_str(), place.parent.get(), place.name) < 0 &&
      !(step.optional && errno == EEXIST)) {
    return fail("symlink", step.target.view());
  }
  return done();
}

}  // namespace bulkhead
