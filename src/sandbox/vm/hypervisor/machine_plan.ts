/** The launch plan of a hypervisor: its sockets and files first, then the pod's cgroups and namespaces, then no rights. */
import { CLONE_NEWNS } from '../../../base/constants.ts';
import { bulkhead } from '../../../gen/bulkhead.js';
import type { LaunchPlan, Step } from '../../../plan/inputs.ts';
import type { Credentials, FunctionAccess, MachineLaunch } from './hypervisor.ts';

const { NodeType, Propagation, TargetKind } = bulkhead.plan.v1;

const SIGKILL = 9;

export interface MachinePlanInput {
  /** For messages. */
  id: string;
  /** Of the outer stage: cgroups, limits, namespaces to join. */
  steps?: readonly Step[];
  /** CLONE_NEW* of namespaces of its own. */
  namespaces?: number;
  /** SIGKILL when the launching process ends: for a machine that nobody else would end. */
  diesWithParent?: boolean;
  /** Highest RLIMIT_MEMLOCK that can be given, in bytes; absent: any. */
  lockLimit?: number | undefined;
}

/** What of a launch its plan is made from. */
export type PlannedProcess = Pick<
  MachineLaunch,
  'program' | 'args' | 'env' | 'listen' | 'files' | 'credentials' | 'access'
>;

/** Descriptors come first: nothing of the executor's own may be at their numbers (Listen in launch_plan.proto). */
export function machinePlan(launch: PlannedProcess, input: MachinePlanInput): LaunchPlan {
  const { listen, files, credentials, access } = launch;
  const descriptors: [number, Step][] = [
    ...listen.map(({ path, descriptor }): [number, Step] => [
      descriptor,
      { listen: { path, index: descriptor - 3 } },
    ]),
    ...files.map(({ path, flags, descriptor }): [number, Step] => [
      descriptor,
      { openFile: { path, flags, descriptor } },
    ]),
  ];
  descriptors.sort(([a], [b]) => a - b);
  const withNodes = access !== undefined && access.nodes.length > 0;
  return {
    version: 1,
    id: input.id,
    steps: [
      ...descriptors.map(([, step]) => step),
      ...(input.steps ?? []),
      ...(access === undefined ? [] : [lockedMemory(input.lockLimit)]),
      { clone: { namespaces: (input.namespaces ?? 0) + (withNodes ? CLONE_NEWNS : 0) } },
      ...(withNodes ? ownNodes(access, credentials) : []),
      { umask: { mask: 0o077 } },
      ...(credentials === undefined ? [] : withoutRights(credentials)),
      { noNewPrivs: {} },
      // Behind the change of credentials, which clears it (prctl(2)).
      ...(input.diesWithParent === true ? [{ parentDeathSignal: { signal: SIGKILL } }] : []),
      {
        exec: {
          file: launch.program,
          args: launch.args,
          env: launch.env,
          preserveFds: Math.max(2, ...descriptors.map(([number]) => number)) - 2,
        },
      },
    ],
  };
}

function withoutRights({ uid, gid, additionalGids }: Credentials): Step[] {
  return [
    { boundingSet: { mask: 0 } },
    { user: { uid, gid, additionalGids: [...(additionalGids ?? [])] } },
    { capabilities: { effective: 0, permitted: 0, inheritable: 0, ambient: 0 } },
  ];
}

const RLIMIT_MEMLOCK = 8;
/** RLIM_INFINITY in two's complement. */
const INFINITY = -1;

function lockedMemory(limit: number | undefined): Step {
  return { rlimit: { resource: RLIMIT_MEMLOCK, soft: limit ?? INFINITY, hard: limit ?? INFINITY } };
}

/**
 * A /dev/vfio that only this process sees, with its own functions' nodes, which belong to it: the host's stay root's, and
 * there is nothing to take back. QEMU opens groups by path.
 */
function ownNodes({ nodes }: FunctionAccess, credentials: Credentials | undefined): Step[] {
  const slot = 1;
  const { uid = 0, gid = 0 } = credentials ?? {};
  return [
    { setPropagation: { path: '/', propagation: Propagation.PROPAGATION_SLAVE, recursive: true } },
    { fsMount: { slot, fstype: 'tmpfs', source: 'tmpfs', options: ['mode=755', 'size=64k'] } },
    { attach: { slot, target: '/dev/vfio', make: TargetKind.TARGET_KIND_EXISTING, hostTarget: true } },
    { enterRoot: { path: '/' } },
    ...nodes.map(({ path, major, minor }): Step => {
      const type = NodeType.NODE_TYPE_CHAR;
      return { mknod: { target: path, type, major, minor, mode: 0o600, uid, gid } };
    }),
  ];
}
