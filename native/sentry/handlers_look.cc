// Calls that look at files: answered from a descriptor (O_PATH) of the object.
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "sentry/handlers_more.h"
#include "sentry/place.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

Answer give(Caller& caller, uint64_t address, const void* data, size_t size, int64_t value = 0) {
  int error = caller.write(address, data, size);
  return error == 0 ? value_of(value) : refusal(error);
}

}  // namespace

// stat, lstat.
Answer stat_file(const Sandbox& sandbox, Caller& caller) {
  bool follow = caller.number() == SYS_stat;
  Place place(sandbox, caller);
  if (int error = place.from(AT_FDCWD, caller.argument(0)); error != 0) return refusal(error);
  int here = place.look_here();
  if (here > 0) return refusal(here);
  if (here < 0 || (follow && S_ISLNK(place.stat().st_mode))) {
    UniqueFd fd = place.open(O_PATH | (follow ? 0 : O_NOFOLLOW));
    if (!fd) return refusal(errno);
  }
  return give(caller, caller.argument(1), &place.stat(), sizeof place.stat());
}

Answer statx_file(const Sandbox& sandbox, Caller& caller) {
  constexpr int kSync = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
  int flags = caller.integer(2);
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | kSync)) != 0 ||
      (flags & kSync) == kSync) {
    return refusal(EINVAL);
  }
  Place place(sandbox, caller);
  if (int error = place.from(caller.integer(0), caller.argument(1)); error != 0)
    return refusal(error);
  UniqueFd fd;
  bool own = place.empty() && (flags & AT_EMPTY_PATH) != 0;
  if (!own) fd = place.open(O_PATH | ((flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0));
  if (!own && !fd) return refusal(errno);
  struct statx file {};
  if (::statx(own ? place.base() : fd.get(), "", AT_EMPTY_PATH | (flags & kSync),
              static_cast<unsigned>(caller.integer(3)), &file) < 0) {
    return refusal(errno);
  }
  return give(caller, caller.argument(4), &file, sizeof file);
}

Answer access_file(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() != SYS_access;
  int mode = caller.integer(at ? 2 : 1);
  int flags = caller.number() == SYS_faccessat2 ? caller.integer(3) : 0;
  if ((mode & ~(R_OK | W_OK | X_OK)) != 0 ||
      (flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) {
    return refusal(EINVAL);
  }
  Place place(sandbox, caller);
  if (int error = place.from(at ? caller.integer(0) : AT_FDCWD, caller.argument(at ? 1 : 0));
      error != 0) {
    return refusal(error);
  }
  const Known* known = caller.worker().known(caller);
  if (known == nullptr) return gone();
  if ((flags & AT_EACCESS) == 0) {
    int error = caller.worker().self.become(known->identity.real());
    if (error != 0) return refusal(error);
  }
  UniqueFd fd;
  bool own = place.empty() && (flags & AT_EMPTY_PATH) != 0;
  if (!own) fd = place.open(O_PATH | ((flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0));
  if (!own && !fd) return refusal(errno);
  // With the rights of the thread as they are: its real ids are the supervisor's.
  long result = ::syscall(SYS_faccessat2, own ? place.base() : fd.get(), "", mode,
                          AT_EMPTY_PATH | AT_EACCESS);
  return result < 0 ? refusal(errno) : value_of(0);
}

Answer read_link(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_readlinkat;
  int32_t room = caller.integer(at ? 3 : 2);
  if (room <= 0) return refusal(EINVAL);
  Place place(sandbox, caller);
  if (int error = place.from(at ? caller.integer(0) : AT_FDCWD, caller.argument(at ? 1 : 0));
      error != 0) {
    return refusal(error);
  }
  UniqueFd fd;
  if (!place.empty() || !at) {
    fd = place.open(O_PATH | O_NOFOLLOW);
    if (!fd) return refusal(errno);
    if (!S_ISLNK(place.stat().st_mode)) return refusal(EINVAL);
  }
  char target[PATH_MAX];
  ssize_t length = ::readlinkat(fd ? fd.get() : place.base(), "", target, sizeof target);
  if (length < 0 && errno == ENOENT && fd && sandbox.is_proc(place.stat().st_dev)) {
    // /proc/self and /proc/thread-self: nobody in this procfs is the supervisor.
    const Known* known = caller.worker().known(caller);
    if (known == nullptr) return gone();
    const Identity& who = known->identity;
    bool thread = std::string_view(place.text()).find("thread-self") != std::string_view::npos;
    length =
        thread ? std::snprintf(target, sizeof target, "%u/task/%u", who.own_process, who.own_thread)
               : std::snprintf(target, sizeof target, "%u", who.own_process);
  }
  if (length < 0) return refusal(errno);
  size_t size = std::min<size_t>(static_cast<size_t>(length), static_cast<size_t>(room));
  return give(caller, caller.argument(at ? 2 : 1), target, size, static_cast<int64_t>(size));
}

Answer stat_file_system(const Sandbox& sandbox, Caller& caller) {
  UniqueFd fd;
  if (caller.number() == SYS_fstatfs) {
    fd = caller.descriptor(caller.integer(0));
  } else {
    Place place(sandbox, caller);
    if (int error = place.from(AT_FDCWD, caller.argument(0)); error != 0) return refusal(error);
    fd = place.open(O_PATH);
  }
  struct statfs system {};
  if (!fd || ::fstatfs(fd.get(), &system) < 0) return refusal(errno);
  return give(caller, caller.argument(1), &system, sizeof system);
}

// getcwd: as seen from the root, which is the caller's.
Answer working_directory(const Sandbox& sandbox, Caller& caller) {
  Place place(sandbox, caller);
  if (int error = place.from_cwd(); error != 0) return refusal(error);
  struct stat directory {};
  if (::fstat(place.base(), &directory) < 0) return refusal(errno);
  if (directory.st_nlink == 0) return refusal(ENOENT);
  char name[32];
  char path[PATH_MAX + 1];
  std::snprintf(name, sizeof name, "self/fd/%d", place.base());
  ssize_t length = ::readlinkat(sandbox.proc.get(), name, path, PATH_MAX);
  if (length < 0) return refusal(errno);
  path[length] = '\0';
  size_t size = static_cast<size_t>(length) + 1;
  if (size > caller.argument(1)) return refusal(ERANGE);
  return give(caller, caller.argument(0), path, size, static_cast<int64_t>(size));
}

// inotify_add_watch: by the name that the object has here.
Answer watch_file(const Sandbox& sandbox, Caller& caller) {
  uint32_t mask = static_cast<uint32_t>(caller.integer(2));
  UniqueFd inotify = caller.descriptor(caller.integer(0));
  if (!inotify) return refusal(errno);
  Place place(sandbox, caller);
  if (int error = place.from(AT_FDCWD, caller.argument(1)); error != 0) return refusal(error);
  UniqueFd fd = place.open(O_PATH | ((mask & IN_DONT_FOLLOW) != 0 ? O_NOFOLLOW : 0) |
                           ((mask & IN_ONLYDIR) != 0 ? O_DIRECTORY : 0));
  if (!fd) return refusal(errno);
  if (::fchdir(sandbox.proc.get()) < 0) return refusal(errno);
  char name[32];
  std::snprintf(name, sizeof name, "self/fd/%d", fd.get());
  int watch =
      ::inotify_add_watch(inotify.get(), name, mask & ~static_cast<uint32_t>(IN_DONT_FOLLOW));
  return watch < 0 ? refusal(errno) : value_of(watch);
}

}  // namespace bulkhead::sentry
