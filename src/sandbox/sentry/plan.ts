/** What the sentry wall adds to a compiled plan: the filter with its listener, Landlock, the pod's own network settings. */
import { CLONE_NEWNET } from '../../base/constants.ts';
import type { LaunchPlan, SeccompProgram, Step } from '../../plan/inputs.ts';
import type { SocketProgram } from './socket_program.ts';

export interface Supervision {
  /** Unix socket of the supervisor. */
  socket: string;
  filter: SeccompProgram;
  landlock: boolean;
}

/**
 * Puts a process under supervision from its first instruction on: the socket is found in the outer stage, and right
 * before Exec, when everything else is done, come Landlock and the filter. A filter of the configuration's own comes after
 * ours, which lets it in.
 */
export function supervise(plan: LaunchPlan, { socket, filter, landlock }: Supervision): LaunchPlan {
  const steps = plan.steps ?? [];
  const slot = freeSlot(steps);
  const cloneAt = steps.findIndex((step) => step.clone !== undefined && step.clone !== null);
  const tail = steps.findIndex((step, index) => index > cloneAt && (isSeccomp(step) || isExec(step)));
  return {
    ...plan,
    steps: [
      { openTree: { slot, path: socket, pathOnly: true } },
      ...withNetworkSettings(steps.slice(0, cloneAt)),
      ...steps.slice(cloneAt, tail),
      ...(landlock ? [{ landlock: { bestEffort: false } }] : []),
      { seccomp: { ...filter, listenerSlot: slot } },
      ...steps.slice(tail),
    ],
  };
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
  /** Programs for the sockets of the container's cgroup (v2). */
  sockets?: { cgroup: string; programs: readonly SocketProgram[] } | undefined;
  /** Directory of the memory controller, empty when there is none. */
  memoryCgroup: string;
  /** How many threads answer calls. */
  threads: number;
  /** The filter without notifications: how refusals that are reported are answered. */
  policy: Uint8Array;
  /** System calls and the numbers of their handlers. */
  table: readonly (readonly [call: number, handler: number])[];
}

const CAP_DAC_OVERRIDE = 1;
const CAP_SYS_PTRACE = 19;
const CAP_SYS_ADMIN = 21;
/** To enter the container's user namespace, after which they mean nothing outside it. */
const SUPERVISOR_CAPABILITIES = 2 ** CAP_DAC_OVERRIDE + 2 ** CAP_SYS_PTRACE + 2 ** CAP_SYS_ADMIN;
/** The workload must not get the supervisor killed instead of itself. */
const SUPERVISOR_OOM_SCORE = -999;

/** Distinct refusals that are kept; the least recent ones go first. */
const SOCKET_LOG_ENTRIES = 512;

function socketStep({ cgroup, programs }: NonNullable<SupervisorPlan['sockets']>): Step['socketPolicy'] {
  return { cgroup, programs: [...programs], logEntries: SOCKET_LOG_ENTRIES };
}

/** The supervisor's own plan: in the container's cgroup, and reachable before it runs. */
export function supervisorPlan(input: SupervisorPlan): LaunchPlan {
  const mask = SUPERVISOR_CAPABILITIES;
  const table = input.table.map(([call, handler]) => `${call}:${handler}`).join(',');
  return {
    version: 1,
    id: input.id,
    steps: [
      { listen: { path: input.socket, index: 0 } },
      ...input.cgroupSteps,
      ...(input.sockets === undefined ? [] : [{ socketPolicy: socketStep(input.sockets) }]),
      { oomScoreAdj: { value: SUPERVISOR_OOM_SCORE, bestEffort: true } },
      // A unified cgroup is joined by Clone.
      { clone: { namespaces: 0 } },
      { boundingSet: { mask } },
      { capabilities: { effective: mask, permitted: mask, inheritable: 0, ambient: 0 } },
      { noNewPrivs: {} },
      {
        exec: {
          file: input.program,
          args: [
            'bulkhead-sentry',
            input.memoryCgroup,
            table,
            `threads=${input.threads}`,
            `policy=${Buffer.from(input.policy).toString('hex')}`,
          ],
          env: [],
          preserveFds: 1,
        },
      },
    ],
  };
}
