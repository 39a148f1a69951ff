/**
 * The virtual machine of a pod, from the first container to the last.
 *
 *   share's daemon and hypervisor launched as processes of the monitor ── template restored or kernel booted ── agent
 *   answers ── share mounted in the guest ── containers come and go ── last container: everything ends
 *
 * The record on disk is written before anything is made; an engine that finds it takes the machine up again.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CLONE_NEWNET } from '../../base/constants.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import { processStartTime } from '../../base/proc.ts';
import {
  contributeCgroups,
  killCgroup,
  parseCgroupsPath,
  removeCgroups,
  viewOfPaths,
  type CgroupLayout,
} from '../../cgroups/index.ts';
import type { Spec } from '../../oci/types.ts';
import { encodePlan } from '../../plan/encode.ts';
import type { Step } from '../../plan/inputs.ts';
import { GuestError, type Executor, type LaunchResult } from '../executor.ts';
import { GuestAgent } from './agent.ts';
import { consoleTail, GuestConsole } from './console.ts';
import { awaitFunction, checkLockedMemory, type GuestFunction } from './functions.ts';
import type {
  Hypervisor,
  Machine,
  MachineConfig,
  MachineLaunch,
  PassedFunction,
} from './hypervisor/hypervisor.ts';
import {
  releaseNetwork,
  SandboxNetwork,
  podNamespace,
  type NetworkAddon,
  type NetworkState,
} from './network.ts';
import { Volumes } from './volumes.ts';
import { machinePlan } from './hypervisor/machine_plan.ts';
import {
  GUEST,
  GUEST_SHARE,
  GUEST_SHM,
  MACHINE_KEY,
  SHARE_KEY,
  SHARE_TAG,
  type SandboxPaths,
} from './layout.ts';
import { vcpuMasks } from './placement.ts';
import { endLaunched, NO_STDIO } from './processes.ts';
import { MEMORY_BLOCK_MIB } from './sizing.ts';
import { loadSandbox, saveSandbox, type SandboxContainer, type SandboxRecord } from './record.ts';
import { shareDaemonPlan } from './share.ts';

/** A machine, and what it is to grow by (MiB) once it runs. */
export interface SizedMachine {
  machine: MachineConfig;
  growMib: number;
}

export interface Pod {
  namespace: string;
  group: string;
  /** Of its machine. */
  dir: string;
  /** Functions of the host that its first container asks for. */
  functions: readonly PassedFunction[];
  /** It has a directory of the host's files (virtio-fs), and so memory that another process can map. */
  share: boolean;
}

/** What a container needs its pod's machine to have been made with. */
export interface MachineNeeds {
  share: boolean;
  functions: readonly PassedFunction[];
}

/** What a sandbox needs of the machine and of the configuration. */
export interface SandboxDeps {
  hypervisor: () => Hypervisor;
  /** Of a pod's first container. */
  machineConfig: (id: string, spec: Spec, pod: Pod) => Promise<SizedMachine>;
  /** MiB that a machine must have for a container's limit of memory in bytes, at most `largest`. */
  memoryFor: (limit: number) => { mib: number; largest: number };
  /** It was found to be damaged. */
  discardTemplate: (config: MachineConfig) => Promise<void>;
  network: () => NetworkAddon;
  /** sched_setaffinity(2) of a thread. */
  setAffinity: (tid: number, mask: Uint8Array) => void;
  layout: () => CgroupLayout;
  /** virtiofsd. */
  shareDaemon: string;
  openFiles: number;
  /** Highest RLIMIT_MEMLOCK that can be given, in bytes; absent: any. */
  lockLimit?: number | undefined;
  /** Address bits that guests have; undefined: the host's. */
  physicalBits: () => Promise<number | undefined>;
  /** How long a guest may take until its agent answers. */
  bootDeadlineMs: number;
  log: Logger;
}

/** Whether QEMU's and virtiofsd's last words are worth showing. */
const LAST_LINES = 20;
/** What virtiofsd says of every life. */
const ROUTINE = /^virtio_(session_mount|loop): /;
/** As long as what a kernel says when it gives up. */
const DUMP_LINES = 100;
const SIGKILL = 9;
/** The guest has found its network cards and configured them. */
const NETWORK_DEADLINE_MS = 15_000;

/** A machine's configuration on disk, with what the guest has made of its functions. */
interface RecordedMachine extends MachineConfig {
  found?: GuestFunction[];
}

export class VmSandbox {
  readonly paths: SandboxPaths;
  readonly record: SandboxRecord;
  readonly executor: Executor;
  readonly agent: GuestAgent;
  /** Images that the guest has mounted. */
  readonly volumes: Volumes;
  readonly #deps: SandboxDeps;
  #booted: Promise<void> | undefined;
  #network: SandboxNetwork | undefined;
  #machine: Promise<Machine> | undefined;
  #console: GuestConsole | undefined;
  #growing: Promise<void> = Promise.resolve();
  #ending = false;
  #isLost = false;
  #stopListening: (() => void)[] = [];

  private constructor(deps: SandboxDeps, paths: SandboxPaths, record: SandboxRecord, executor: Executor) {
    const { guests } = executor;
    if (guests === undefined) throw noGuests(record.group ?? '');
    this.#deps = deps;
    this.paths = paths;
    this.record = record;
    this.executor = executor;
    this.agent = new GuestAgent(guests);
    this.volumes = new Volumes({
      plug: async (device) => (await this.machine()).plug(device),
      unplug: async (device) => (await this.machine()).unplug(device),
      agent: this.agent,
    });
    this.#stopListening = [
      executor.onExit(({ key }) => {
        if (key === MACHINE_KEY) this.#lost('its process has ended');
      }),
      guests.onClosed((guest, reason) => {
        if (guest === GUEST) this.#lost(`the channel to it is ${reason}`);
      }),
    ];
  }

  /** The pod's, as it is on disk, or a new one that is not. */
  static open(
    deps: SandboxDeps,
    paths: SandboxPaths,
    names: { namespace: string; group: string },
    executor: Executor,
  ): VmSandbox {
    const record = loadSandbox(paths.record) ?? { ...names, containers: [] };
    const sandbox = new VmSandbox(deps, paths, record, executor);
    if (record.ready === true) {
      sandbox.#booted = Promise.resolve();
      sandbox.#openConsole();
      // It was lost while no engine was there.
      if (executor.guests?.isConnected(GUEST) !== true) sandbox.#lost('the channel to it is gone');
    }
    return sandbox;
  }

  get id(): string {
    return this.record.group ?? '';
  }

  /** The pid by which the host knows everything in the machine. */
  get pid(): number {
    return this.record.pid ?? 0;
  }

  /** Of the share's daemon, in whose mount namespace the pod's files are. */
  get sharePid(): number {
    return this.record.sharePid ?? 0;
  }

  get isRunning(): boolean {
    return this.record.ready === true && this.executor.guests?.isConnected(GUEST) === true;
  }

  /** Whether it has a directory of the host's files. */
  get hasShare(): boolean {
    return this.record.imagesOnly !== true;
  }

  container(id: string): SandboxContainer | undefined {
    return this.record.containers?.find((container) => container.id === id);
  }

  /** The pod's first container; undefined while it is not there. */
  get first(): SandboxContainer | undefined {
    return this.record.containers?.[0];
  }

  save(): void {
    saveSandbox(this.paths.record, this.record);
  }

  /** Whether the machine is there, or being made. */
  get isMade(): boolean {
    return this.#booted !== undefined;
  }

  /** Functions of the host that the guest has. */
  get functions(): readonly GuestFunction[] {
    if ((this.record.machine?.length ?? 0) === 0) return [];
    return decodeJson<RecordedMachine>(this.record.machine).found ?? [];
  }

  /**
   * Enters a container into the record, and boots the machine for the first. Rejects with nothing left running.
   * @param needs.share what the container sees of the host's files, a machine without a shared directory cannot give
   * @param needs.functions of the host, bound for the machine
   */
  async join(id: string, spec: Spec, needs: MachineNeeds): Promise<SandboxContainer> {
    let container = this.container(id);
    if (container === undefined) {
      this.record.serial = (this.record.serial ?? 0) + 1;
      container = { id, serial: this.record.serial };
      (this.record.containers ??= []).push(container);
    }
    if (this.#booted === undefined) {
      this.#plan(id, spec);
      this.record.imagesOnly = !needs.share;
    }
    this.save();
    this.#booted ??= this.#boot(id, spec, needs.functions);
    await this.#booted;
    if (!this.isRunning) throw this.#notRunning('create', id);
    return container;
  }

  /** Strikes a container out; true when it was the last, and then everything has ended. */
  async leave(id: string): Promise<boolean> {
    this.record.containers = (this.record.containers ?? []).filter((container) => container.id !== id);
    if (this.record.containers.length > 0) {
      this.save();
      return false;
    }
    await this.end();
    return true;
  }

  /** Ends the machine and removes all that was made for it. Idempotent. */
  async end(): Promise<void> {
    this.#ending = true;
    await this.#booted?.catch(() => {});
    for (const stop of this.#stopListening) stop();
    this.#console?.close();
    // The processes first: a hypervisor that says nothing keeps whoever attaches to it waiting for as long as it lives.
    await Promise.all([MACHINE_KEY, SHARE_KEY].map((key) => endLaunched(this.executor, key)));
    await this.#machine?.then(
      (machine) => machine.close(),
      () => {},
    );
    await removeSandbox(this.paths, this.record, this.#deps.network());
  }

  /** The hypervisor's handle; found again after a restart of the engine. */
  machine(): Promise<Machine> {
    this.#machine ??= this.#reattach();
    return this.#machine;
  }

  async #reattach(): Promise<Machine> {
    const config = decodeJson<MachineConfig>(this.record.machine);
    return this.#deps.hypervisor().reattach(config);
  }

  /** What will have to be undone, known before it is done. */
  #plan(id: string, spec: Spec): void {
    this.record.cgroupPaths = this.#cgroups(id, spec).paths;
  }

  /** The pod's own cgroup holds the machine; what containers may use is limited in the guest. */
  #cgroups(id: string, spec: Spec): ReturnType<typeof contributeCgroups> {
    const location = parseCgroupsPath(spec.linux?.cgroupsPath, id);
    const resources = { devices: [{ allow: true, access: 'rwm' }] };
    return contributeCgroups(resources, this.#deps.layout(), location, { id });
  }

  async #boot(id: string, spec: Spec, functions: readonly PassedFunction[]): Promise<void> {
    const hypervisor = this.#deps.hypervisor();
    const watch = stopwatch();
    const netns = podNamespace(id, spec);
    mkdirSync(this.hasShare ? this.paths.share : this.paths.dir, { recursive: true, mode: 0o711 });
    const { machine: config, growMib } = await this.#deps.machineConfig(id, spec, {
      namespace: this.record.namespace ?? '',
      group: this.id,
      dir: this.paths.dir,
      functions,
      share: this.hasShare,
    });
    this.record.machine = encodeJson({ ...config, template: undefined });
    this.record.memoryMib = config.size.memoryMib + growMib;
    checkLockedMemory(id, config, this.#deps.lockLimit);
    const launch = await hypervisor.prepare(config);
    watch.lap('prepared');
    try {
      const { pid } = await this.#launch(id, spec, launch);
      this.#openConsole();
      this.record.pid = pid;
      this.record.pidStartTime = processStartTime(pid) ?? 0;
      this.record.network = encodeJson({ netns: netns === '' ? `/proc/${pid}/ns/net` : netns, links: [] });
      this.save();
      watch.lap('launched');
      this.#machine = hypervisor.attach(launch);
      await Promise.all([
        this.#machine.then((machine) => {
          watch.lap('attached');
          return this.#plug(machine, growMib);
        }),
        this.#connect(launch.agent.path).then(() => watch.lap('agent')),
      ]);
      watch.lap('plugged');
      await this.#setUp(id, spec, growMib);
      await this.#awaitFunctions(id, config);
      await this.#pin(id, spec, config);
    } catch (error) {
      if (error instanceof RuntimeError && error.object === 'template')
        await this.#deps.discardTemplate(config);
      throw this.#bootError(id, error);
    } finally {
      launch.release();
    }
    this.record.ready = true;
    this.save();
    watch.lap('ready');
    this.#deps.log.debug('virtual machine is up', { id, ...watch.laps });
  }

  /** Whoever is told of a function may use it at once. */
  async #awaitFunctions(id: string, config: MachineConfig): Promise<void> {
    const { functions = [] } = config;
    if (functions.length === 0) return;
    const warn = (message: string): void => this.#deps.log.warning(message, { id });
    const paths = this.#deps.hypervisor().functionPaths(config);
    const found = await Promise.all(
      functions.map((each, index) => awaitFunction(this.agent, id, each, paths[index] ?? '', warn)),
    );
    const machine: RecordedMachine = { ...config, template: undefined, found };
    this.record.machine = encodeJson(machine);
  }

  /** Whoever gives a pod devices and a cpuset of its own counts on each vCPU having a processor. */
  async #pin(id: string, { linux }: Spec, { functions = [], size }: MachineConfig): Promise<void> {
    const masks = functions.length === 0 ? [] : vcpuMasks(linux?.resources?.cpu?.cpus, size.vcpus);
    if (masks.length === 0) return;
    try {
      const threads = (await (await this.machine()).vcpuThreads?.()) ?? [];
      threads.forEach((tid, index) => {
        const mask = masks[index];
        if (mask !== undefined) this.#deps.setAffinity(tid, mask);
      });
    } catch (error) {
      this.#deps.log.warning('vCPUs not pinned', { id, error: (error as Error).message });
    }
  }

  /** The daemon of the share with it: the machine does not outlive it, as nothing in it could be read any more. */
  async #launch(id: string, spec: Spec, launch: MachineLaunch): Promise<LaunchResult> {
    const { executor } = this;
    const cgroupSteps = this.#cgroups(id, spec).outer;
    const network = networkSteps(spec);
    const machine = machinePlan(launch, {
      id: 'vm',
      steps: [...cgroupSteps, ...network.steps],
      namespaces: network.namespaces,
      lockLimit: this.#deps.lockLimit,
    });
    const options = this.hasShare ? { diesWith: SHARE_KEY } : {};
    const [shared, result] = await Promise.all([
      this.hasShare ? this.#launchDaemon(cgroupSteps) : undefined,
      executor.launch(MACHINE_KEY, encodePlan(machine), launch.stdio, options),
    ]);
    this.record.sharePid = shared?.pid ?? 0;
    return result;
  }

  #launchDaemon(cgroupSteps: readonly Step[]): Promise<LaunchResult> {
    const { dir, shareSocket: socket, share } = this.paths;
    const { shareDaemon: program, openFiles } = this.#deps;
    const daemon = shareDaemonPlan({ program, socket, share, cgroupSteps, openFiles });
    const log = { ...NO_STDIO, stdout: join(dir, 'fs.log'), stderr: join(dir, 'fs.log'), append: true };
    return this.executor.launch(SHARE_KEY, encodePlan(daemon), log);
  }

  async #connect(path: string): Promise<void> {
    const { bootDeadlineMs } = this.#deps;
    try {
      await this.executor.guests?.connect(GUEST, path, bootDeadlineMs, MACHINE_KEY);
    } catch (error) {
      const reason = error instanceof GuestError ? channelReason(error, bootDeadlineMs) : undefined;
      throw reason === undefined ? error : new Error(reason, { cause: error });
    }
  }

  async #plug(machine: Machine, growMib: number): Promise<void> {
    const { shareSocket: socketPath } = this.paths;
    if (this.hasShare) await machine.plug({ kind: 'fs', id: 'share', tag: SHARE_TAG, socketPath });
    if (growMib > 0) await machine.growMemory(growMib);
  }

  /**
   * Makes the machine large enough for a container's new limit of memory (bytes). It never shrinks. ResourceExhausted
   * when no machine may be that large.
   */
  grow(id: string, limit: number): Promise<void> {
    const mine = this.#growing.then(() => this.#grow(id, limit));
    this.#growing = mine.catch(() => {});
    return mine;
  }

  async #grow(id: string, limit: number): Promise<void> {
    const { mib, largest } = this.#deps.memoryFor(limit);
    const has = this.record.memoryMib ?? 0;
    // A machine of an older version does not know how large it is.
    if (has === 0 || mib <= has) return;
    if (mib > largest) throw tooLarge(id, mib, largest);
    const more = Math.ceil((mib - has) / MEMORY_BLOCK_MIB) * MEMORY_BLOCK_MIB;
    await (await this.machine()).growMemory(more);
    this.record.memoryMib = has + more;
    this.save();
    await this.agent.call('update', id, { onlineMemory: {} });
  }

  /** The pod's /dev/shm, once. @param bytes how large it may become */
  async mountShm(id: string, bytes: number): Promise<void> {
    if (this.record.shm === true) return;
    this.record.shm = true;
    const data = `mode=1777,size=${bytes}`;
    await this.agent.mount(id, { source: 'shm', target: GUEST_SHM, fstype: 'tmpfs', data });
    this.save();
  }

  /** Ties the pod's network to the guest, and what has been added to it since. */
  async connectNetwork(): Promise<void> {
    this.#network ??= new SandboxNetwork(this.id, decodeJson<NetworkState>(this.record.network), {
      addon: this.#deps.network(),
      plug: async (device) => (await this.machine()).plug(device),
      unplug: async (device) => (await this.machine()).unplug(device),
      configure: (network) => this.agent.call('create', this.id, { network }, NETWORK_DEADLINE_MS),
      warn: (message) => this.#deps.log.warning(message, { id: this.id }),
    });
    const { state } = this.#network;
    await this.#network.attach(() => {
      this.record.network = encodeJson(state);
      this.save();
    });
  }

  async #setUp(id: string, spec: Spec, growMib: number): Promise<void> {
    const share = { device: { virtiofsTag: SHARE_TAG }, target: GUEST_SHARE, fstype: 'virtiofs' };
    const mounted = this.hasShare ? this.agent.mount(id, share) : undefined;
    const grown = growMib > 0 ? this.agent.call('create', id, { onlineMemory: {} }) : undefined;
    await Promise.all([this.agent.setup(id, spec.hostname ?? id.slice(0, 63)), mounted, grown]);
  }

  #bootError(id: string, error: unknown): unknown {
    if ((error as Error).name === 'LaunchError') return error;
    const known = error instanceof RuntimeError ? error : undefined;
    // Of another kind are refusals, which say all there is to say.
    if (known !== undefined && known.code !== ErrorCode.Unavailable) return known;
    const words = this.#lastWords();
    return new RuntimeError({
      code: ErrorCode.Unavailable,
      op: 'create',
      id,
      object: known?.object ?? 'virtual machine',
      reason: `${known?.reason ?? (error as Error).message}${words === '' ? '' : `; its last words: ${words}`}`,
      cause: error,
    });
  }

  /** Without its channel a machine is of no use: nobody can reach what runs in it. */
  #lost(reason: string): void {
    if (this.#ending || this.#isLost) return;
    this.#isLost = true;
    const words = this.#lastWords();
    this.#deps.log.error('the virtual machine has ended', { id: this.id, reason, console: words });
    this.executor.signal(MACHINE_KEY, SIGKILL).catch(() => {});
  }

  #notRunning(op: string, id: string): RuntimeError {
    return new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op,
      id,
      object: 'virtual machine',
      reason: 'has ended',
    });
  }

  #openConsole(): void {
    const { console, consoleLog } = this.paths;
    try {
      this.#console ??= GuestConsole.open(console, consoleLog);
    } catch (error) {
      this.#deps.log.warning('no console', { id: this.id, error: (error as Error).message });
    }
  }

  /** What the guest's kernel and the hypervisor said last. */
  #lastWords(): string {
    const said = telling(this.#console?.tail(DUMP_LINES) ?? []);
    const words = said.length > 0 ? said : consoleTail(join(this.paths.dir, 'fs.log'), LAST_LINES);
    return words.filter((line) => !ROUTINE.test(line)).join(' | ');
  }
}

/** Ends what a record names when nobody is left to ask: by the cgroup that all of it is in. */
export async function endByCgroup(
  paths: SandboxPaths,
  record: SandboxRecord,
  deps: Pick<SandboxDeps, 'layout' | 'network'>,
): Promise<void> {
  await killCgroup(viewOfPaths(deps.layout(), record.cgroupPaths ?? []), { id: record.group ?? '' });
  await removeSandbox(paths, record, deps.network());
}

async function removeSandbox(
  paths: SandboxPaths,
  record: SandboxRecord,
  network: NetworkAddon,
): Promise<void> {
  if ((record.network?.length ?? 0) > 0) {
    await releaseNetwork(network, decodeJson<NetworkState>(record.network));
  }
  await removeCgroups(record.cgroupPaths ?? [], { id: record.group ?? '' });
  rmSync(paths.dir, { recursive: true, force: true });
}

/** From where a kernel says why it gives up (registers and stack come behind that), else the last lines. */
function telling(lines: readonly string[]): string[] {
  const at = lines.findLastIndex((line) => /Kernel panic|\bBUG:|\bOops:/.test(line));
  return at < 0 ? lines.slice(-LAST_LINES) : lines.slice(at, at + LAST_LINES);
}

/** Milliseconds since its start, by the name of what was reached. */
function stopwatch(): { laps: Record<string, number>; lap: (name: string) => void } {
  const began = performance.now();
  const laps: Record<string, number> = {};
  return { laps, lap: (name) => void (laps[name] = Math.round(performance.now() - began)) };
}

/** Why there is no channel to the agent; the monitor's log has the bytes. undefined: not known. */
function channelReason({ code }: GuestError, deadlineMs: number): string | undefined {
  const reasons: Readonly<Record<string, string>> = {
    ETIMEDOUT: `its agent did not answer within ${deadlineMs / 1000} s`,
    ECONNRESET: 'its agent hung up, or said what no agent says',
  };
  return reasons[code];
}

function tooLarge(id: string, mib: number, largest: number): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.ResourceExhausted,
    op: 'update',
    id,
    object: `memory of ${mib} MiB`,
    reason: `is above the largest machine of ${largest} MiB`,
    remedy: 'lower the limit, or raise vm.max_memory_mib',
  });
}

function encodeJson(value: object): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

function decodeJson<T>(bytes: Uint8Array | null | undefined): T {
  return JSON.parse(Buffer.from(bytes ?? []).toString()) as T;
}

/** The hypervisor lives in the pod's network namespace, where the other ends of its network cards are. */
function networkSteps({ linux }: Spec): { steps: Step[]; namespaces: number } {
  const path = linux?.namespaces?.find(({ type }) => type === 'network')?.path ?? '';
  if (path === '') return { steps: [], namespaces: CLONE_NEWNET };
  return { steps: [{ joinNamespace: { path, types: CLONE_NEWNET } }], namespaces: 0 };
}

function noGuests(id: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: 'wall "vm"',
    reason: 'needs the monitor of a shim',
    remedy: 'run the container through containerd',
  });
}
