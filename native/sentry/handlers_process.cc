// What a process may know of itself, from procfs: read, never changed.
#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "sentry/handlers_more.h"

namespace bulkhead::sentry {

namespace {

constexpr size_t kStatusSize = 4096;
constexpr int64_t kTicksPerSecond = 100;  // USER_HZ, the same on every x86-64 kernel
constexpr int64_t kMicrosecondsPerTick = 1000000 / kTicksPerSecond;
constexpr int kMaxGroups = 256;

// The last number of a line such as "NSpgid:\t4711\t1": that of the innermost pid namespace.
bool innermost(std::string_view status, std::string_view name, uint64_t& value) {
  std::string_view field = status_field(status, name);
  bool any = false;
  while (take_number(field, value)) any = true;
  return any;
}

// 0 or the caller's own pid or tid, as it knows them itself.
bool is_self(std::string_view status, int32_t who) {
  uint64_t pid = 0;
  uint64_t tid = 0;
  if (who == 0) return true;
  return who > 0 && innermost(status, "NStgid", pid) && innermost(status, "NSpid", tid) &&
         (static_cast<uint64_t>(who) == pid || static_cast<uint64_t>(who) == tid);
}

// Fields 10 to 17 of proc_pid_stat(5).
struct Stat {
  uint64_t minor_faults, child_minor_faults, major_faults, child_major_faults;
  uint64_t user, system, child_user, child_system;
};

bool parse_stat(std::string_view text, Stat& stat) {
  size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos) return false;
  text.remove_prefix(name_end + 1);
  // state is a letter; 4 to 9 are ppid, pgrp, session, tty, tpgid (may be -1: the digit counts),
  // flags
  uint64_t skipped;
  for (int field = 4; field <= 9; field++) {
    if (!take_number(text, skipped)) return false;
  }
  for (uint64_t* value :
       {&stat.minor_faults, &stat.child_minor_faults, &stat.major_faults, &stat.child_major_faults,
        &stat.user, &stat.system, &stat.child_user, &stat.child_system}) {
    if (!take_number(text, *value)) return false;
  }
  return true;
}

bool read_stat(const Caller& caller, const char* name, Stat& stat) {
  char buffer[1024];
  return parse_stat(caller.read_proc(name, buffer), stat);
}

timeval of_ticks(uint64_t ticks) {
  int64_t value = static_cast<int64_t>(ticks);
  return {value / kTicksPerSecond, (value % kTicksPerSecond) * kMicrosecondsPerTick};
}

}  // namespace

Answer process_group(const Sandbox&, Caller& caller) {
  char buffer[kStatusSize];
  std::string_view status = caller.read_proc("status", buffer);
  if (status.empty()) return gone();
  if (caller.number() != SYS_getpgrp && !is_self(status, caller.integer(0))) return refusal(EPERM);
  uint64_t id = 0;
  const char* field = caller.number() == SYS_getsid ? "NSsid" : "NSpgid";
  return innermost(status, field, id) ? value_of(static_cast<int64_t>(id)) : refusal(ESRCH);
}

Answer resource_usage(const Sandbox&, Caller& caller) {
  int who = caller.integer(0);
  if (who != RUSAGE_SELF && who != RUSAGE_CHILDREN && who != RUSAGE_THREAD) return refusal(EINVAL);
  Stat stat{};
  char own[32] = "stat";
  // A thread's own numbers are below task/.
  if (who == RUSAGE_THREAD) {
    std::strcpy(own, "task/");
    int tid = caller.tid();
    char digits[12];
    int count = 0;
    for (; tid > 0; tid /= 10) digits[count++] = static_cast<char>('0' + tid % 10);
    char* at = own + 5;
    while (count > 0) *at++ = digits[--count];
    std::strcpy(at, "/stat");
  }
  if (!read_stat(caller, own, stat)) return gone();
  rusage usage{};
  bool children = who == RUSAGE_CHILDREN;
  usage.ru_utime = of_ticks(children ? stat.child_user : stat.user);
  usage.ru_stime = of_ticks(children ? stat.child_system : stat.system);
  usage.ru_minflt = static_cast<long>(children ? stat.child_minor_faults : stat.minor_faults);
  usage.ru_majflt = static_cast<long>(children ? stat.child_major_faults : stat.major_faults);
  if (!children) {
    char buffer[kStatusSize];
    std::string_view peak = status_field(caller.read_proc("status", buffer), "VmHWM");
    uint64_t kilobytes = 0;
    if (take_number(peak, kilobytes)) usage.ru_maxrss = static_cast<long>(kilobytes);
  }
  return written(caller.write(caller.argument(1), &usage, sizeof usage));
}

Answer cpu_times(const Sandbox&, Caller& caller) {
  Stat stat{};
  if (!read_stat(caller, "stat", stat)) return gone();
  tms times{};
  times.tms_utime = static_cast<clock_t>(stat.user);
  times.tms_stime = static_cast<clock_t>(stat.system);
  times.tms_cutime = static_cast<clock_t>(stat.child_user);
  times.tms_cstime = static_cast<clock_t>(stat.child_system);
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  int64_t ticks = now.tv_sec * kTicksPerSecond + now.tv_nsec / 1000 / kMicrosecondsPerTick;
  if (caller.argument(0) == 0) return value_of(ticks);
  Answer answer = written(caller.write(caller.argument(0), &times, sizeof times));
  answer.value = answer.error == 0 ? ticks : 0;
  return answer;
}

// As the system call gives it: 20 - nice, so that no answer looks like an error.
Answer get_priority(const Sandbox&, Caller& caller) {
  char buffer[kStatusSize];
  std::string_view status = caller.read_proc("status", buffer);
  if (status.empty()) return gone();
  if (caller.integer(0) != PRIO_PROCESS || !is_self(status, caller.integer(1)))
    return refusal(EPERM);
  errno = 0;
  int nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(caller.tid()));
  if (errno != 0) return gone();
  return caller.still_waits() ? value_of(20 - nice) : gone();
}

Answer get_affinity(const Sandbox&, Caller& caller) {
  unsigned long mask[128];
  uint64_t size = static_cast<uint32_t>(caller.integer(1));
  if (size % sizeof(unsigned long) != 0) return refusal(EINVAL);
  if (size > sizeof mask) size = sizeof mask;
  long got = ::syscall(SYS_sched_getaffinity, caller.tid(), size, mask);
  if (got < 0) return errno == ESRCH ? gone() : refusal(errno);
  Answer answer = written(caller.write(caller.argument(2), mask, static_cast<size_t>(got)));
  answer.value = answer.error == 0 ? got : 0;
  return answer;
}

// procfs shows ids as the user namespace of who opened the file knows them: that is the sandbox's.
Answer get_ids(const Sandbox&, Caller& caller) {
  char buffer[kStatusSize * 2];
  std::string_view status = caller.read_proc("status", buffer);
  if (status.empty()) return gone();
  uint64_t number = 0;
  if (caller.number() == SYS_getgroups) {
    uint32_t groups[kMaxGroups];
    int count = 0;
    std::string_view field = status_field(status, "Groups");
    while (count < kMaxGroups && take_number(field, number))
      groups[count++] = static_cast<uint32_t>(number);
    int room = caller.integer(0);
    if (room == 0) return value_of(count);
    if (room < count) return refusal(EINVAL);
    int error =
        caller.write(caller.argument(1), groups, sizeof(uint32_t) * static_cast<size_t>(count));
    if (error != 0) return written(error);
    return value_of(count);
  }
  bool users = caller.number() == SYS_getresuid;
  std::string_view field = status_field(status, users ? "Uid" : "Gid");
  for (int i = 0; i < 3; i++) {
    if (!take_number(field, number)) return refusal(ESRCH);
    uint32_t id = static_cast<uint32_t>(number);
    if (int error = caller.write(caller.argument(i), &id, sizeof id); error != 0)
      return written(error);
  }
  return value_of(0);
}

}  // namespace bulkhead::sentry
