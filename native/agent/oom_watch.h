// Tells when the kernel has killed for want of memory in a cgroup.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/poller.h"

namespace bulkhead::agent {

class OomWatches {
 public:
  using Killed = void (*)(void* owner, const std::string& cgroup, uint64_t oom_kill);
  OomWatches(Poller& poller, Killed killed, void* owner)
      : poller_(poller),
        killed_(killed),
        owner_(owner),
        sweep_(poller, on_timer<OomWatches, &OomWatches::sweep>, this) {}

  // CGROUP/memory.events from now on; watched once however often it is asked for. 0 or an errno.
  int add(const std::string& cgroup);
  void clear();
  // Tells what the kernel has counted but not announced yet: announcements come up to 10 ms late
  // (CGROUP_FILE_NOTIFY_MIN_INTV), after the exit that they explain.
  void look();

 private:
  struct One {
    OomWatches* all = nullptr;
    std::string cgroup;
    uint64_t seen = 0;
    bool gone = false;
    Watch watch;
    std::unique_ptr<One> next;
  };
  static constexpr size_t kMost = 4096;
  static void changed(void* one, uint32_t events);
  void tell(One& one, uint64_t oom_kill);
  void drop_removed();
  void sweep();

  Poller& poller_;
  Killed killed_;
  void* owner_;
  std::unique_ptr<One> first_;
  size_t count_ = 0;
  Timer sweep_;
};

}  // namespace bulkhead::agent
