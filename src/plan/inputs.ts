/** What the plan compiler takes: plain data. Reading files, asking the kernel and compiling seccomp is the caller's. */
import type { bulkhead } from '../gen/bulkhead.js';
import type { State } from '../oci/state.ts';
import type { Linux, NamespaceType, Process, Spec } from '../oci/types.ts';

export type Step = bulkhead.plan.v1.Step.$Properties;
export type LaunchPlan = bulkhead.plan.v1.LaunchPlan.$Properties;

/** One mount of containerd's CreateTaskRequest.rootfs. */
export interface RootfsMount {
  type: string;
  source: string;
  /** Below the root directory; absent: the root itself. */
  target?: string;
  options: readonly string[];
}

/** Where a container's cgroups are, for the mount of type "cgroup". `path` is absolute, on the host. */
export interface CgroupView {
  mode: 'v1' | 'v2' | 'hybrid';
  /** v1: `names` are controllers, or one "name=systemd". */
  hierarchies: readonly { names: readonly string[]; mountPoint: string; path: string }[];
  unified?: { mountPoint: string; path: string } | undefined;
}

/** What the compiler has to know about the machine and about the process that launches. */
export interface HostFacts {
  /** /proc/sys/kernel/cap_last_cap. */
  capLastCap: number;
  /** uname -r. */
  kernelRelease: string;
  /** The launcher has CAP_SYS_RESOURCE: hard limits can be raised, oom_score_adj lowered. */
  canRaiseLimits: boolean;
  apparmor: boolean;
  selinux: boolean;
  /** The launcher's effective uid is not 0: nothing privileged works before the user namespace. */
  unprivileged?: boolean;
  /** The launcher is not in the initial user namespace: device nodes cannot be made. */
  inUserNamespace?: boolean;
  /** Capabilities that the launcher can hand on (bit n is capability n); absent: all. */
  capabilities?: number;
  /** Hard limits of the launcher by RLIMIT_ name; -1 is unlimited. Absent: nothing is known. */
  hardLimits?: Readonly<Record<string, number>>;
  /** /proc/kcore exists, so /dev/core points to something. */
  kcore?: boolean;
  /** cgroup2 is mounted with nsdelegate: cgroup namespaces are borders that a process does not cross. */
  nsdelegate?: boolean;
}

export interface SeccompProgram {
  /** struct sock_filter[]. */
  program: Uint8Array;
  /** SECCOMP_FILTER_FLAG_*. */
  flags: number;
}

/** How the container's process waits for `start`: at the sync socket, or at a fifo (create of the command line). */
export type StartGate = { kind: 'sync' } | { kind: 'fifo'; path: string };

/** What create and exec share. */
interface ProcessInput {
  /** Container id. */
  id: string;
  host: HostFacts;
  seccomp?: SeccompProgram | undefined;
  noNewKeyring?: boolean | undefined;
  /** Descriptors beyond 2 that the process inherits. */
  preserveFds?: number | undefined;
  /** Of those, sockets handed over by socket activation: LISTEN_FDS and LISTEN_PID are set. */
  listenFds?: number | undefined;
  /** Home directory of the user, taken from the container's passwd; set as HOME when the environment has none. */
  home?: string | undefined;
}

export interface PlanInput extends ProcessInput {
  /** Absolute path; relative sources of bind mounts start here. */
  bundle: string;
  /** As parseSpec returned it; numeric ids in process.user. */
  spec: Spec;
  rootfs: {
    /** Absolute path on the host. */
    path: string;
    /** Empty: the directory as it is. */
    mounts: readonly RootfsMount[];
  };
  /** Files of the root file system belong to the container's user namespace, whatever ids they have on disk. */
  mappedRootfs?: boolean | undefined;
  cgroup: {
    /** MakeCgroup, WriteFile, AttachDeviceProgram, JoinCgroup. */
    outer: readonly Step[];
    view: CgroupView;
  };
  gate: StartGate;
  noPivot?: boolean | undefined;
  /** Waits at the gate of createRuntime also without a hook: the root file system is completed there. */
  waitsForRoot?: boolean | undefined;
}

export interface ExecPlanInput extends ProcessInput {
  execId: string;
  /** As parseProcess returned it. */
  process: Process;
  target: {
    /** The container's init. */
    pid: number;
    /** Field 22 of /proc/PID/stat: guards against a reused pid. */
    startTime: number;
    /** Types of all namespaces in the container's configuration, made or joined. */
    namespaces: readonly NamespaceType[];
  };
  cgroup: {
    /** JoinCgroup. */
    outer: readonly Step[];
  };
  /** The container's: id mappings, personality and the seccomp listener are taken from it. */
  linux?: Pick<Linux, 'uidMappings' | 'gidMappings' | 'personality' | 'seccomp'> | undefined;
  /** Of the container, for a seccomp listener; without it a container that has a listener takes no exec. */
  state?: Omit<State, 'pid'> | undefined;
  /** Waits here before execve; absent: does not wait. */
  gate?: StartGate | undefined;
}

/** Gets one sentence about something that was asked for and could not be had, and that the specification lets pass. */
export type Warn = (message: string) => void;
