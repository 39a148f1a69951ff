/** What the sentry wall adds to a compiled plan: the filter with its listener, Landlock, the pod's own network settings. */
import { CLONE_NEWNET, CLONE_NEWUSER, CLONE_NEWUTS } from '../../base/constants.ts';
import type { LinuxIDMapping, NamespaceType, Spec } from '../../oci/types.ts';
import type { LaunchPlan, SeccompProgram, Step } from '../../plan/inputs.ts';
import { idMaps } from '../../plan/namespaces.ts';
import { OWN_USER_NAMESPACE } from './spec.ts';

const O_PATH = 0o10000000;

export interface Supervision {
  /** Unix socket of the supervisor. */
  socket: string;
  filter: SeccompProgram;
  landlock: boolean;
  /** Of the supervisor; whose user namespace becomes the container's. Not needed for an exec. */
  pid?: number;
}

/**
 * Puts a process under supervision from its first instruction on: the socket is found in the outer stage, and right
 * before Exec, when everything else is done, come Landlock and the filter. A filter of the configuration's own comes after
 * ours, which lets it in.
 */
export function supervise(plan: LaunchPlan, { socket, filter, landlock, pid }: Supervision): LaunchPlan {
  const steps = plan.steps ?? [];
  const slot = freeSlot(steps);
  const cloneAt = steps.findIndex((step) => step.clone !== undefined && step.clone !== null);
  const tail = steps.findIndex((step, index) => index > cloneAt && (isSeccomp(step) || isExec(step)));
  return {
    ...plan,
    steps: [
      { openTree: { slot, path: socket, pathOnly: true } },
      ...withNetworkSettings(steps.slice(0, cloneAt)).map((step) => intoUserNamespace(step, pid)),
      ...steps.slice(cloneAt, tail),
      ...(landlock ? [{ landlock: { bestEffort: false } }] : []),
      { seccomp: { ...filter, listenerSlot: slot } },
      ...steps.slice(tail),
    ],
  };
}

/** Until the supervisor runs its user namespace has no path; the compiler was given a name in its place. */
function intoUserNamespace(step: Step, pid: number | undefined): Step {
  if (pid === undefined || step.joinNamespace?.path !== OWN_USER_NAMESPACE) return step;
  return { joinNamespace: { ...step.joinNamespace, path: `/proc/${pid}/ns/user` } };
}

function isSeccomp(step: Step): boolean {
  return step.seccomp !== undefined && step.seccomp !== null;
}

function isExec(step: Step): boolean {
  return step.exec !== undefined && step.exec !== null;
}

/** Slots count from 1; the compiler hands them out without gaps. */
function freeSlot(steps: readonly Step[]): number {
  const used = steps.flatMap((step) => [
    step.openTree?.slot ?? 0,
    step.openFile?.slot ?? 0,
    step.fsMount?.slot ?? 0,
  ]);
  return Math.max(0, ...used) + 1;
}

/**
 * A pod's network namespace that was made by others belongs to the host's user namespace, where the container's
 * CAP_NET_BIND_SERVICE means nothing: ports below 1024 are opened to all of the pod, as CRI does by default.
 */
function withNetworkSettings(outer: readonly Step[]): Step[] {
  const at = outer.findIndex(({ joinNamespace }) => joinNamespace?.types === CLONE_NEWNET);
  if (at < 0) return [...outer];
  const data = new TextEncoder().encode('0');
  const path = '/proc/sys/net/ipv4/ip_unprivileged_port_start';
  return [...outer.slice(0, at + 1), { writeFile: { path, data } }, ...outer.slice(at + 1)];
}

export interface SupervisorPlan {
  /** For messages. */
  id: string;
  /** bulkhead-sentry. */
  program: string;
  socket: string;
  /** Make the container's cgroups, set its limits, join. */
  cgroupSteps: readonly Step[];
  /** As the wall adapted it. */
  spec: Spec;
  /** Directory of the memory controller, empty when there is none. */
  memoryCgroup: string;
  /** System calls and the numbers of their handlers. */
  table: readonly (readonly [call: number, handler: number])[];
}

/** The workload must not get the supervisor killed instead of itself. */
const SUPERVISOR_OOM_SCORE = -999;

/**
 * The supervisor's own plan: reachable before it runs, in the container's cgroup, and root of nothing but the
 * container's user namespace, which it makes (or joins, when that is another container's of the pod).
 */
export function supervisorPlan(input: SupervisorPlan): LaunchPlan {
  const { spec, memoryCgroup } = input;
  const { linux = {}, hostname = '', domainname = '' } = spec;
  const maps = (list: readonly LinuxIDMapping[] = []): string =>
    list.map(({ containerID, hostID, size }) => `${containerID}:${hostID}:${size}`).join(',');
  const table = input.table.map(([call, handler]) => `${call}:${handler}`).join(',');
  const args = ['bulkhead-sentry', maps(linux.uidMappings), maps(linux.gidMappings), memoryCgroup];
  const pathOf = (type: NamespaceType): string =>
    linux.namespaces?.find((namespace) => namespace.type === type)?.path ?? '';
  const user = pathOf('user');
  const own = user === OWN_USER_NAMESPACE;
  const joined: [string, number][] = [[pathOf('uts'), CLONE_NEWUTS]];
  if (!own) joined.push([user, CLONE_NEWUSER]);
  const slot = 1;
  return {
    version: 1,
    id: input.id,
    steps: [
      { listen: { path: input.socket, index: 0 } },
      ...input.cgroupSteps,
      { oomScoreAdj: { value: SUPERVISOR_OOM_SCORE, bestEffort: true } },
      { openFile: { slot, path: input.program, flags: O_PATH } },
      ...joined
        .filter(([path]) => path !== '')
        .map(([path, types]): Step => ({ joinNamespace: { path, types } })),
      {
        clone: {
          namespaces: own ? CLONE_NEWUSER : 0,
          uidMaps: own ? idMaps(linux.uidMappings) : [],
          gidMaps: own ? idMaps(linux.gidMappings) : [],
        },
      },
      {
        exec: {
          file: input.program,
          fileSlot: slot,
          args: [...args, hostname, domainname, table],
          env: [],
          preserveFds: 1,
        },
      },
    ],
  };
}
