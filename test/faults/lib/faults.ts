/** Plans that go wrong at a chosen step. The production code runs as it is: only its plan is another. */
import { join } from 'node:path';
import { decodePlan, encodePlan } from '../../../src/plan/encode.ts';
import type { LaunchPlan, Step } from '../../../src/plan/inputs.ts';
import { actionOf } from '../../../src/plan/print.ts';
import type { CompileInput } from '../../../src/sandbox/host_backend.ts';
import { NamespaceBackend } from '../../../src/sandbox/namespace/backend.ts';
import type { ExecInput } from '../../../src/sandbox/backend.ts';
import type { Executor, LaunchResult } from '../../../src/sandbox/executor.ts';
import type { ContainerRecord } from '../../../src/state/index.ts';

/**
 *   fail   a step that fails
 *   die    the process is killed by the kernel
 *   hang   the process waits in a system call, for ever
 */
export type FaultKind = 'fail' | 'die' | 'hang';

export interface Fault {
  kind: FaultKind;
  /** Comes before the step of this index. */
  index: number;
  /** Host path of the root directory; it has a fifo `hang` that nobody reads. */
  rootfs: string;
}

export const NOWHERE = '/nowhere/at/all';

/** struct sock_filter { u16 code; u8 jt, jf; u32 k }: BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS. */
const killAtNextSystemCall = new Uint8Array([0x06, 0, 0, 0, 0, 0, 0, 0x80]);

function faultySteps({ kind, index, rootfs }: Fault, steps: readonly Step[]): Step[] {
  // An exec is inside the root as soon as it has joined the container's namespaces.
  const pivot = steps.findIndex(({ pivotRoot }) => pivotRoot != null);
  const entered = pivot >= 0 ? pivot : steps.findIndex(({ joinNamespace }) => joinNamespace != null);
  switch (kind) {
    case 'fail':
      return [{ writeFile: { path: NOWHERE, data: new Uint8Array([0]) } }];
    case 'die':
      return [{ noNewPrivs: {} }, { seccomp: { program: killAtNextSystemCall, flags: 0 } }];
    case 'hang': {
      const path = index > entered ? '/hang' : join(rootfs, 'hang');
      return [{ writeFile: { path, data: new Uint8Array([0]) } }];
    }
  }
}

export function withFault(plan: LaunchPlan, fault: Fault | undefined): LaunchPlan {
  if (fault === undefined) return plan;
  const steps = plan.steps ?? [];
  const { index } = fault;
  return { ...plan, steps: [...steps.slice(0, index), ...faultySteps(fault, steps), ...steps.slice(index)] };
}

export const stepNamesOf = (plan: LaunchPlan): string[] =>
  (plan.steps ?? []).map((step) => actionOf(step)?.name ?? 'nothing');

/** The namespace wall, whose next plan gets the fault. */
export class FaultyBackend extends NamespaceBackend {
  fault: Fault | undefined;
  /** As compiled, before the fault. */
  lastPlan: LaunchPlan = {};

  override compile(record: ContainerRecord, input: CompileInput): LaunchPlan {
    this.lastPlan = super.compile(record, input);
    return withFault(this.lastPlan, this.fault);
  }

  override exec(record: ContainerRecord, input: ExecInput): Promise<LaunchResult> {
    const { executor } = input;
    const launch: Executor['launch'] = (key, bytes, stdio) => {
      this.lastPlan = decodePlan(bytes);
      return executor.launch(key, encodePlan(withFault(this.lastPlan, this.fault)), stdio);
    };
    const faulty = new Proxy(executor, {
      get: (target, name) => {
        if (name === 'launch') return launch;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
    return super.exec(record, { ...input, executor: faulty });
  }
}
