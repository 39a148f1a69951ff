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

struct Entry {
  unsigned number;
  Handler handler;
};

// As in rules.ts.
constexpr Entry kHandlers[] = {
    {1, uname_view},
    {2, sysinfo_view},
    {3, personality_view},
    {4, priority_range},
    {5, scheduler_view},
    {6, parameter_view},
    {7, clock},
    {8, make_eventfd},
    {9, make_timerfd},
    {10, process_group},
    {11, resource_usage},
    {12, cpu_times},
    {13, get_priority},
    {14, get_affinity},
    {15, get_ids},
    {16, make_epoll},
    {17, open_file},
    {18, stat_file},
    {19, statx_file},
    {20, access_file},
    {21, read_link},
    {22, stat_file_system},
    {23, watch_file},
    {24, make_directory},
    {25, make_node},
    {26, unlink_name},
    {27, rename_file},
    {28, link_file},
    {29, make_symlink},
    {30, change_mode},
    {31, change_owner},
    {32, change_times},
    {33, truncate_file},
    {34, credentials_change},
    {35, execution},
    {36, umask_change},
    {37, root_change},
    {38, make_epoll_with_flags},
    {39, make_inotify},
    {40, set_timerfd},
    {41, remove_watch},
    {42, working_directory},
    {43, synchronize},
    {44, socket_state},
    {45, socket_name},
    {46, lock_file},
    {kMountHandler, mount_file_system},
    {48, unmount},
};

}  // namespace

Handler handler_of(unsigned number) {
  for (const Entry& entry : kHandlers) {
    if (entry.number == number) return entry.handler;
  }
  return nullptr;
}

}  // namespace bulkhead::sentry
