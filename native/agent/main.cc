// bulkhead-agent [--init PATH] [--connect SOCKET | --listen SOCKET]
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "agent/agent.h"

namespace {

constexpr const char* kUsage =
    "usage: bulkhead-agent [--init PATH] [--connect SOCKET | --listen SOCKET]\n";

}  // namespace

int main(int argc, char** argv) {
  bulkhead::agent::AgentOptions options;
  // The kernel hands unknown words of its command line to init: as PID 1 of a machine they say
  // nothing to us.
  const bool machine = ::getpid() == 1 && argc > 0 && std::strcmp(argv[0], "/init") == 0;
  // Of its assignments it makes our environment.
  const char* channel = machine ? ::getenv("bulkhead_channel") : nullptr;
  options.vsock = channel != nullptr && std::strcmp(channel, "vsock") == 0;
  for (int i = 1; i < argc && !machine; i++) {
    std::string* value = nullptr;
    if (std::strcmp(argv[i], "--init") == 0) value = &options.init;
    if (std::strcmp(argv[i], "--connect") == 0) value = &options.connect;
    if (std::strcmp(argv[i], "--listen") == 0) value = &options.listen;
    if (value == nullptr || i + 1 == argc) {
      std::fputs(kUsage, stderr);
      return 2;
    }
    *value = argv[++i];
  }
  if (!machine && options.connect.empty() == options.listen.empty()) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  return bulkhead::agent::run_agent(options);
}
