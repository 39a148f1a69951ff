// Programs that decide about the sockets of a cgroup.
#include <errno.h>
#include <fcntl.h>

#include <vector>

#include "core/bpf_socket.h"
#include "init/executor.h"
#include "init/steps.h"

namespace bulkhead {

Outcome carry_out(Context&, const SocketPolicy& step) {
  UniqueFd cgroup(::open(step.cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return fail("open", step.cgroup.view());
  std::vector<SocketProgramSpec> programs;
  for (const SocketProgram& program : step.programs)
    programs.push_back({program.program_type, program.attach_type, program.instructions});
  if (int err = attach_socket_programs(cgroup.get(), programs, step.log_entries); err != 0)
    return fail_with(err, "attach-program", step.cgroup.view());
  return done();
}

}  // namespace bulkhead
