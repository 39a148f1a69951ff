/** The launch plan of a hypervisor: its sockets and files first, then the pod's cgroups and namespaces, then no rights. */
import type { LaunchPlan, Step } from '../../../plan/inputs.ts';
import type { Credentials, MachineLaunch } from './hypervisor.ts';

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
}

/** What of a launch its plan is made from. */
export type PlannedProcess = Pick<
  MachineLaunch,
  'program' | 'args' | 'env' | 'listen' | 'files' | 'credentials'
>;

/** Descriptors come first: nothing of the executor's own may be at their numbers (Listen in launch_plan.proto). */
export function machinePlan(launch: PlannedProcess, input: MachinePlanInput): LaunchPlan {
  const { listen, files, credentials } = launch;
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
  return {
    version: 1,
    id: input.id,
    steps: [
      ...descriptors.map(([, step]) => step),
      ...(input.steps ?? []),
      { clone: { namespaces: input.namespaces ?? 0 } },
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
