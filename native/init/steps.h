// One function a step, grouped by theme; execute() in executor.cc is the switch over them.
#pragma once

#include "init/context.h"
#include "init/plan.h"

namespace bulkhead {

// steps_cgroup.cc
Outcome carry_out(Context&, const MakeCgroup&);
Outcome carry_out(Context&, const WriteFile&);
Outcome carry_out(Context&, const AttachDeviceProgram&);
Outcome carry_out(Context&, const JoinCgroup&);

// steps_namespace.cc
Outcome carry_out(Context&, const JoinNamespace&);
Outcome carry_out(Context&, const Unshare&);
Outcome carry_out(Context&, const Clone&);

// steps_source.cc: things opened for later steps
Outcome carry_out(Context&, const OpenTree&);
Outcome carry_out(Context&, const FsMount&);
Outcome carry_out(Context&, const OpenFile&);

// steps_mount.cc
Outcome carry_out(Context&, const MountSetattr&);
Outcome carry_out(Context&, const Attach&);
Outcome carry_out(Context&, const SetPropagation&);

// steps_root.cc
Outcome carry_out(Context&, const EnterRoot&);
Outcome carry_out(Context&, const PivotRoot&);
Outcome carry_out(Context&, const MaskPath&);
Outcome carry_out(Context&, const ReadonlyPath&);
Outcome carry_out(Context&, const RemountRoot&);

// steps_node.cc
Outcome carry_out(Context&, const Mkdir&);
Outcome carry_out(Context&, const Mknod&);
Outcome carry_out(Context&, const Symlink&);

// steps_kernel.cc: what is set by writing to procfs, and the network
Outcome carry_out(Context&, const Hostname&);
Outcome carry_out(Context&, const Domainname&);
Outcome carry_out(Context&, const Sysctl&);
Outcome carry_out(Context&, const LoopbackUp&);
Outcome carry_out(Context&, const OomScoreAdj&);
Outcome carry_out(Context&, const LsmExecLabel&);
Outcome carry_out(Context&, const SessionKeyring&);

// steps_limit.cc
Outcome carry_out(Context&, const Rlimit&);
Outcome carry_out(Context&, const Umask&);
Outcome carry_out(Context&, const Personality&);
Outcome carry_out(Context&, const IoPriority&);
Outcome carry_out(Context&, const Scheduler&);
Outcome carry_out(Context&, const CpuAffinity&);
Outcome carry_out(Context&, const ParentDeathSignal&);

// steps_stdio.cc
Outcome carry_out(Context&, const Terminal&);
Outcome carry_out(Context&, const OwnStdio&);

// steps_identity.cc
Outcome carry_out(Context&, const User&);
Outcome carry_out(Context&, const BoundingSet&);
Outcome carry_out(Context&, const Capabilities&);
Outcome carry_out(Context&, const NoNewPrivs&);

// steps_seccomp.cc
Outcome carry_out(Context&, const Seccomp&);

// steps_landlock.cc
Outcome carry_out(Context&, const Landlock&);

// steps_listen.cc
Outcome carry_out(Context&, const Listen&);

// steps_socket_policy.cc
Outcome carry_out(Context&, const SocketPolicy&);

// steps_hook.cc
Outcome carry_out(Context&, const RunHook&);

// steps_exec.cc
Outcome carry_out(Context&, const FindExecutable&);
Outcome carry_out(Context&, const Gate&);
Outcome carry_out(Context&, const Chdir&);
Outcome carry_out(Context&, const Exec&);

}  // namespace bulkhead
