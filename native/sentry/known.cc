#include "sentry/known.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/caller.h"

namespace bulkhead::sentry {

namespace {

constexpr unsigned kPidfdThread = 0200;  // PIDFD_THREAD, which is O_EXCL
constexpr size_t kStatusSize = 8192;

class Lock {
 public:
  explicit Lock(pthread_mutex_t& mutex) : mutex_(mutex) { ::pthread_mutex_lock(&mutex_); }
  ~Lock() { ::pthread_mutex_unlock(&mutex_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  pthread_mutex_t& mutex_;
};

// The cheapest question that the kernel answers by whether the thread of a pidfd lives: it has no
// descriptor -1 (EBADF), and a dead thread is ESRCH.
bool alive(int pidfd) {
  return ::syscall(SYS_pidfd_getfd, pidfd, -1, 0) < 0 && errno == EBADF;
}

}  // namespace

Callers::Found Callers::find(Caller& caller, bool sure) {
  Found found;
  {
    Lock lock(lock_);
    if (!pending_.empty()) settle(caller.tid());
    found = slots_[static_cast<size_t>(caller.tid()) % kSlots];
  }
  if (found && found->tid == caller.tid() && (!sure || alive(found->pidfd.get()))) return found;
  return read(caller);
}

Callers::Found Callers::find_with_umask(Caller& caller, Found found) {
  {
    Lock lock(lock_);
    settle_gone();
    if (pending_.empty() && !umask_unknown_ && found->umask_generation == umask_generation_)
      return found;
  }
  return read(caller);
}

Callers::Found Callers::read(Caller& caller) {
  auto known = std::make_shared<Known>();
  bool steady_umask = false;
  {
    Lock lock(lock_);
    known->umask_generation = umask_generation_;
    steady_umask = pending_.empty() && !umask_unknown_;
  }
  char buffer[kStatusSize];
  known->tid = caller.tid();
  if (!parse_identity(caller.read_proc("status", buffer), known->identity)) return {};
  int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, known->tid, kPidfdThread));
  known->of_thread = pidfd >= 0;
  if (pidfd < 0) pidfd = static_cast<int>(::syscall(SYS_pidfd_open, known->identity.process, 0));
  known->pidfd.reset(pidfd);
  if (!known->pidfd || !caller.still_waits()) return {};
  if (!steady_umask) known->umask_generation = 0;
  Found found = std::move(known);
  if (found->of_thread || found->identity.process == static_cast<uint32_t>(found->tid)) keep(found);
  return found;
}

// Under the lock. So many that more are not told apart: nobody is remembered any more.
bool Callers::is_unsteady(uint32_t process) const {
  return unsteady_.size() >= kMaxUnsteady ||
         std::find(unsteady_.begin(), unsteady_.end(), process) != unsteady_.end();
}

void Callers::keep(const Found& found) {
  Lock lock(lock_);
  if (is_unsteady(found->identity.process)) return;
  slots_[static_cast<size_t>(found->tid) % kSlots] = found;
}

void Callers::forget(Caller& caller, bool process) {
  Found found = process ? find(caller) : Found{};
  Lock lock(lock_);
  Found& slot = slots_[static_cast<size_t>(caller.tid()) % kSlots];
  if (slot && slot->tid == caller.tid()) slot.reset();
  if (!found || found->identity.process == static_cast<uint32_t>(caller.tid())) return;
  if (!is_unsteady(found->identity.process)) unsteady_.push_back(found->identity.process);
  for (Found& other : slots_) {
    if (other && other->identity.process == found->identity.process) other.reset();
  }
}

void Callers::umask_changes(Caller& caller) {
  Lock lock(lock_);
  umask_generation_++;
  settle(caller.tid());
  settle_gone();
  if (pending_.size() >= kMaxPending) umask_unknown_ = true;
  if (!umask_unknown_) pending_.push_back(caller.tid());
}

// It calls again: what it was about to do is done.
void Callers::settle(int tid) {
  std::erase(pending_, tid);
}

// What a thread was about to do it has done, or never does, once it is gone.
void Callers::settle_gone() {
  std::erase_if(pending_, [](int tid) {
    // EINVAL or ENOENT for one that is not the first of its process.
    UniqueFd thread(static_cast<int>(::syscall(SYS_pidfd_open, tid, 0)));
    return !thread && errno == ESRCH;
  });
}

}  // namespace bulkhead::sentry
