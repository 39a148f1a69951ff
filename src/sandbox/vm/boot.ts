/**
 * How a pod's machine comes up:
 *
 *   share's daemon and hypervisor launched as processes of the monitor ── template restored or kernel booted ── agent
 *   answers ── share mounted in the guest ── functions of the host found there
 */
import { mkdirSync } from 'node:fs';
import { CLONE_NEWNET } from '../../base/constants.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { processStartTime } from '../../base/proc.ts';
import type { Spec } from '../../oci/types.ts';
import { encodePlan } from '../../plan/encode.ts';
import type { Step } from '../../plan/inputs.ts';
import type { Executor, LaunchResult } from '../executor.ts';
import { checkLockedMemory } from './functions.ts';
import type { Machine, MachineConfig, MachineLaunch, PassedFunction } from './hypervisor/hypervisor.ts';
import { machinePlan } from './hypervisor/machine_plan.ts';
import { MACHINE_KEY, SHARE_KEY, type SandboxPaths } from './layout.ts';
import { podNamespace } from './network.ts';
import { pinVcpus } from './placement.ts';
import type { PodAgent } from './pod_agent.ts';
import { NO_STDIO } from './processes.ts';
import { encodeJson, encodeMachine, type SandboxRecord } from './record.ts';
import type { SandboxDeps } from './sandbox_deps.ts';
import { shareDaemonPlan } from './share.ts';

export interface BootInput {
  /** The pod's first container. */
  id: string;
  spec: Spec;
  functions: readonly PassedFunction[];
  deps: SandboxDeps;
  paths: SandboxPaths;
  /** Filled with what must be known to end the machine again, and saved before anything is made. */
  record: SandboxRecord;
  save: () => void;
  executor: Executor;
  agent: PodAgent;
  /** Make and join the pod's cgroups. */
  cgroupSteps: readonly Step[];
  /** The hypervisor's process is there, and says something on its console. */
  onLaunched: () => void;
  /** Its control connection, once asked for. */
  onMachine: (machine: Promise<Machine>) => void;
  /** What the guest's kernel and the hypervisor said last. */
  lastWords: () => string;
}

/** Rejects with what was launched still running: whoever calls ends it. */
export async function bootMachine(input: BootInput): Promise<void> {
  const { id, spec, deps, paths, record, agent, save } = input;
  const hypervisor = deps.hypervisor();
  const watch = stopwatch();
  const netns = podNamespace(id, spec);
  mkdirSync(hasShare(record) ? paths.share : paths.dir, { recursive: true, mode: 0o711 });
  const { machine: config, growMib } = await configure(input);
  record.machine = encodeMachine(config);
  record.memoryMib = config.size.memoryMib + growMib;
  checkLockedMemory(id, config, deps.lockLimit);
  const launch = await hypervisor.prepare(config);
  watch.lap('prepared');
  try {
    const { pid } = await launchMachine(input, launch);
    input.onLaunched();
    record.pid = pid;
    record.pidStartTime = processStartTime(pid) ?? 0;
    record.network = encodeJson({ netns: netns === '' ? `/proc/${pid}/ns/net` : netns, links: [] });
    save();
    watch.lap('launched');
    const attached = hypervisor.attach(launch);
    input.onMachine(attached);
    const [machine] = await Promise.all([
      attached.then(async (machine) => {
        watch.lap('attached');
        await plug(input, machine, growMib);
        return machine;
      }),
      agent.connect(launch.agent).then(() => watch.lap('agent')),
    ]);
    watch.lap('plugged');
    const hostname = spec.hostname ?? id.slice(0, 63);
    await agent.setUp(id, { hostname, share: hasShare(record), grown: growMib > 0 });
    const warn = (message: string, fields = {}): void => deps.log.warning(message, { id, ...fields });
    const found = await agent.functions(id, config, hypervisor, warn);
    if (found.length > 0) record.machine = encodeMachine(config, found);
    const threads = {
      vcpuThreads: () => machine.vcpuThreads?.() ?? Promise.resolve([]),
      isOwnThread: (tid: number) => deps.isThread(record.pid ?? 0, tid),
    };
    await pinVcpus(threads, config, spec, deps.setAffinity, warn);
  } catch (error) {
    if (error instanceof RuntimeError && error.object === 'template') await discard(deps, config, id);
    throw bootError(id, error, input.lastWords);
  } finally {
    launch.release();
  }
  record.ready = true;
  save();
  watch.lap('ready');
  deps.log.debug('virtual machine is up', { id, ...watch.laps });
}

/** Why the machine does not come up matters more than that its template stays. */
async function discard(deps: SandboxDeps, config: MachineConfig, id: string): Promise<void> {
  await deps.discardTemplate(config).catch((error: unknown) => {
    deps.log.warning('template not removed', { id, error: (error as Error).message });
  });
}

function configure({
  id,
  spec,
  deps,
  paths,
  record,
  functions,
}: BootInput): ReturnType<SandboxDeps['machineConfig']> {
  const { namespace, group } = record;
  return deps.machineConfig(id, spec, {
    namespace: namespace ?? '',
    group: group ?? '',
    dir: paths.dir,
    functions,
    share: hasShare(record),
  });
}

/** The daemon of the share with it: the machine does not outlive it, as nothing in it could be read any more. */
async function launchMachine(input: BootInput, launch: MachineLaunch): Promise<LaunchResult> {
  const { spec, record, executor, deps, cgroupSteps } = input;
  const network = networkSteps(spec);
  const machine = machinePlan(launch, {
    id: 'vm',
    steps: [...cgroupSteps, ...network.steps],
    namespaces: network.namespaces,
    lockLimit: deps.lockLimit,
  });
  const options = hasShare(record) ? { diesWith: SHARE_KEY } : {};
  const [shared, result] = await Promise.all([
    hasShare(record) ? launchDaemon(input) : undefined,
    executor.launch(MACHINE_KEY, encodePlan(machine), launch.stdio, options),
  ]);
  record.sharePid = shared?.pid ?? 0;
  return result;
}

function launchDaemon({ paths, deps, executor, cgroupSteps }: BootInput): Promise<LaunchResult> {
  const { shareSocket: socket, share, shareOutput: output } = paths;
  const { shareDaemon: program, openFiles } = deps;
  const daemon = shareDaemonPlan({ program, socket, share, cgroupSteps, openFiles });
  deps.mkfifo(output, 0o600);
  return executor.launch(SHARE_KEY, encodePlan(daemon), { ...NO_STDIO, stdout: output, stderr: output });
}

async function plug({ record, paths, agent }: BootInput, machine: Machine, growMib: number): Promise<void> {
  const { shareSocket: socketPath } = paths;
  if (hasShare(record))
    await machine.plug({ kind: 'fs', id: 'share', tag: agent.places.shareTag, socketPath });
  if (growMib > 0) await machine.growMemory(growMib);
}

/** The hypervisor lives in the pod's network namespace, where the other ends of its network cards are. */
function networkSteps({ linux }: Spec): { steps: Step[]; namespaces: number } {
  const path = linux?.namespaces?.find(({ type }) => type === 'network')?.path ?? '';
  if (path === '') return { steps: [], namespaces: CLONE_NEWNET };
  return { steps: [{ joinNamespace: { path, types: CLONE_NEWNET } }], namespaces: 0 };
}

function hasShare(record: SandboxRecord): boolean {
  return record.imagesOnly !== true;
}

function bootError(id: string, error: unknown, lastWords: () => string): unknown {
  if ((error as Error).name === 'LaunchError') return error;
  const known = error instanceof RuntimeError ? error : undefined;
  // Of another kind are refusals, which say all there is to say.
  if (known !== undefined && known.code !== ErrorCode.Unavailable) return known;
  const words = lastWords();
  return new RuntimeError({
    code: ErrorCode.Unavailable,
    op: 'create',
    id,
    object: known?.object ?? 'virtual machine',
    reason: `${known?.reason ?? (error as Error).message}${words === '' ? '' : `; its last words: ${words}`}`,
    cause: error,
  });
}

/** Milliseconds since its start, by the name of what was reached. */
function stopwatch(): { laps: Record<string, number>; lap: (name: string) => void } {
  const began = performance.now();
  const laps: Record<string, number> = {};
  return { laps, lap: (name) => void (laps[name] = Math.round(performance.now() - began)) };
}
