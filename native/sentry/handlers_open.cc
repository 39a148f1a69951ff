// open(2) and its kin: the file is opened here, as the caller, and handed over.
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>

#include "sentry/handlers_more.h"
#include "sentry/place.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

// What open(2) knows; it ignores the rest, where openat2(2) fails.
constexpr uint64_t kKnown = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND |
                            O_NONBLOCK | O_SYNC | O_DSYNC | O_ASYNC | O_DIRECT | 0100000 |
                            O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;
constexpr uint64_t kTmpFile = O_TMPFILE & ~O_DIRECTORY;

struct Wish {
  int directory;
  uint64_t address;
  uint64_t flags;
  uint64_t mode;
};

Wish wish_of(Caller& caller) {
  Wish wish{};
  if (caller.number() == SYS_openat) {
    wish = {caller.integer(0), caller.argument(1), static_cast<uint32_t>(caller.integer(2)),
            caller.argument(3)};
  } else if (caller.number() == SYS_creat) {
    wish = {AT_FDCWD, caller.argument(0), O_CREAT | O_WRONLY | O_TRUNC, caller.argument(1)};
  } else {
    wish = {AT_FDCWD, caller.argument(0), static_cast<uint32_t>(caller.integer(1)),
            caller.argument(2)};
  }
  wish.flags &= kKnown;
  bool creates = (wish.flags & (O_CREAT | kTmpFile)) != 0;
  wish.mode = creates ? wish.mode & 07777 : 0;
  return wish;
}

bool is_listed(dev_t device) {
  unsigned number = minor(device);
  switch (major(device)) {
    case 1:  // null, zero, full, random, urandom
      return number == 3 || number == 5 || (number >= 7 && number <= 9);
    case 5:  // tty, console, ptmx
      return number <= 2;
    default:  // pseudo terminals
      return major(device) >= 136 && major(device) <= 143;
  }
}

// The open file once more, without O_NONBLOCK: that of a fifo may take for ever.
UniqueFd open_again(const Sandbox& sandbox, Caller& caller, int fd, uint64_t flags) {
  char name[24];
  std::snprintf(name, sizeof name, "self/fd/%d", fd);
  Worker& worker = caller.worker();
  if (!worker.pool.may_wait(worker, caller)) {
    errno = EAGAIN;
    return {};
  }
  UniqueFd again(::openat(sandbox.proc.get(), name,
                          static_cast<int>(flags & (O_ACCMODE | O_APPEND | O_ASYNC)) | O_CLOEXEC));
  int error = errno;
  worker.pool.waited(worker);
  errno = error;
  return again;
}

constexpr int kRestart = 512;  // ERESTARTSYS: the kernel restarts the call, or makes it EINTR

// The caller's controlling terminal (field 7 of proc_pid_stat(5)): "/dev/tty" is the supervisor's
// own, which has none.
UniqueFd open_terminal(const Sandbox& sandbox, Caller& caller, uint64_t flags) {
  char buffer[1024];
  std::string_view stat = caller.read_proc("stat", buffer);
  size_t name_end = stat.rfind(')');
  uint64_t number = 0;
  if (name_end != std::string_view::npos) stat.remove_prefix(name_end);
  for (int field = 4; field <= 7; field++) {
    if (!take_number(stat, number)) number = 0;
  }
  unsigned kind = static_cast<unsigned>(number >> 8 & 0xfff);
  unsigned index = static_cast<unsigned>((number & 0xff) | (number >> 12 & 0xfff00));
  errno = ENXIO;
  if (kind < 136 || kind > 143) return {};
  char path[32];
  std::snprintf(path, sizeof path, "dev/pts/%u", (kind - 136) * 256 + index);
  UniqueFd fd(::openat(sandbox.root.get(), path,
                       static_cast<int>(flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC));
  struct stat file {};
  if (fd && (::fstat(fd.get(), &file) < 0 || file.st_rdev != makedev(kind, index))) fd.reset();
  if (!fd) errno = ENXIO;
  return fd;
}

// ENXIO of an open that did not wait: a fifo without a reader, /dev/tty, a socket, a device.
UniqueFd open_special(const Sandbox& sandbox, Caller& caller, Place& place, uint64_t flags) {
  UniqueFd object = place.open(O_PATH | (flags & O_NOFOLLOW));
  if (!object) return {};
  mode_t mode = place.stat().st_mode;
  if (S_ISFIFO(mode) && (flags & O_NONBLOCK) == 0)
    return open_again(sandbox, caller, object.get(), flags);
  if (S_ISCHR(mode) && place.stat().st_rdev == makedev(5, 0))
    return open_terminal(sandbox, caller, flags);
  errno = ENXIO;
  return {};
}

bool take_from_waiting(int fd, uint64_t flags) {
  constexpr uint64_t kSettable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME;
  return ::fcntl(fd, F_SETFL, static_cast<int>(flags & kSettable)) == 0;
}

}  // namespace

Answer open_file(const Sandbox& sandbox, Caller& caller) {
  Wish wish = wish_of(caller);
  // Meaningless since Linux 6.4, and looked at before the path.
  if ((wish.flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY)) return refusal(EINVAL);
  // Cannot be handed over (fget); openat(2) has it done by the kernel.
  if ((wish.flags & O_PATH) != 0) return refusal(EINVAL);
  Place place(sandbox, caller);
  if (int error = place.from(wish.directory, wish.address); error != 0) return refusal(error);
  bool creates = (wish.flags & (O_CREAT | kTmpFile)) != 0;
  if (creates) {
    if (int error = caller.worker().take_umask(caller); error != 0) return refusal(error);
  }
  uint64_t flags = wish.flags;
  // Nothing but a fifo or a device can keep an open waiting, and what is a directory, or new, is
  // not one.
  bool known_kind =
      (flags & (O_DIRECTORY | O_PATH)) != 0 || (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
  if ((flags & O_PATH) == 0) flags |= O_NOCTTY | (known_kind ? 0 : O_NONBLOCK);
  UniqueFd fd = place.open(flags, wish.mode);
  if (!fd && errno == ENXIO) fd = open_special(sandbox, caller, place, wish.flags);
  if (!fd) return refusal(errno == EINTR ? kRestart : errno);
  bool close_on_exec = (wish.flags & O_CLOEXEC) != 0;
  mode_t mode = place.stat().st_mode;
  if (S_ISBLK(mode) || (S_ISCHR(mode) && !is_listed(place.stat().st_rdev))) return refusal(EACCES);
  bool reads_fifo = S_ISFIFO(mode) && (wish.flags & O_ACCMODE) == O_RDONLY;
  if (reads_fifo && (wish.flags & O_NONBLOCK) == 0) {
    // The first keeps being a reader until there is the second, so that no writer finds none.
    UniqueFd waited = open_again(sandbox, caller, fd.get(), wish.flags);
    if (!waited) return refusal(errno == EINTR ? kRestart : errno);
    return hand_over(caller, std::move(waited), close_on_exec);
  }
  bool waits = (wish.flags & O_NONBLOCK) == 0 && (flags & O_NONBLOCK) != 0;
  if (waits && !take_from_waiting(fd.get(), wish.flags)) return refusal(errno);
  return hand_over(caller, std::move(fd), close_on_exec);
}

}  // namespace bulkhead::sentry
