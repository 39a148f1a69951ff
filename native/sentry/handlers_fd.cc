// Descriptors made here and handed to the caller (SECCOMP_IOCTL_NOTIF_ADDFD): only such as are
// nothing but themselves.
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <atomic>

#include "sentry/handlers_more.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

// Descriptors that a caller has already, and the supervisor still.
std::atomic<int> twice_held{0};

class HeldTwice {
 public:
  HeldTwice() { twice_held++; }
  ~HeldTwice() { twice_held--; }
  HeldTwice(const HeldTwice&) = delete;
  HeldTwice& operator=(const HeldTwice&) = delete;
};

}  // namespace

// At most 100 ms: a caller that is frozen is in nobody's way.
void settle_hand_overs() {
  for (int i = 0; i < 100 && twice_held.load() != 0; i++) {
    timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

namespace {

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

// -1: errno.
int add_descriptor(Caller& caller, int fd, bool close_on_exec, uint32_t flags) {
  seccomp_notif_addfd request{};
  request.id = caller.id();
  request.flags = flags;
  request.srcfd = static_cast<uint32_t>(fd);
  request.newfd_flags = close_on_exec ? O_CLOEXEC : 0;
  return ::ioctl(caller.listener(), SECCOMP_IOCTL_NOTIF_ADDFD, &request);
}

}  // namespace

// The call returns the new number; that and the answer are one step of the kernel's (Linux 5.14).
//
// For that step the kernel wakes the caller on any processor that is idle, and then this thread on
// the other; once they are apart they stay so, and each wake-up takes an interrupt. A plain answer
// brings the caller here, so now and then the two are done one after the other. Where a listener
// can do that (Linux 6.6) nothing but SIGKILL comes between (WAIT_KILLABLE_RECV, Linux 5.19).
Answer hand_over(Caller& caller, UniqueFd fd, bool close_on_exec) {
  if (!fd) return refusal(errno);
  HeldTwice held;
  UniqueFd own = std::move(fd);
  Worker& worker = caller.worker();
  bool meet = worker.pool.wakes_here() && worker.apart.should_meet();
  if (meet) worker.pool.give_way(worker);
  uint64_t before = now_ns();
  int number = add_descriptor(caller, own.get(), close_on_exec, meet ? 0 : SECCOMP_ADDFD_FLAG_SEND);
  int error = errno;
  worker.apart.took(now_ns() - before);
  if (number >= 0) return meet ? value_of(number) : Answer{number, 0, true, true, false};
  // ENOENT: gone. Else the caller's table is full.
  return error == ENOENT ? gone() : refusal(error == EMFILE ? EMFILE : ENOMEM);
}

Answer make_eventfd(const Sandbox&, Caller& caller) {
  int flags = caller.number() == SYS_eventfd2 ? caller.integer(1) : 0;
  if ((flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) != 0) return refusal(EINVAL);
  UniqueFd fd(::eventfd(static_cast<unsigned>(caller.integer(0)), flags | EFD_CLOEXEC));
  return hand_over(caller, std::move(fd), (flags & EFD_CLOEXEC) != 0);
}

Answer make_timerfd(const Sandbox&, Caller& caller) {
  int clock = caller.integer(0);
  int flags = caller.integer(1);
  if ((flags & ~(TFD_CLOEXEC | TFD_NONBLOCK)) != 0) return refusal(EINVAL);
  if (clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) return refusal(EPERM);
  if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME)
    return refusal(EINVAL);
  UniqueFd fd(::timerfd_create(clock, flags | TFD_CLOEXEC));
  return hand_over(caller, std::move(fd), (flags & TFD_CLOEXEC) != 0);
}

// epoll_create(2): the size is only checked.
Answer make_epoll(const Sandbox&, Caller& caller) {
  if (caller.integer(0) <= 0) return refusal(EINVAL);
  return hand_over(caller, UniqueFd(::epoll_create1(EPOLL_CLOEXEC)), false);
}

Answer make_epoll_with_flags(const Sandbox&, Caller& caller) {
  int flags = caller.integer(0);
  if ((flags & ~EPOLL_CLOEXEC) != 0) return refusal(EINVAL);
  return hand_over(caller, UniqueFd(::epoll_create1(EPOLL_CLOEXEC)), flags != 0);
}

Answer make_inotify(const Sandbox&, Caller& caller) {
  int flags = caller.number() == SYS_inotify_init1 ? caller.integer(0) : 0;
  if ((flags & ~(IN_CLOEXEC | IN_NONBLOCK)) != 0) return refusal(EINVAL);
  UniqueFd fd(::inotify_init1(flags | IN_CLOEXEC));
  return hand_over(caller, std::move(fd), (flags & IN_CLOEXEC) != 0);
}

Answer set_timerfd(const Sandbox&, Caller& caller) {
  UniqueFd fd = caller.descriptor(caller.integer(0));
  if (!fd) return refusal(errno);
  itimerspec wanted{};
  itimerspec former{};
  if (int error = caller.read(caller.argument(2), &wanted, sizeof wanted); error != 0)
    return refusal(error);
  if (::timerfd_settime(fd.get(), caller.integer(1), &wanted, &former) < 0) return refusal(errno);
  if (caller.argument(3) == 0) return value_of(0);
  return written(caller.write(caller.argument(3), &former, sizeof former));
}

Answer remove_watch(const Sandbox&, Caller& caller) {
  UniqueFd fd = caller.descriptor(caller.integer(0));
  if (!fd || ::inotify_rm_watch(fd.get(), caller.integer(1)) < 0) return refusal(errno);
  return value_of(0);
}

// listen, shutdown.
Answer socket_state(const Sandbox&, Caller& caller) {
  UniqueFd fd = caller.descriptor(caller.integer(0));
  if (!fd) return refusal(errno);
  int result = caller.number() == SYS_listen ? ::listen(fd.get(), caller.integer(1))
                                             : ::shutdown(fd.get(), caller.integer(1));
  return result < 0 ? refusal(errno) : value_of(0);
}

// getsockname, getpeername.
Answer socket_name(const Sandbox&, Caller& caller) {
  UniqueFd fd = caller.descriptor(caller.integer(0));
  if (!fd) return refusal(errno);
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  int result = caller.number() == SYS_getsockname ? ::getsockname(fd.get(), name, &length)
                                                  : ::getpeername(fd.get(), name, &length);
  if (result < 0) return refusal(errno);
  int32_t room = 0;
  if (int error = caller.read(caller.argument(2), &room, sizeof room); error != 0)
    return refusal(error);
  if (room < 0) return refusal(EINVAL);
  size_t size = std::min<size_t>(length, static_cast<size_t>(room));
  if (int error = size == 0 ? 0 : caller.write(caller.argument(1), &address, size); error != 0)
    return refusal(error);
  return written(caller.write(caller.argument(2), &length, sizeof length));
}

constexpr int kRestart = 512;  // ERESTARTSYS

Answer lock_file(const Sandbox&, Caller& caller) {
  int operation = caller.integer(1);
  UniqueFd fd = caller.descriptor(caller.integer(0));
  if (!fd) return refusal(errno);
  // The lock is the open file's, whoever takes it.
  if (::flock(fd.get(), operation | LOCK_NB) == 0) return value_of(0);
  if (errno != EWOULDBLOCK || (operation & LOCK_NB) != 0) return refusal(errno);
  Worker& worker = caller.worker();
  if (!worker.pool.may_wait(worker, caller)) return refusal(ENOLCK);
  int result = ::flock(fd.get(), operation);
  int error = errno;
  worker.pool.waited(worker);
  if (result == 0) return value_of(0);
  return refusal(error == EINTR ? kRestart : error);
}

// fsync, fdatasync: disks take their time.
Answer synchronize(const Sandbox&, Caller& caller) {
  UniqueFd fd = caller.descriptor(caller.integer(0));
  if (!fd) return refusal(errno);
  Worker& worker = caller.worker();
  bool elsewhere = worker.pool.may_wait(worker, caller);
  int result = caller.number() == SYS_fsync ? ::fsync(fd.get()) : ::fdatasync(fd.get());
  int error = errno;
  if (elsewhere) worker.pool.waited(worker);
  return result < 0 ? refusal(error) : value_of(0);
}

}  // namespace bulkhead::sentry
