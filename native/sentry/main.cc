// bulkhead-sentry MEMORY_CGROUP TABLE [NAME=VALUE...]
//
// The supervisor of one sandbox. Descriptor 3 is a listening unix socket over which notification
// listeners come. Runs in the sandbox's user namespace and cgroup, in the host's pid namespace.
// Ends with 0 when all it watched has ended.
#include <errno.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "sentry/supervisor.h"

namespace {

constexpr int kSocketFd = 3;

// 71 to 75: which step failed (stderr goes nowhere).
int start(int argc, char** argv) {
  using namespace bulkhead;
  static sentry::Sandbox sandbox;
  ::prctl(PR_SET_NAME, "bulkhead-sentry");
  if (::chdir("/") < 0) return 71;
  if (sentry::prepare(sandbox, argv[1]) != 0) return 72;
  static sentry::Supervisor supervisor(sandbox, UniqueFd(kSocketFd));
  if (!supervisor.parse_table(argv[2])) return 73;
  for (int i = 3; i < argc; i++) {
    if (!supervisor.parse_option(argv[i])) return 73;
  }
  if (supervisor.prepare() != 0) return 74;
  // Nobody in the sandbox, whose root it is going to be, may look in here.
  ::prctl(PR_SET_DUMPABLE, 0);
  supervisor.run();
}

}  // namespace

int main(int argc, char** argv) {
  ::_exit(argc >= 3 ? start(argc, argv) : 64);
}
