// bulkhead-sentry UIDS GIDS MEMORY_CGROUP HOSTNAME DOMAINNAME TABLE
//
// The supervisor of one sandbox. Descriptor 3 is a listening unix socket over which notification
// listeners come. Runs in the sandbox's user namespace and cgroup, in the host's pid namespace.
// Ends with 0 when all it watched has ended.
#include <errno.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "sentry/confine.h"
#include "sentry/supervisor.h"

namespace {

constexpr int kSocketFd = 3;

// 71 to 77: which step failed (stderr goes nowhere).
int start(char** argv) {
  using namespace bulkhead;
  static sentry::Sandbox sandbox;
  ::prctl(PR_SET_NAME, "bulkhead-sentry");
  if (::chdir("/") < 0) return 71;
  if (!sandbox.uids.parse(argv[1]) || !sandbox.gids.parse(argv[2])) return 72;
  if (sentry::prepare(sandbox, argv[3], argv[4], argv[5]) != 0) return 73;
  sentry::Supervisor supervisor(sandbox, UniqueFd(kSocketFd));
  if (!supervisor.parse_table(argv[6])) return 74;
  if (supervisor.prepare() != 0) return 75;
  // Nobody in the sandbox, which has the same root, may look in here.
  ::prctl(PR_SET_DUMPABLE, 0);
  if (sentry::confine(sandbox.proc.get()) != 0) return 76;
  return supervisor.run() == 0 ? 0 : 77;
}

}  // namespace

int main(int argc, char** argv) {
  ::_exit(argc == 7 ? start(argv) : 64);
}
