#include "sentry/worker.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace bulkhead::sentry {

namespace {

// A call that takes longer has its thread to itself.
constexpr long kPatienceNs = 10'000'000;
// So long without a call, and the watchdog sleeps until there is one.
constexpr int kIdleTicks = 50;
// Threads that waits without an end may not have.
constexpr size_t kReserve = 3;
// So many looks in a row, and other work is there to stay.
constexpr int kCrowdedTicks = 3;
constexpr uint64_t kLongestBarNs = 2'000'000'000;
// It has been good for something.
constexpr uint64_t kGoodTurnNs = 1'000'000'000;
// Of a turn.
constexpr unsigned kIndexShift = 2, kSerialShift = 16;
constexpr size_t kStack = 256u << 10;

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void interrupted(int) {}

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

// Signals that are pending, not blocked and handled: those for which a wait has to end. The fatal
// ones end it without our help.
bool has_signal(Caller& caller) {
  char buffer[8192];
  std::string_view status = caller.read_proc("status", buffer);
  auto mask = [&](const char* name) {
    std::string_view field = status_field(status, name);
    while (!field.empty() && field.front() == '\t') field.remove_prefix(1);
    uint64_t value = 0;
    std::from_chars(field.data(), field.data() + field.size(), value, 16);
    return value;
  };
  return ((mask("SigPnd") | mask("ShdPnd")) & ~mask("SigBlk") & mask("SigCgt")) != 0;
}

}  // namespace

const Known* Worker::known(Caller& caller) {
  if (!known_) known_ = callers.find(caller);
  return known_.get();
}

const Known* Worker::know_again(Caller& caller) {
  known_ = callers.find_again(caller);
  return known_.get();
}

UniqueFd Worker::descriptor(Caller& caller, int number) {
  // Taking the descriptor tells whether the thread is the one that is remembered.
  bool sure = known_ != nullptr;
  if (!sure) known_ = callers.find(caller, false);
  for (;;) {
    if (!known_) break;
    int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, known_->pidfd.get(), number, 0));
    if (fd >= 0 || errno != ESRCH || sure) return UniqueFd(fd);
    known_ = callers.find_again(caller);
    sure = true;
  }
  errno = ESRCH;
  return {};
}

int Worker::become(Caller& caller, bool plainly) {
  if (known(caller) == nullptr) return ESRCH;
  return self.become(known_->identity, plainly);
}

int Worker::take_umask(Caller& caller) {
  if (known(caller) == nullptr) return ESRCH;
  known_ = callers.find_with_umask(caller, known_);
  if (!known_) return ESRCH;
  self.set_umask(known_->identity.umask);
  return 0;
}

bool Pool::spawn(void* (*main)(void*), void* argument) {
  pthread_attr_t attributes;
  pthread_t thread;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kStack);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  bool made = ::pthread_create(&thread, &attributes, main, argument) == 0;
  ::pthread_attr_destroy(&attributes);
  return made;
}

int Pool::start(unsigned count, Callers& callers, size_t request, size_t reply, const Work& work) {
  struct sigaction action {};
  action.sa_handler = interrupted;
  if (::sigaction(SIGUSR1, &action, nullptr) < 0) return errno;
  work_ = work;
  // Where there is one thread only few calls end with a descriptor.
  unsigned all = count == 1 ? 1 : count + 1;
  lowest_ = count;
  for (unsigned index = 0; index < all; index++) {
    auto worker = std::make_unique<Worker>(*this, callers, index);
    worker->request = std::make_unique<char[]>(request);
    worker->reply = std::make_unique<char[]>(reply);
    workers_.push_back(std::move(worker));
  }
  idle_.reserve(count);
  waits_.reserve(count);
  first().tid_ = static_cast<int>(::syscall(SYS_gettid));
  unsigned threads = 0;
  for (unsigned index = 1; index < all; index++, threads++) {
    if (!spawn(follower_main, workers_[index].get())) return EAGAIN;
  }
  if (!spawn(watchdog_main, this)) return EAGAIN;
  // The filter that comes next is for all of them.
  while (ready_.load() < threads + 1) ::sched_yield();
  return 0;
}

void* Pool::follower_main(void* argument) {
  Worker& worker = *static_cast<Worker*>(argument);
  // A umask, a root and a working directory of its own.
  if (::unshare(CLONE_FS) < 0) ::_exit(76);
  // Nobody is refused the lowest class; the way back is for administrators (sched(7)).
  sched_param none{};
  bool lowest = worker.index == worker.pool.lowest_;
  if (lowest && ::sched_setscheduler(0, SCHED_IDLE, &none) < 0) ::_exit(76);
  worker.tid_ = static_cast<int>(::syscall(SYS_gettid));
  worker.pool.ready_++;
  worker.pool.follow(worker);
}

uint64_t Pool::turn_after(uint64_t turn, unsigned index, State state) {
  return ((turn >> kSerialShift) + 1) << kSerialShift | uint64_t{index} << kIndexShift | state;
}

Pool::State Pool::state_of(uint64_t turn) {
  return static_cast<State>(turn & ((1u << kIndexShift) - 1));
}

unsigned Pool::leader_of(uint64_t turn) {
  return static_cast<unsigned>(turn & ((1u << kSerialShift) - 1)) >> kIndexShift;
}

void Pool::make_free(Worker& worker) {
  ::pthread_mutex_lock(&lock_);
  if (worker.index == lowest_) {
    lowest_free_ = true;
  } else {
    idle_.push_back(&worker);
  }
  ::pthread_mutex_unlock(&lock_);
}

void Pool::wake(Worker& worker) {
  worker.wake_ = 1;
  futex_wake(worker.wake_);
}

void Pool::follow(Worker& worker) {
  for (;;) {
    make_free(worker);
    while (worker.wake_.load() == 0) futex_wait(worker.wake_, 0);
    worker.wake_ = 0;
    work_.lead(work_.what, worker);
  }
}

// `turn` is what it has to be still. False: it is not, or no more than `spare` threads are idle.
bool Pool::pass_on(uint64_t turn, size_t spare) {
  ::pthread_mutex_lock(&lock_);
  Worker* next = idle_.size() > spare ? idle_.back() : nullptr;
  bool passed = next != nullptr &&
                turn_.compare_exchange_strong(turn, turn_after(turn, next->index, kBetween));
  if (passed) idle_.pop_back();
  ::pthread_mutex_unlock(&lock_);
  if (passed) wake(*next);
  return passed;
}

// To the thread of the lowest class. False: it is busy.
bool Pool::pass_down(Worker& worker) {
  ::pthread_mutex_lock(&lock_);
  bool free = std::exchange(lowest_free_, false);
  // Between calls nobody but the leader changes the turn.
  if (free) {
    lowest_since_ = now_ns();
    turn_ = turn_after(worker.turn_, lowest_, kBetween);
  }
  ::pthread_mutex_unlock(&lock_);
  if (free) wake(*workers_[lowest_]);
  return free;
}

bool Pool::change(Worker& worker, State state) {
  uint64_t turn = worker.turn_;
  worker.turn_ = turn_after(turn, worker.index, state);
  return turn_.compare_exchange_strong(turn, worker.turn_);
}

void Pool::begin(Worker& worker) {
  worker.turn_ = turn_after(turn_.load(), worker.index, kInCall);
  turn_ = worker.turn_;
  if (watchdog_asleep_.load() != 0 && watchdog_asleep_.exchange(0) != 0)
    futex_wake(watchdog_asleep_);
}

bool Pool::end(Worker& worker) {
  bool gives_way = std::exchange(worker.gives_way_, false);
  if (!change(worker, kBetween)) return false;
  return !gives_way || !pass_down(worker);
}

void Pool::rest(Worker& worker) {
  worker.turn_ = turn_after(turn_.load(), worker.index, kWaiting);
  turn_ = worker.turn_;
}

bool Pool::resume(Worker& worker) {
  return change(worker, kBetween);
}

void Pool::give_way(Worker& worker) {
  worker.gives_way_ =
      worker.index != lowest_ && now_ns() >= barred_until_.load() && load_.has_room();
}

bool Pool::may_wait(Worker& worker, Caller& caller) {
  // Somebody else leads already: the watchdog was faster.
  if (turn_.load() == worker.turn_ && !pass_on(worker.turn_, kReserve) &&
      turn_.load() == worker.turn_) {
    return false;
  }
  ::pthread_mutex_lock(&lock_);
  waits_.push_back({&worker, &caller});
  ::pthread_mutex_unlock(&lock_);
  return true;
}

void Pool::waited(Worker& worker) {
  ::pthread_mutex_lock(&lock_);
  std::erase_if(waits_, [&](const Wait& wait) { return wait.worker == &worker; });
  ::pthread_mutex_unlock(&lock_);
}

void* Pool::watchdog_main(void* argument) {
  Pool& pool = *static_cast<Pool*>(argument);
  pool.ready_++;
  pool.look_after();
  return nullptr;
}

void Pool::look_after() {
  uint64_t seen = turn_.load();
  int quiet = 0;
  for (;;) {
    timespec pause{0, kPatienceNs};
    ::nanosleep(&pause, nullptr);
    uint64_t turn = turn_.load();
    end_waits();
    bool still = turn == seen;
    quiet = still ? quiet + 1 : 0;
    bool lowest = leader_of(turn) == lowest_;
    if (lowest) {
      look_at_lowest(turn, still, quiet);
    } else {
      crowded_ = 0;
      if (still && state_of(turn) == kInCall) (void)pass_on(turn, 0);
    }
    seen = turn;
    ::pthread_mutex_lock(&lock_);
    bool waits = !waits_.empty();
    ::pthread_mutex_unlock(&lock_);
    if (quiet < kIdleTicks || waits || lowest || state_of(turn) == kInCall) continue;
    watchdog_asleep_ = 1;
    // A call may have begun before that was seen.
    if (turn_.load() != turn) watchdog_asleep_ = 0;
    while (watchdog_asleep_.load() != 0) futex_wait(watchdog_asleep_, 1);
    quiet = 0;
  }
}

// The thread of the lowest class leads. It does so no more when there is other work for all
// processors, when it does not get to what waits for it, and when there is nothing to do: what
// comes then may find all processors busy.
void Pool::look_at_lowest(uint64_t turn, bool still, int quiet) {
  crowded_ = load_.is_crowded() ? crowded_ + 1 : 0;
  bool in_call = state_of(turn) == kInCall;
  bool starves = crowded_ >= kCrowdedTicks ||
                 (still && state_of(turn) == kWaiting && work_.pending(work_.what));
  bool over = starves || quiet >= kIdleTicks || (still && in_call);
  // Between calls the turn is the leader's alone; it is over at once.
  if (!over || state_of(turn) == kBetween || !pass_on(turn, 0)) return;
  crowded_ = 0;
  uint64_t now = now_ns();
  if (now - lowest_since_ >= kGoodTurnNs) bar_ = kFirstBarNs;
  if (!starves) return;
  barred_until_ = now + bar_;
  bar_ = std::min(bar_ * 2, kLongestBarNs);
}

// Under the lock, so that no caller goes away while it is looked at.
void Pool::end_waits() {
  ::pthread_mutex_lock(&lock_);
  for (const Wait& wait : waits_) {
    if (!wait.caller->still_waits() || has_signal(*wait.caller))
      ::syscall(SYS_tgkill, ::getpid(), wait.worker->tid_.load(), SIGUSR1);
  }
  ::pthread_mutex_unlock(&lock_);
}

}  // namespace bulkhead::sentry
