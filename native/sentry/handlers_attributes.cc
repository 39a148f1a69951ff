// Calls that change what files are: done on a descriptor of the object.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#include <cstdio>

#include "sentry/handlers_more.h"
#include "sentry/place.h"
#include "sentry/worker.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

namespace bulkhead::sentry {

namespace {

Answer outcome(long result) {
  return result < 0 ? refusal(errno) : value_of(0);
}

// O_PATH, or the descriptor itself when the path is empty and `flags` allow that. -1: errno.
int object_of(Place& place, int flags, UniqueFd& held) {
  if (place.empty() && (flags & AT_EMPTY_PATH) != 0) return place.base();
  held = place.open(O_PATH | ((flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0));
  return held.get();
}

}  // namespace

// chmod, fchmodat, fchmodat2.
Answer change_mode(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() != SYS_chmod;
  int flags = caller.number() == SYS_fchmodat2 ? caller.integer(3) : 0;
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return refusal(EINVAL);
  mode_t mode = static_cast<mode_t>(caller.integer(at ? 2 : 1)) & 07777;
  Place place(sandbox, caller);
  if (int error = place.from(at ? caller.integer(0) : AT_FDCWD, caller.argument(at ? 1 : 0));
      error != 0) {
    return refusal(error);
  }
  UniqueFd held;
  int object = object_of(place, flags, held);
  if (object < 0) return refusal(errno);
  long result = ::syscall(SYS_fchmodat2, object, "", mode, AT_EMPTY_PATH);
  if (result == 0 || errno != ENOSYS) return outcome(result);
  // Before Linux 6.6.
  char own[32];
  std::snprintf(own, sizeof own, "self/fd/%d", object);
  return outcome(::fchmodat(sandbox.proc.get(), own, mode, 0));
}

// chown, lchown, fchownat.
Answer change_owner(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_fchownat;
  int flags = at ? caller.integer(4) : caller.number() == SYS_lchown ? AT_SYMLINK_NOFOLLOW : 0;
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return refusal(EINVAL);
  int first = at ? 2 : 1;
  Place place(sandbox, caller);
  if (int error = place.from(at ? caller.integer(0) : AT_FDCWD, caller.argument(at ? 1 : 0));
      error != 0) {
    return refusal(error);
  }
  UniqueFd held;
  int object = object_of(place, flags, held);
  if (object < 0) return refusal(errno);
  return outcome(::fchownat(object, "", static_cast<uid_t>(caller.integer(first)),
                            static_cast<gid_t>(caller.integer(first + 1)), AT_EMPTY_PATH));
}

namespace {

// What utimensat, utimes, futimesat and utime have in memory. `now`: nothing.
int read_times(Caller& caller, uint64_t address, timespec (&times)[2], bool& now) {
  now = address == 0;
  if (now) return 0;
  if (caller.number() == SYS_utimensat) return caller.read(address, times, sizeof times);
  if (caller.number() == SYS_utime) {
    utimbuf seconds{};
    int error = caller.read(address, &seconds, sizeof seconds);
    times[0] = {seconds.actime, 0};
    times[1] = {seconds.modtime, 0};
    return error;
  }
  timeval values[2]{};
  if (int error = caller.read(address, values, sizeof values); error != 0) return error;
  for (int i = 0; i < 2; i++) {
    if (values[i].tv_usec < 0 || values[i].tv_usec >= 1000000) return EINVAL;
    times[i] = {values[i].tv_sec, values[i].tv_usec * 1000};
  }
  return 0;
}

}  // namespace

Answer change_times(const Sandbox& sandbox, Caller& caller) {
  bool at = caller.number() == SYS_utimensat || caller.number() == SYS_futimesat;
  int flags = caller.number() == SYS_utimensat ? caller.integer(3) : 0;
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return refusal(EINVAL);
  timespec times[2]{};
  bool now = false;
  if (int error = read_times(caller, caller.argument(at ? 2 : 1), times, now); error != 0)
    return refusal(error);
  const timespec* given = now ? nullptr : times;
  // futimens(3) has no path at all.
  if (at && caller.argument(1) == 0) {
    if (int error = caller.worker().become(caller); error != 0) return refusal(error);
    UniqueFd fd = caller.descriptor(caller.integer(0));
    if (!fd) return refusal(errno);
    return outcome(::syscall(SYS_utimensat, fd.get(), nullptr, given, 0));
  }
  Place place(sandbox, caller);
  if (int error = place.from(at ? caller.integer(0) : AT_FDCWD, caller.argument(at ? 1 : 0));
      error != 0) {
    return refusal(error);
  }
  UniqueFd held;
  int object = object_of(place, flags, held);
  if (object < 0) return refusal(errno);
  return outcome(::syscall(SYS_utimensat, object, "", given, AT_EMPTY_PATH));
}

Answer truncate_file(const Sandbox& sandbox, Caller& caller) {
  int64_t length = static_cast<int64_t>(caller.argument(1));
  if (length < 0) return refusal(EINVAL);
  if (caller.number() == SYS_ftruncate) {
    UniqueFd own = caller.descriptor(caller.integer(0));
    return own ? outcome(::ftruncate(own.get(), length)) : refusal(errno);
  }
  Place place(sandbox, caller);
  if (int error = place.from(AT_FDCWD, caller.argument(0)); error != 0) return refusal(error);
  UniqueFd object = place.open(O_PATH);
  if (!object) return refusal(errno);
  if (S_ISDIR(place.stat().st_mode)) return refusal(EISDIR);
  if (!S_ISREG(place.stat().st_mode)) return refusal(EINVAL);
  UniqueFd fd = place.open(O_WRONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) return refusal(errno);
  if (!S_ISREG(place.stat().st_mode)) return refusal(EINVAL);
  return outcome(::ftruncate(fd.get(), length));
}

}  // namespace bulkhead::sentry
