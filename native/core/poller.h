// The event loop of monitor and agent: epoll, and a list of timers. Single-threaded; callbacks may
// add, change and destroy any watch, also their own.
#pragma once

#include <sys/epoll.h>

#include <cstdint>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead {

class Poller;

// One owned descriptor in the loop. Stopping or destroying it closes the descriptor and drops what
// the current round still has for it.
class Watch {
 public:
  using Callback = void (*)(void* owner, uint32_t events);

  Watch() = default;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() { stop(); }

  // `events` are EPOLLIN and the like, level-triggered; 0 still reports EPOLLERR and EPOLLHUP.
  // False: `fd` stays with the caller (EPERM: a plain file, which is always ready).
  bool start(Poller& poller, UniqueFd&& fd, uint32_t events, Callback callback, void* owner);
  // No system call when nothing changes.
  void want(uint32_t events);
  // Not reported at all any more, not even EPOLLHUP; the descriptor stays open.
  void mute();
  void stop();
  // Leaves the loop and hands the descriptor over.
  UniqueFd take();
  int fd() const { return fd_.get(); }
  bool active() const { return fd_.valid(); }

 private:
  friend class Poller;
  Poller* poller_ = nullptr;
  UniqueFd fd_;
  uint32_t events_ = 0;
  bool registered_ = false;
  Callback callback_ = nullptr;
  void* owner_ = nullptr;
};

// Fires once, `delay_ms` after arm(); arming again moves it.
class Timer {
 public:
  using Callback = void (*)(void* owner);

  Timer(Poller& poller, Callback callback, void* owner)
      : poller_(poller), callback_(callback), owner_(owner) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { cancel(); }

  void arm(uint32_t delay_ms);
  void cancel();
  bool armed() const { return armed_; }

 private:
  friend class Poller;
  Poller& poller_;
  Callback callback_;
  void* owner_;
  Timer* next_ = nullptr;
  uint64_t deadline_ms_ = 0;
  bool armed_ = false;
};

class Poller {
 public:
  Status open();
  // Waits for events or the next timer and runs the callbacks.
  void run_once();

  static uint64_t now_ms();  // CLOCK_MONOTONIC

 private:
  friend class Watch;
  friend class Timer;
  static constexpr int kBatch = 16;

  int timeout() const;
  void fire_timers();
  void drop(const Watch* watch);

  UniqueFd epoll_;
  epoll_event batch_[kBatch];
  int batch_next_ = 0;
  int batch_size_ = 0;
  Timer* timers_ = nullptr;
};

// Adapters: a member function as a callback.
template <class T, void (T::*Method)(uint32_t)>
void on_ready(void* owner, uint32_t events) {
  (static_cast<T*>(owner)->*Method)(events);
}
template <class T, void (T::*Method)()>
void on_timer(void* owner) {
  (static_cast<T*>(owner)->*Method)();
}

}  // namespace bulkhead
