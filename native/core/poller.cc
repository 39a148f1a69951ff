#include "core/poller.h"

#include <time.h>

#include <climits>
#include <utility>

namespace bulkhead {

bool Watch::start(Poller& poller, UniqueFd&& fd, uint32_t events, Callback callback, void* owner) {
  stop();
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  if (::epoll_ctl(poller.epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) < 0) return false;
  poller_ = &poller;
  fd_ = std::move(fd);
  events_ = events;
  registered_ = true;
  callback_ = callback;
  owner_ = owner;
  return true;
}

void Watch::want(uint32_t events) {
  if (!fd_ || (registered_ && events_ == events)) return;
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  ::epoll_ctl(poller_->epoll_.get(), registered_ ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd_.get(),
              &event);
  events_ = events;
  registered_ = true;
}

void Watch::mute() {
  if (!registered_) return;
  ::epoll_ctl(poller_->epoll_.get(), EPOLL_CTL_DEL, fd_.get(), nullptr);
  poller_->drop(this);
  registered_ = false;
}

void Watch::stop() {
  // Deleted from the set first: a descriptor of which a duplicate lives on (in a container) would
  // stay in it.
  mute();
  fd_.reset();
}

UniqueFd Watch::take() {
  mute();
  return std::move(fd_);
}

void Timer::arm(uint32_t delay_ms) {
  deadline_ms_ = Poller::now_ms() + delay_ms;
  if (armed_) return;
  armed_ = true;
  next_ = poller_.timers_;
  poller_.timers_ = this;
}

void Timer::cancel() {
  if (!armed_) return;
  armed_ = false;
  for (Timer** link = &poller_.timers_; *link != nullptr; link = &(*link)->next_) {
    if (*link != this) continue;
    *link = next_;
    return;
  }
}

Status Poller::open() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return last_error("epoll_create1");
  return success();
}

uint64_t Poller::now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

int Poller::timeout() const {
  if (timers_ == nullptr) return -1;
  uint64_t first = UINT64_MAX;
  for (const Timer* timer = timers_; timer != nullptr; timer = timer->next_) {
    if (timer->deadline_ms_ < first) first = timer->deadline_ms_;
  }
  uint64_t now = now_ms();
  if (first <= now) return 0;
  return first - now > INT_MAX ? INT_MAX : static_cast<int>(first - now);
}

void Poller::fire_timers() {
  if (timers_ == nullptr) return;
  uint64_t now = now_ms();
  // A callback may change the list in any way, so every round starts from its head.
  for (Timer* timer = timers_; timer != nullptr;) {
    if (timer->deadline_ms_ > now) {
      timer = timer->next_;
      continue;
    }
    timer->cancel();
    timer->callback_(timer->owner_);
    timer = timers_;
  }
}

void Poller::run_once() {
  int count = ::epoll_wait(epoll_.get(), batch_, kBatch, timeout());
  batch_size_ = count < 0 ? 0 : count;
  for (batch_next_ = 0; batch_next_ < batch_size_;) {
    epoll_event& event = batch_[batch_next_++];
    auto* watch = static_cast<Watch*>(event.data.ptr);
    if (watch != nullptr) watch->callback_(watch->owner_, event.events);
  }
  batch_size_ = 0;
  fire_timers();
}

void Poller::drop(const Watch* watch) {
  for (int i = batch_next_; i < batch_size_; i++) {
    if (batch_[i].data.ptr == watch) batch_[i].data.ptr = nullptr;
  }
}

}  // namespace bulkhead
