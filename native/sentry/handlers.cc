#include "sentry/handlers.h"

#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "sentry/handlers_more.h"

namespace bulkhead::sentry {

namespace {

Answer uname_view(const Sandbox& sandbox, Caller& caller) {
  return written(caller.write(caller.argument(0), &sandbox.names, sizeof sandbox.names));
}

// Memory and age of the sandbox; nothing of the host's load.
Answer sysinfo_view(const Sandbox& sandbox, Caller& caller) {
  struct sysinfo host {};
  if (::sysinfo(&host) < 0) return refusal(errno);
  struct sysinfo view {};
  uint64_t total = static_cast<uint64_t>(host.totalram) * host.mem_unit;
  uint64_t limit = 0;
  uint64_t used = 0;
  if (sandbox.memory(limit, used) && limit < total) {
    view.totalram = limit;
    view.freeram = used < limit ? limit - used : 0;
  } else {
    view.totalram = total;
    view.freeram = static_cast<uint64_t>(host.freeram) * host.mem_unit;
  }
  view.mem_unit = 1;
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  view.uptime = now.tv_sec - sandbox.started.tv_sec;
  view.procs = 1;
  return written(caller.write(caller.argument(0), &view, sizeof view));
}

Answer personality_view(const Sandbox&, Caller& caller) {
  uint32_t wanted = static_cast<uint32_t>(caller.integer(0));
  return wanted == 0xffffffffu || wanted == 0 ? value_of(0) : refusal(EINVAL);
}

Answer priority_range(const Sandbox&, Caller& caller) {
  bool maximum = caller.number() == SYS_sched_get_priority_max;
  switch (caller.integer(0)) {
    case SCHED_FIFO:
    case SCHED_RR:
      return value_of(maximum ? 99 : 1);
    case SCHED_OTHER:
    case SCHED_BATCH:
    case SCHED_IDLE:
      return value_of(0);
    default:
      return refusal(EINVAL);
  }
}

Answer scheduler_view(const Sandbox&, Caller& caller) {
  return caller.integer(0) < 0 ? refusal(EINVAL) : value_of(SCHED_OTHER);
}

Answer parameter_view(const Sandbox&, Caller& caller) {
  int priority = 0;
  if (caller.integer(0) < 0) return refusal(EINVAL);
  return written(caller.write(caller.argument(1), &priority, sizeof priority));
}

Answer clock(const Sandbox&, Caller& caller) {
  timespec now{};
  if (caller.number() == SYS_clock_getres) {
    if (::clock_getres(caller.integer(0), &now) < 0) return refusal(EINVAL);
    if (caller.argument(1) == 0) return value_of(0);
    return written(caller.write(caller.argument(1), &now, sizeof now));
  }
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (caller.number() == SYS_time) {
    if (caller.argument(0) == 0) return value_of(now.tv_sec);
    Answer answer = written(caller.write(caller.argument(0), &now.tv_sec, sizeof now.tv_sec));
    answer.value = now.tv_sec;
    return answer;
  }
  timeval time{now.tv_sec, now.tv_nsec / 1000};
  struct timezone zone {};
  int error = 0;
  if (caller.argument(0) != 0) error = caller.write(caller.argument(0), &time, sizeof time);
  if (error == 0 && caller.argument(1) != 0)
    error = caller.write(caller.argument(1), &zone, sizeof zone);
  return written(error);
}

// In the order of rules.ts; 0 is none.
constexpr Handler kHandlers[] = {
    nullptr,        uname_view,   sysinfo_view, personality_view, priority_range, scheduler_view,
    parameter_view, clock,        make_eventfd, make_timerfd,     process_group,  resource_usage,
    cpu_times,      get_priority, get_affinity, get_ids,          make_epoll,
};

}  // namespace

Handler handler_of(unsigned number) {
  return number < sizeof kHandlers / sizeof *kHandlers ? kHandlers[number] : nullptr;
}

}  // namespace bulkhead::sentry
