// Limits and scheduling of the process.
#include <sched.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "init/steps.h"

namespace bulkhead {

namespace {

// struct sched_attr of sched_setattr(2), first published size: the C library has none.
struct SchedAttr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};
static_assert(sizeof(SchedAttr) == 48);

// include/uapi/linux/ioprio.h
constexpr int kIoprioWhoProcess = 1;
constexpr uint32_t kIoprioClassShift = 13;

}  // namespace

Outcome carry_out(Context& context, const Rlimit& step) {
  rlimit64 limit{step.soft, step.hard};
  if (step.resource == RLIMIT_NOFILE && step.soft <= step.hard) {
    // Raised now, while that is permitted; lowered when our own descriptors do not count any more.
    context.open_files = limit;
    rlimit64 now{};
    if (::prlimit64(0, RLIMIT_NOFILE, nullptr, &now) < 0) return fail("setrlimit");
    limit.rlim_max = std::max(limit.rlim_max, now.rlim_max);
    limit.rlim_cur = std::max(limit.rlim_cur, now.rlim_cur);
  }
  if (::prlimit64(0, static_cast<__rlimit_resource>(step.resource), &limit, nullptr) < 0) {
    return fail("setrlimit");
  }
  return done();
}

Outcome carry_out(Context& context, const Umask& step) {
  // Takes effect at Exec: until then modes are meant as the plan says.
  context.inherited_umask = step.mask & 0777;
  return done();
}

Outcome carry_out(Context&, const Personality& step) {
  return ::personality(step.persona) < 0 ? fail("personality") : done();
}

Outcome carry_out(Context&, const IoPriority& step) {
  uint32_t value = step.ioprio_class << kIoprioClassShift | step.priority;
  if (::syscall(SYS_ioprio_set, kIoprioWhoProcess, 0, value) < 0) return fail("ioprio-set");
  return done();
}

Outcome carry_out(Context&, const Scheduler& step) {
  SchedAttr attr{sizeof(SchedAttr), step.policy,  step.flags,    step.nice.value,
                 step.priority,     step.runtime, step.deadline, step.period};
  if (::syscall(SYS_sched_setattr, 0, &attr, 0) < 0) return fail("sched-setattr");
  return done();
}

Outcome carry_out(Context&, const CpuAffinity& step) {
  if (::syscall(SYS_sched_setaffinity, 0, step.mask.size(), step.mask.data()) < 0) {
    return fail("sched-setaffinity");
  }
  return done();
}

Outcome carry_out(Context& context, const ParentDeathSignal& step) {
  context.death_signal_set = true;
  return ::prctl(PR_SET_PDEATHSIG, step.signal) < 0 ? fail("pdeathsig") : done();
}

}  // namespace bulkhead
