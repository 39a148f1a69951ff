/**
 * The virtual machine of a pod, from the first container to the last.
 *
 *   first container: the machine is booted (boot.ts) ── containers come and go ── last container: everything ends
 *
 * The record on disk is written before anything is made; an engine that finds it takes the machine up again.
 */
import { rmSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import {
  contributeCgroups,
  killCgroup,
  parseCgroupsPath,
  removeCgroups,
  viewOfPaths,
} from '../../cgroups/index.ts';
import type { Spec } from '../../oci/types.ts';
import type { Executor, LaunchResult } from '../executor.ts';
import { bootMachine } from './boot.ts';
import { BulkheadAgent } from './bulkhead_agent.ts';
import { MachineLogs } from './console.ts';
import { tooLate, type GuestFunction } from './functions.ts';
import { Growth } from './growth.ts';
import type { Machine, PassedFunction } from './hypervisor/hypervisor.ts';
import { MACHINE_KEY, SHARE_KEY, type SandboxPaths } from './layout.ts';
import { releaseNetwork, SandboxNetwork, type NetworkAddon, type NetworkState } from './network.ts';
import type { GuestProcess, PodAgent } from './pod_agent.ts';
import { PodFiles } from './pod_files.ts';
import { endLaunched } from './processes.ts';
import {
  decodeJson,
  decodeMachine,
  encodeJson,
  loadSandbox,
  saveSandbox,
  type SandboxContainer,
  type SandboxRecord,
} from './record.ts';
import { noShare } from './roots.ts';
import type { MachineNeeds, SandboxDeps } from './sandbox_deps.ts';

const SIGKILL = 9;

export class VmSandbox {
  readonly paths: SandboxPaths;
  readonly record: SandboxRecord;
  readonly executor: Executor;
  readonly agent: PodAgent;
  readonly growth: Growth;
  readonly files: PodFiles;
  readonly #deps: SandboxDeps;
  #booted: Promise<void> | undefined;
  #network: SandboxNetwork | undefined;
  #machine: Promise<Machine> | undefined;
  readonly #logs: MachineLogs;
  /** Containers that are being created, and have not joined yet. */
  readonly #expected = new Set<string>();
  #ending = false;
  #ended: Promise<void> | undefined;
  #isLost = false;
  #stopListening: (() => void)[] = [];

  private constructor(deps: SandboxDeps, paths: SandboxPaths, record: SandboxRecord, executor: Executor) {
    this.#deps = deps;
    this.paths = paths;
    this.record = record;
    this.executor = executor;
    this.#logs = new MachineLogs(paths, (error) => deps.log.warning('no console', { id: this.id, error }));
    const { bootDeadlineMs, log, agent = (input) => new BulkheadAgent(input) } = deps;
    const [save, machine] = [() => this.save(), () => this.machine()];
    this.agent = agent({ executor, record, save, machine, bootDeadlineMs, log });
    this.growth = new Growth({
      record,
      save,
      machine,
      agent: this.agent,
      memoryFor: deps.memoryFor,
      emulated: deps.emulated,
    });
    this.files = new PodFiles(this);
    this.#stopListening = [
      executor.onExit(({ key }) => {
        if (key === MACHINE_KEY) this.#lost('its process has ended');
      }),
      this.agent.onLost((reason) => this.#lost(reason)),
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
      sandbox.#logs.open(sandbox.hasShare);
      sandbox.agent.resume();
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
    return this.record.ready === true && this.agent.isConnected;
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
    return decodeMachine(this.record)?.found ?? [];
  }

  /**
   * A container will join: the machine does not end before it has left. False when it is ending already, and whoever wants
   * one waits for that and takes a new one.
   */
  expect(id: string): boolean {
    if (this.#ending) return false;
    this.#expected.add(id);
    return true;
  }

  /**
   * Enters a container into the record, and boots the machine for the first. Rejects with nothing left running.
   * @param needs.share what the container sees of the host's files, a machine without a shared directory cannot give
   * @param needs.functions of the host, bound for the machine
   */
  async join(id: string, spec: Spec, needs: MachineNeeds): Promise<SandboxContainer> {
    if (this.#ending) throw this.#notRunning('create', id);
    if (this.#booted !== undefined) this.#check(id, needs);
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
    if (!this.isRunning || this.#ending) throw this.#notRunning('create', id);
    return container;
  }

  /** What a machine that is being made for another container will not have. */
  #check(id: string, { share, functions }: MachineNeeds): void {
    if (share && !this.hasShare) throw noShare(id);
    const addresses = functions.map(({ address }) => address);
    if (addresses.length > 0) throw tooLate(id, addresses);
  }

  /** A process in the guest, outside of its containers. */
  async run(process: GuestProcess): Promise<LaunchResult> {
    const op = 'guest exec';
    if (!this.isRunning) throw this.#notRunning(op, this.id);
    if (this.agent.run === undefined) {
      const reason = 'the agent of this guest runs nothing outside of containers';
      const code = ErrorCode.FailedPrecondition;
      throw new RuntimeError({ code, op, id: this.id, object: 'virtual machine', reason });
    }
    return this.agent.run(this.id, process);
  }

  /** Whether nobody else is in the pod, or about to be. */
  isLast(id: string): boolean {
    const others = (this.record.containers ?? []).map((container) => container.id ?? '');
    return [...others, ...this.#expected].every((each) => each === id);
  }

  /** Strikes a container out; true when it was the last, and then everything has ended. */
  async leave(id: string): Promise<boolean> {
    const isLast = this.isLast(id);
    this.#expected.delete(id);
    this.record.containers = (this.record.containers ?? []).filter((container) => container.id !== id);
    if (!isLast) {
      if (this.#booted !== undefined) this.save();
      return false;
    }
    await this.end();
    return true;
  }

  /** Ends the machine and removes all that was made for it. Idempotent; what has failed is tried again. */
  end(): Promise<void> {
    this.#ending = true;
    this.#ended ??= this.#end().catch((error: unknown) => {
      this.#ended = undefined;
      throw error;
    });
    return this.#ended;
  }

  async #end(): Promise<void> {
    await this.#booted?.catch(() => {});
    for (const stop of this.#stopListening) stop();
    this.agent.close();
    this.#logs.close();
    // The processes first: a hypervisor that says nothing keeps whoever attaches to it waiting for as long as it lives.
    await Promise.all(
      [MACHINE_KEY, SHARE_KEY].map((key) => endLaunched(this.executor, { id: this.id, key })),
    );
    await this.#machine?.then(
      (machine) => machine.close(),
      () => {},
    );
    await removeSandbox(this.paths, this.record, this.#deps.network());
  }

  /** The hypervisor's handle; found again after a restart of the engine. */
  machine(): Promise<Machine> {
    return this.#machine ?? this.#hold(this.#reattach());
  }

  /** One that could not be reached is looked for again; one whose control connection breaks is of no more use. */
  #hold(attached: Promise<Machine>): Promise<Machine> {
    this.#machine = attached;
    attached.then(
      (machine) =>
        machine.onEvent((event) => {
          if (event.type === 'closed') this.#lost(`its control connection is gone: ${event.reason}`);
        }),
      () => {
        if (this.#machine === attached) this.#machine = undefined;
      },
    );
    return attached;
  }

  async #reattach(): Promise<Machine> {
    const config = decodeMachine(this.record);
    if (config === undefined) throw this.#notRunning('attach', this.id);
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
    await bootMachine({
      id,
      spec,
      functions,
      deps: this.#deps,
      paths: this.paths,
      record: this.record,
      save: () => this.save(),
      executor: this.executor,
      agent: this.agent,
      cgroupSteps: this.#cgroups(id, spec).outer,
      onLaunched: () => this.#logs.open(this.hasShare),
      onMachine: (machine) => void this.#hold(machine),
      lastWords: () => this.#logs.lastWords(),
    });
  }

  /** Ties the pod's network to the guest, and what has been added to it since. */
  async connectNetwork(): Promise<void> {
    this.#network ??= new SandboxNetwork(this.id, decodeJson<NetworkState>(this.record.network), {
      addon: this.#deps.network(),
      plug: async (device) => this.agent.cardPlugged(device, await (await this.machine()).plug(device)),
      unplug: async (device) => (await this.machine()).unplug(device),
      configure: (network) => this.agent.configureNetwork(this.id, network),
      warn: (message) => this.#deps.log.warning(message, { id: this.id }),
    });
    const { state } = this.#network;
    await this.#network.attach(() => {
      this.record.network = encodeJson(state);
      this.save();
    });
  }

  /** Ends a machine whose guest does not do any more what it is told, with all that runs in it. */
  giveUp(reason: string): void {
    this.#lost(reason);
  }

  /** Without its channel a machine is of no use: nobody can reach what runs in it. */
  #lost(reason: string): void {
    if (this.#ending || this.#isLost) return;
    this.#isLost = true;
    const words = this.#logs.lastWords();
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
