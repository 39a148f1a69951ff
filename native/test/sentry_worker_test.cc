// Which thread of a pool leads: the lead is passed on when a call takes long, to the thread of the
// lowest class where that is of use, and back.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>

#include "core/fd.h"
#include "sentry/known.h"
#include "sentry/worker.h"
#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

using namespace bulkhead::sentry;

constexpr unsigned kThreads = 3;
// More than any machine needs; a tick of the watchdog is 10 ms.
constexpr int kPatienceMs = 60'000;

// What a leader is asked to do, and what it says of itself.
enum class Order : uint64_t { kTell = 1, kGiveWay, kStall };
struct Told {
  unsigned index = 0;
  int policy = -1;
};

// A pool whose calls are the test's orders. Threads of a pool never end: it lives in a process of
// its own.
class Stage {
 public:
  Stage() : orders_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), go_on_(::eventfd(0, EFD_CLOEXEC)) {
    int pair[2] = {-1, -1};
    if (::pipe2(pair, O_CLOEXEC) == 0) {
      told_.reset(pair[0]);
      tell_.reset(pair[1]);
    }
  }

  void say_running(unsigned threads) {
    std::string text = "0.00 0.00 0.00 " + std::to_string(threads) + "/99 7\n";
    write_text(load_path(), text);
  }
  std::string load_path() const { return dir_.path() + "/loadavg"; }

  // Does not return: this thread leads first.
  [[noreturn]] void play() {
    pool_.load().open(load_path().c_str());
    auto lead = [](void* what, Worker& worker) { static_cast<Stage*>(what)->lead(worker); };
    auto pending = [](void* what) { return static_cast<Stage*>(what)->pending_.load(); };
    if (pool_.start(kThreads, callers_, 64, 64, Work{lead, pending, this}) != 0) ::_exit(2);
    lead(this, pool_.first());
    pool_.follow(pool_.first());
  }

  // Asks whoever leads. index ~0: nobody answered.
  Told ask(Order order) {
    uint64_t value = static_cast<uint64_t>(order);
    Told told{~0u, -1};
    if (::write(orders_.get(), &value, sizeof value) != sizeof value) return told;
    last_ = hear();
    return last_;
  }
  // What was heard last.
  Told last() const { return last_; }
  Told hear() {
    Told told{~0u, -1};
    pollfd waiting{told_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, kPatienceMs) == 1 &&
        ::read(told_.get(), &told, sizeof told) != sizeof told) {
      told.index = ~0u;
    }
    return told;
  }
  // Until the thread of the lowest class leads, or does not any more. A thread that is kept from
  // running for long loses the lead at any time, so nothing is said of a single question. False: it
  // took too long.
  bool comes_to_lowest() {
    return becomes([](unsigned index) { return index == kThreads; }, Order::kGiveWay);
  }
  bool leaves_lowest() {
    return becomes([](unsigned index) { return index < kThreads; }, Order::kTell);
  }
  // The lowest class is in the middle of a call. False: it took too long.
  bool stalls_lowest() {
    for (int i = 0; i < 100 && comes_to_lowest(); i++) {
      if (ask(Order::kStall).index == kThreads) return true;
      end_stall();
    }
    return false;
  }
  void end_stall() {
    uint64_t one = 1;
    (void)!::write(go_on_.get(), &one, sizeof one);
  }
  void set_pending(bool is) { pending_ = is; }

 private:
  bool becomes(bool (*so)(unsigned index), Order meanwhile) {
    for (int waited = 0; waited < kPatienceMs; waited += 20) {
      if (so(ask(Order::kTell).index)) return true;
      if (meanwhile != Order::kTell) ask(meanwhile);
      timespec pause{0, 20'000'000};
      ::nanosleep(&pause, nullptr);
    }
    return false;
  }
  void tell(Worker& worker) {
    Told told{worker.index, ::sched_getscheduler(0)};
    (void)!::write(tell_.get(), &told, sizeof told);
  }
  bool answer(Worker& worker, uint64_t order) {
    pool_.begin(worker);
    tell(worker);
    if (order == static_cast<uint64_t>(Order::kGiveWay)) pool_.give_way(worker);
    uint64_t value = 0;
    if (order == static_cast<uint64_t>(Order::kStall))
      (void)!::read(go_on_.get(), &value, sizeof value);
    return pool_.end(worker);
  }
  void lead(Worker& worker) {
    for (;;) {
      pollfd waiting{orders_.get(), POLLIN, 0};
      pool_.rest(worker);
      (void)::poll(&waiting, 1, -1);
      if (!pool_.resume(worker)) return;
      uint64_t order = 0;
      if (::read(orders_.get(), &order, sizeof order) != sizeof order) continue;
      if (!answer(worker, order)) return;
    }
  }

  TempDir dir_;
  Told last_;
  UniqueFd orders_, go_on_, told_, tell_;
  std::atomic<bool> pending_{false};
  Callers callers_;
  Pool pool_;
};

// Runs the scenes beside a pool, in a process that ends with them.
void on_stage(void (*scenes)(Stage&)) {
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    static Stage stage;
    stage.say_running(1);
    static void (*played)(Stage&) = scenes;
    pthread_t director;
    auto direct = [](void*) -> void* {
      played(stage);
      ::_exit(failures_so_far() == 0 ? 0 : 1);
    };
    if (::pthread_create(&director, nullptr, direct, nullptr) != 0) ::_exit(3);
    stage.play();
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

}  // namespace

TEST(sentry_lead_goes_to_another_thread_when_a_call_takes_long) {
  on_stage([](Stage& stage) {
    Told first = stage.ask(Order::kStall);
    CHECK(first.index < kThreads);
    CHECK_EQ(first.policy, SCHED_OTHER);
    Told second = stage.ask(Order::kTell);
    CHECK(second.index < kThreads && second.index != first.index);
    stage.end_stall();
    CHECK(stage.ask(Order::kTell).index < kThreads);
  });
}

TEST(sentry_lead_goes_to_the_lowest_class_only_where_there_is_room) {
  on_stage([](Stage& stage) {
    stage.say_running(100'000);
    for (int i = 0; i < 20; i++) CHECK(stage.ask(Order::kGiveWay).index < kThreads);
    stage.say_running(1);
    CHECK(stage.comes_to_lowest());
    // It has nobody to give way to, and answers.
    CHECK(stage.ask(Order::kGiveWay).index <= kThreads);
    CHECK(stage.comes_to_lowest());
  });
}

TEST(sentry_thread_of_the_lowest_class_is_of_it) {
  on_stage([](Stage& stage) {
    CHECK(stage.stalls_lowest());
    CHECK_EQ(stage.last().policy, SCHED_IDLE);
    stage.end_stall();
  });
}

TEST(sentry_lead_is_taken_from_the_lowest_class_when_there_is_other_work) {
  on_stage([](Stage& stage) {
    CHECK(stage.comes_to_lowest());
    stage.say_running(100'000);
    CHECK(stage.leaves_lowest());
    CHECK_EQ(stage.last().policy, SCHED_OTHER);
    for (int i = 0; i < 20; i++) CHECK(stage.ask(Order::kGiveWay).index < kThreads);
  });
}

TEST(sentry_lead_is_taken_from_the_lowest_class_in_the_middle_of_a_call) {
  on_stage([](Stage& stage) {
    CHECK(stage.stalls_lowest());
    CHECK(stage.ask(Order::kTell).index < kThreads);
    // What it was at it finishes, and can lead once more.
    stage.end_stall();
    CHECK(stage.comes_to_lowest());
  });
}

TEST(sentry_lead_is_taken_from_the_lowest_class_when_calls_wait_for_it) {
  on_stage([](Stage& stage) {
    CHECK(stage.comes_to_lowest());
    stage.set_pending(true);
    CHECK(stage.leaves_lowest());
  });
}

TEST(sentry_lead_is_taken_from_the_lowest_class_when_nothing_happens) {
  on_stage([](Stage& stage) {
    CHECK(stage.comes_to_lowest());
    // Each question is something that happens.
    bool left = false;
    for (time_t seconds = 1; !left && seconds <= 32; seconds *= 2) {
      timespec pause{seconds, 0};
      ::nanosleep(&pause, nullptr);
      left = stage.ask(Order::kTell).index < kThreads;
    }
    CHECK(left);
  });
}

}  // namespace bulkhead::test
