// What the supervisor remembers of callers: reading who a thread is takes longer than all the rest
// of a call. It is true as long as nothing of it can have changed: calls that change credentials
// (set*id, setgroups, capset, execve) are noticed before they happen and make it forget.
#pragma once

#include <pthread.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/fd.h"
#include "sentry/identity.h"

namespace bulkhead::sentry {

class Caller;

struct Known {
  int tid = 0;
  Identity identity;
  // Of the thread (PIDFD_THREAD, Linux 6.9), else of its process.
  UniqueFd pidfd;
  bool of_thread = false;
  uint64_t umask_generation = 0;
};

class Callers {
 public:
  using Found = std::shared_ptr<const Known>;

  // Unset: the caller is gone. `sure`: that it is the thread which is remembered and not another
  // that was given its number since; else what the pidfd answers next says so (ESRCH).
  Found find(Caller& caller, bool sure = true);
  // It was another.
  Found find_again(Caller& caller) { return read(caller); }
  // The same with the umask as it is now.
  Found find_with_umask(Caller& caller, Found found);
  // The caller is about to change what is known of it; with `process` of all its threads.
  void forget(Caller& caller, bool process);
  // The caller is about to change the umask of its process, and of others that share it.
  void umask_changes(Caller& caller);

 private:
  static constexpr size_t kSlots = 256;
  static constexpr size_t kMaxPending = 32;
  static constexpr size_t kMaxUnsteady = 1024;

  Found read(Caller& caller);
  void keep(const Found& found);
  bool is_unsteady(uint32_t process) const;
  void settle(int tid);
  void settle_gone();

  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  std::array<Found, kSlots> slots_;
  // Processes in which a thread that was not the first called execve(2): it may have become the
  // first, with credentials of its own.
  std::vector<uint32_t> unsteady_;
  // Threads that were about to change their umask and have not been heard of since. As long as
  // there are any, umasks are read anew each time.
  std::vector<int> pending_;
  uint64_t umask_generation_ = 1;
  bool umask_unknown_ = false;
};

}  // namespace bulkhead::sentry
