// The terminal, and the ownership of the standard streams.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "core/init_codec.h"
#include "init/mounting.h"
#include "init/resolve.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

bool on_devpts(int fd) {
  struct statfs info;
  return ::fstatfs(fd, &info) == 0 && info.f_type == DEVPTS_SUPER_MAGIC;
}

// /dev/pts/ptmx, not /dev/ptmx: the latter is whatever the image made of it.
Outcome open_master(Context& context, UniqueFd& master) {
  int root = context.root ? context.root.get() : AT_FDCWD;
  master = open_in_root(root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (!master) return fail("open", "/dev/pts/ptmx");
  struct stat info;
  if (!on_devpts(master.get()) || ::fstat(master.get(), &info) < 0 ||
      info.st_rdev != makedev(5, 2)) {
    return fail_with(EPERM, "not-devpts", "/dev/pts/ptmx");
  }
  // Only for the open, which a fifo in its place would have blocked: whoever gets it by a console
  // socket expects a terminal that waits.
  ::fcntl(master.get(), F_SETFL, 0);
  int unlocked = 0;
  if (::ioctl(master.get(), TIOCSPTLCK, &unlocked) < 0) return fail("unlock", "/dev/pts/ptmx");
  return done();
}

// The other end by TIOCGPTPEER: no name is looked up, so no /dev/pts/N of the container's can be
// slipped in (CVE-2025-52565).
Outcome open_slave(const Terminal& step, int master, UniqueFd& slave) {
  slave.reset(::ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) return fail("open-peer", "/dev/pts");
  if (!on_devpts(slave.get())) return fail_with(EPERM, "not-devpts", "/dev/pts");
  if (::fchown(slave.get(), step.uid, static_cast<gid_t>(-1)) < 0) return fail("chown", "/dev/pts");
  termios modes;
  if (::tcgetattr(slave.get(), &modes) < 0) return fail("tcgetattr", "/dev/pts");
  // The terminal at the other end does the carriage return.
  modes.c_oflag &= ~static_cast<tcflag_t>(ONLCR);
  if (::tcsetattr(slave.get(), TCSANOW, &modes) < 0) return fail("tcsetattr", "/dev/pts");
  if (step.width != 0 || step.height != 0) {
    winsize size{};
    size.ws_col = static_cast<unsigned short>(step.width);
    size.ws_row = static_cast<unsigned short>(step.height);
    if (::ioctl(slave.get(), TIOCSWINSZ, &size) < 0) return fail("winsize", "/dev/pts");
  }
  return done();
}

Outcome mount_console(Context& context, int slave) {
  int root = context.root ? context.root.get() : AT_FDCWD;
  UniqueFd target = make_file(root, "/dev/console");
  if (!target) return fail("resolve", "/dev/console");
  UniqueFd copy = clone_mount(slave, false);
  if (!copy) return fail("open-tree", "/dev/console");
  int err = attach_mount(copy.get(), target.get());
  return err == 0 ? done() : fail_with(err, "attach", "/dev/console");
}

Outcome take_terminal(int slave) {
  ::setsid();
  if (::ioctl(slave, TIOCSCTTY, 0) < 0) return fail("controlling-terminal", "/dev/pts");
  for (int fd = 0; fd < 3; fd++) {
    if (::dup2(slave, fd) < 0) return fail("dup2", "/dev/pts");
  }
  return done();
}

}  // namespace

Outcome carry_out(Context& context, const Terminal& step) {
  UniqueFd master;
  UniqueFd slave;
  Outcome outcome = open_master(context, master);
  if (outcome.ok()) outcome = open_slave(step, master.get(), slave);
  if (outcome.ok() && step.mount_console) outcome = mount_console(context, slave.get());
  if (outcome.ok()) outcome = take_terminal(slave.get());
  if (outcome.ok()) report(context, encode_console(), master.get());
  return outcome;
}

Outcome carry_out(Context&, const OwnStdio& step) {
  for (int fd = 0; fd < 3; fd++) {
    struct stat info;
    if (::fstat(fd, &info) < 0) continue;
    bool tty = S_ISCHR(info.st_mode) && ::isatty(fd) == 1;
    // Never a device of the host's (/dev/null), whose owner everybody sees.
    if (S_ISCHR(info.st_mode) && !tty) continue;
    bool stream = tty || S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode);
    // A terminal keeps its group: "tty", for write(1).
    gid_t gid = tty ? static_cast<gid_t>(-1) : step.gid;
    if (info.st_uid == step.uid && (tty || info.st_gid == step.gid)) continue;
    // Not fchown: stdin may be O_PATH until the start gate opens.
    if (::fchownat(fd, "", step.uid, gid, AT_EMPTY_PATH) == 0 || !stream) continue;
    // EINVAL, EPERM: the owner is not mapped in this user namespace; EROFS: nothing to be done.
    if (errno != EINVAL && errno != EPERM && errno != EROFS) return fail("chown");
  }
  return done();
}

}  // namespace bulkhead
