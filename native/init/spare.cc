#include "init/spare.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "init/context.h"
#include "init/executor.h"

namespace bulkhead {

namespace {

UniqueFd own_network() {
  return UniqueFd(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
}

// Half a millisecond, the dearest part of a container's clone. This process stays in the network
// that it came from: what the outer stage does is meant for that.
UniqueFd make_network() {
  UniqueFd old = own_network();
  if (!old || ::unshare(CLONE_NEWNET) < 0) return {};
  UniqueFd made = own_network();
  if (::setns(old.get(), CLONE_NEWNET) < 0) ::_exit(1);
  return made;
}

}  // namespace

UniqueFd await_plan(const char* role, int sync, UniqueFd& network) {
  // Before Linux 5.11 the launcher could not do it.
  ::syscall(SYS_close_range, static_cast<unsigned>(kPlanFd), ~0u, 0);
  // Its number is that of the plan otherwise: from kFirstExtraFd on numbers mean something to
  // steps.
  if (std::strcmp(role, kSpareWithNetwork) == 0) network = make_network();
  if (network && network.get() != kPlanFd) {
    if (::dup3(network.get(), kPlanFd, O_CLOEXEC) < 0) ::_exit(1);
    network.reset(kPlanFd);
  }
  UniqueFd received[kMaxToInitDescriptors];
  ToInit answer = await_answer(sync, received);
  size_t next = 1;
  for (int stream = 0; stream < 3; stream++) {
    if ((answer.streams & (1u << stream)) == 0) continue;
    if (next == kMaxToInitDescriptors || ::dup2(received[next++].get(), stream) < 0) ::_exit(1);
  }
  return std::move(received[0]);
}

}  // namespace bulkhead
