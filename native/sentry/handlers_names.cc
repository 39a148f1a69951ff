// Calls that make, move and take away names: done in the directory of the name, which was opened.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/handlers_more.h"
#include "sentry/place.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

Answer outcome(long result) {
  return result < 0 ? refusal(errno) : value_of(0);
}

// A path argument of a call, and the directory argument before it, if the call has one.
struct Operand {
  int directory;
  uint64_t path;
};

Operand operand(Caller& caller, bool at, int index) {
  if (!at) return {AT_FDCWD, caller.argument(index)};
  return {caller.integer(index), caller.argument(index + 1)};
}

// The directory of the operand, and the name in it. -1: `error`.
int parent_of(Place& place, const Operand& what, const char*& name, int& error) {
  error = place.from(what.directory, what.path);
  if (error != 0) return -1;
  int parent = place.parent(name);
  if (parent < 0) error = errno;
  return parent;
}

}  // namespace

Answer make_directory(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_mkdirat;
  Place place(sandbox, caller);
  const char* name;
  int error;
  int parent = parent_of(place, operand(caller, at, 0), name, error);
  if (parent < 0) return refusal(error);
  if (error = caller.worker().take_umask(caller); error != 0) return refusal(error);
  return outcome(::mkdirat(parent, name, static_cast<mode_t>(caller.integer(at ? 2 : 1))));
}

Answer make_node(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_mknodat;
  mode_t mode = static_cast<mode_t>(caller.integer(at ? 2 : 1));
  mode_t type = mode & S_IFMT;
  if (S_ISDIR(mode)) return refusal(EPERM);
  if (type != 0 && !S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode)) return refusal(EPERM);
  Place place(sandbox, caller);
  const char* name;
  int error;
  int parent = parent_of(place, operand(caller, at, 0), name, error);
  if (parent < 0) return refusal(error);
  if (error = caller.worker().take_umask(caller); error != 0) return refusal(error);
  return outcome(::mknodat(parent, name, mode, 0));
}

// unlink, unlinkat, rmdir.
Answer unlink_name(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_unlinkat;
  int flags = at ? caller.integer(2) : caller.number() == SYS_rmdir ? AT_REMOVEDIR : 0;
  if ((flags & ~AT_REMOVEDIR) != 0) return refusal(EINVAL);
  Place place(sandbox, caller);
  const char* name;
  int error;
  int parent = parent_of(place, operand(caller, at, 0), name, error);
  if (parent < 0) return refusal(error);
  return outcome(::unlinkat(parent, name, flags));
}

Answer rename_file(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() != SYS_rename;
  unsigned flags = caller.number() == SYS_renameat2 ? static_cast<unsigned>(caller.integer(4)) : 0;
  Place from(sandbox, caller);
  Place to(sandbox, caller);
  const char* old_name;
  const char* new_name;
  int error;
  int source = parent_of(from, operand(caller, at, 0), old_name, error);
  if (source < 0) return refusal(error);
  int target = parent_of(to, operand(caller, at, at ? 2 : 1), new_name, error);
  if (target < 0) return refusal(error);
  return outcome(::syscall(SYS_renameat2, source, old_name, target, new_name, flags));
}

Answer link_file(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_linkat;
  int flags = at ? caller.integer(4) : 0;
  if ((flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) != 0) return refusal(EINVAL);
  Place from(sandbox, caller);
  Place to(sandbox, caller);
  Operand source = operand(caller, at, 0);
  if (int error = from.from(source.directory, source.path); error != 0) return refusal(error);
  const char* name;
  int error;
  int target = parent_of(to, operand(caller, at, at ? 2 : 1), name, error);
  if (target < 0) return refusal(error);
  if (from.empty() && (flags & AT_EMPTY_PATH) != 0)
    return outcome(::linkat(from.base(), "", target, name, AT_EMPTY_PATH));
  if ((flags & AT_SYMLINK_FOLLOW) == 0) {
    const char* old_name;
    int parent = from.parent(old_name);
    if (parent < 0) return refusal(errno);
    return outcome(::linkat(parent, old_name, target, name, 0));
  }
  // What the link leads to has been found here; it is named by its descriptor, as open(2) has it
  // for O_TMPFILE.
  UniqueFd object = from.open(O_PATH);
  if (!object) return refusal(errno);
  char own[32];
  std::snprintf(own, sizeof own, "self/fd/%d", object.get());
  return outcome(::linkat(sandbox.proc.get(), own, target, name, AT_SYMLINK_FOLLOW));
}

Answer make_symlink(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_symlinkat;
  char target[PATH_MAX];
  if (int error = caller.read_path(caller.argument(0), target); error != 0) return refusal(error);
  if (*target == '\0') return refusal(ENOENT);
  Place place(sandbox, caller);
  const char* name;
  int error;
  int parent = parent_of(place, operand(caller, at, 1), name, error);
  if (parent < 0) return refusal(error);
  return outcome(::symlinkat(target, parent, name));
}

}  // namespace bulkhead::sentry
