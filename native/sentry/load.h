// How busy the machine is: whether threads wait for a processor that others have.
#pragma once

#include "core/fd.h"

namespace bulkhead::sentry {

class Load {
 public:
  // By the host's name, unless a test has one of its own. Without the file nothing is known.
  void open(const char* path = "/proc/loadavg");
  // There is a processor for each thread of the machine that wants to run. Asked for by a thread
  // whose caller waits; the kernel counts some that wait as if they ran (delayed dequeue, Linux
  // 6.12).
  bool has_room() const;
  // There is not, the one that asks and its like left aside.
  bool is_crowded() const;

 private:
  // Threads of the whole machine that run or wait for a processor (proc_loadavg(5)). 0: unknown.
  unsigned running() const;

  UniqueFd file_;
  unsigned processors_ = 0;
};

}  // namespace bulkhead::sentry
