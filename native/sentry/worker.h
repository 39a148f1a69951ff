// The threads that answer. One leads: it waits for calls, and answers them itself. When a call
// takes long (a slow disk) the watchdog makes another thread the leader, and when one may take for
// ever (a fifo without a writer) the thread does so itself before; so no call holds up another, and
// nothing is handed from thread to thread as long as all goes fast.
//
// One thread more is of the lowest scheduling class (SCHED_IDLE). For the kernel a processor that
// runs nothing else is as good as an idle one, so a caller that this thread wakes by handing a
// descriptor over stays with it, where others are sent to another processor and have to be woken
// there (decision 019). It leads where hand-overs take long and a processor has nothing to do, and
// the watchdog takes the lead from it as soon as there is more to do than there are processors:
// what has no other work beside it is never starved.
//
//   turn_:  serial | leader's index | what the leader does
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "sentry/caller.h"
#include "sentry/identity.h"
#include "sentry/known.h"
#include "sentry/load.h"

namespace bulkhead::sentry {

class Pool;

// Whether callers run on another processor than the thread that answers them, told by how long it
// takes to hand a descriptor over.
class Apart {
 public:
  void took(uint64_t ns) { slow_ = ns < kSlowNs ? 0 : slow_ + 1; }
  // True: they are apart, and the caller of the next answer ought to be brought here. Not more
  // often than every so many times, since it may be that all processors have other work.
  bool should_meet() {
    if (pause_ > 0) pause_--;
    if (slow_ < kTimes || pause_ > 0) return false;
    pause_ = kPause;
    slow_ = 0;
    return true;
  }

 private:
  // Two wake-ups on one processor take 4 µs, on two that sleep 40.
  static constexpr uint64_t kSlowNs = 15'000;
  static constexpr unsigned kTimes = 2, kPause = 8;
  unsigned slow_ = 0, pause_ = 0;
};

class Worker {
 public:
  Worker(Pool& own_pool, Callers& all, unsigned number)
      : pool(own_pool), callers(all), index(number) {}

  // The caller's descriptor. Unset: errno.
  UniqueFd descriptor(Caller& caller, int number);
  // nullptr: the caller is gone, or the kernel says nothing of it.
  const Known* known(Caller& caller);
  // The same without what is remembered: as it is now.
  const Known* know_again(Caller& caller);
  // Becomes the caller for what follows. 0 or errno.
  int become(Caller& caller, bool plainly = false);
  // The caller's umask, for what is about to be created. 0 or errno.
  int take_umask(Caller& caller);
  // Forgets what the last call needed.
  void done() { known_.reset(); }

  Impersonation self;
  Apart apart;
  Pool& pool;
  Callers& callers;
  const unsigned index;
  // One message of the kernel's and its answer, of the sizes that it asks for.
  std::unique_ptr<char[]> request, reply;

 private:
  friend class Pool;
  std::shared_ptr<const Known> known_;
  std::atomic<uint32_t> wake_{0};
  std::atomic<int> tid_{0};
  uint64_t turn_ = 0;
  bool gives_way_ = false;
};

// What the threads are for.
struct Work {
  // Called in a thread that is made the leader; returns when it is not any more.
  void (*lead)(void* what, Worker& worker);
  // Whether there is a call that no thread has taken. Asked by the watchdog.
  bool (*pending)(void* what);
  void* what;
};

class Pool {
 public:
  // Before start(): how busy the machine is.
  Load& load() { return load_; }
  // Makes `count` workers, of which the first is the calling thread and leads, and, if they are
  // more than one, that of the lowest class. 0 or errno.
  int start(unsigned count, Callers& callers, size_t request, size_t reply, const Work& work);
  Worker& first() { return *workers_.front(); }
  // A thread that is not the leader any more, for ever.
  [[noreturn]] void follow(Worker& worker);

  // Around each call. False: another leads now.
  void begin(Worker& worker);
  bool end(Worker& worker);
  // Around the wait for calls. False: another leads now.
  void rest(Worker& worker);
  bool resume(Worker& worker);
  // Callers and this thread are on different processors. If it is of use, the thread of the lowest
  // class leads after this call.
  void give_way(Worker& worker);

  // Before a system call that may take for ever: another thread leads from now on, and the wait
  // ends with EINTR when the caller is killed or has a signal to handle. False: no thread is
  // left for that.
  bool may_wait(Worker& worker, Caller& caller);
  void waited(Worker& worker);

  // An answer wakes its caller on this processor (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP).
  bool wakes_here() const { return wakes_here_.load(); }
  void set_wakes_here(bool does) { wakes_here_ = does; }

 private:
  struct Wait {
    Worker* worker;
    Caller* caller;
  };

  static constexpr uint64_t kFirstBarNs = 250'000'000;

  enum State : uint64_t { kBetween = 0, kInCall = 1, kWaiting = 2 };

  static uint64_t turn_after(uint64_t turn, unsigned index, State state);
  static State state_of(uint64_t turn);
  static unsigned leader_of(uint64_t turn);
  static void* follower_main(void* argument);
  static void* watchdog_main(void* argument);
  bool spawn(void* (*main)(void*), void* argument);
  void make_free(Worker& worker);
  static void wake(Worker& worker);
  bool change(Worker& worker, State state);
  bool pass_on(uint64_t turn, size_t spare);
  bool pass_down(Worker& worker);
  void look_after();
  void look_at_lowest(uint64_t turn, bool still, int quiet);
  void end_waits();

  std::vector<std::unique_ptr<Worker>> workers_;
  // Index of the one of the lowest class, and whether it is free to lead.
  unsigned lowest_ = ~0u;
  bool lowest_free_ = false;
  Load load_;
  // Of CLOCK_MONOTONIC, ns: until then the lowest class is not asked again; and for how long it is
  // not the next time.
  std::atomic<uint64_t> barred_until_{0};
  uint64_t bar_ = kFirstBarNs;
  int crowded_ = 0;
  std::atomic<uint64_t> lowest_since_{0};
  std::vector<Worker*> idle_;
  std::vector<Wait> waits_;
  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  std::atomic<uint64_t> turn_{0};
  std::atomic<uint32_t> watchdog_asleep_{0};
  std::atomic<unsigned> ready_{0};
  std::atomic<bool> wakes_here_{false};
  Work work_{};
};

}  // namespace bulkhead::sentry
