// bulkhead-init: carries one launch plan out and becomes the program that the plan ends in.
// Standard streams are the program's; 3 is the sync socket, 4 the plan, 5.. are descriptors for the
// program.
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/init_codec.h"
#include "init/context.h"
#include "init/executor.h"
#include "init/plan_codec.h"
#include "init/spare.h"

namespace bulkhead {

namespace {

int refuse(UniqueFd sync, const PlanError& error) {
  Context context;
  context.sync = std::move(sync);
  StepFailure failure;
  failure.index = error.index;
  failure.action = error.action;
  failure.err = error.err;
  failure.detail = error.detail;
  report(context, encode_failure(failure));
  return 1;
}

// The plan, mapped. Only a sealed memfd is taken: nobody can change it between check and use.
bool map_plan(UniqueFd fd, std::span<const uint8_t>& bytes, PlanError& error) {
  struct stat info;
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK;
  int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || ::fstat(fd.get(), &info) < 0) {
    error = {0, 0, seals < 0 ? errno : EPERM, "plan-not-sealed"};
    return false;
  }
  if (info.st_size > static_cast<off_t>(kMaxPlan)) {
    error = {0, 0, EBADMSG, "too-large"};
    return false;
  }
  if (info.st_size == 0) return true;
  void* at =
      ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (at == MAP_FAILED) {
    error = {0, 0, errno, "map-plan"};
    return false;
  }
  bytes = {static_cast<const uint8_t*>(at), static_cast<size_t>(info.st_size)};
  return true;
}

// Descriptors that the launcher leaked (close_range in launch() needs Linux 5.11) must not be there
// when the container's files are touched (CVE-2024-21626).
void close_unlisted(const Plan& plan) {
  uint32_t kept = 0;
  if (!plan.steps.empty()) {
    if (const Exec* exec = std::get_if<Exec>(&plan.steps.back().body)) kept = exec->preserve_fds;
  }
  if (kept > kMaxExtraFds) kept = kMaxExtraFds;
  ::syscall(SYS_close_range, static_cast<unsigned>(kFirstExtraFd) + kept, ~0u, 0);
}

int start(const char* role) {
  // The launcher blocked all signals around clone; whatever becomes of us starts with none blocked.
  uint64_t none = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
  ::prctl(PR_SET_NAME, "bulkhead-init");
  // Not to be traced, nor read through /proc, by what already runs in the namespaces we join
  // (CVE-2016-9962, CVE-2019-5736); execve makes the program dumpable again.
  ::prctl(PR_SET_DUMPABLE, 0);
  ::fcntl(kSyncFd, F_SETFD, FD_CLOEXEC);
  UniqueFd sync(kSyncFd);

  UniqueFd network;
  UniqueFd plan_file = role == nullptr ? UniqueFd(kPlanFd) : await_plan(role, sync.get(), network);
  std::span<const uint8_t> bytes;
  PlanError error;
  Plan plan;
  if (!map_plan(std::move(plan_file), bytes, error) || !decode_plan(bytes, plan, error))
    return refuse(std::move(sync), error);
  close_unlisted(plan);
  return execute(plan, std::move(sync), std::move(network));
}

}  // namespace

}  // namespace bulkhead

// _exit: no destructors, no atexit; the kernel frees everything at once.
int main(int argc, char** argv) {
  ::_exit(bulkhead::start(argc > 1 ? argv[1] : nullptr));
}
