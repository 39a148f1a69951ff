// bulkhead-shim: one binary, told by its name and its first word what to be.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "shim/args.h"
#include "shim/install.h"
#include "shim/launcher.h"
#include "shim/log.h"

namespace {

using namespace bulkhead::shim;

int complain(const std::string& sentence) {
  std::string line = sentence + "\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
  return 1;
}

// The `bulkhead` command: Node with the bundled command line.
int run_cli(int argc, char* argv[], const Install& install) {
  ::unsetenv("NODE_EXTRA_CA_CERTS");  // 45 ms of every start, and the command speaks no TLS
  std::string node = install.node();
  std::string script = install.cli();
  std::vector<char*> arguments = {argv[0], script.data()};
  for (int i = 1; i < argc; i++) arguments.push_back(argv[i]);
  arguments.push_back(nullptr);
  ::execv(node.c_str(), arguments.data());
  return complain(describe("bulkhead: " + node + ": exec", errno));
}

}  // namespace

int main(int argc, char* argv[]) {
  std::string_view program = argc > 0 ? argv[0] : "";
  program = program.substr(program.rfind('/') + 1);  // npos + 1 is 0
  Install install = find_install();
  if (program == "bulkhead") return run_cli(argc, argv, install);

  // What a careless parent left open would live as long as the pod.
  ::syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, 0);
  ShimArgs args;
  args.program = program;
  std::string_view wall = wall_of(program);
  if (wall.empty()) {
    return complain(args.program +
                    ": not one of the names this binary knows; link it as bulkhead-shim, " +
                    "containerd-shim-bulkhead-v2, -vm-v2, -sentry-v2 or bulkhead");
  }
  args.wall = wall;
  std::string problem = parse_args(argc, argv, args);
  if (!problem.empty()) return complain(args.program + ": " + problem);
  return run_launcher(args, install);
}
