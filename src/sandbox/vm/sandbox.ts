/**
 * The virtual machine of a pod, from the first container to the last.
 *
 *   share's daemon and hypervisor launched as processes of the monitor ── template restored or kernel booted ── agent
 *   answers ── share mounted in the guest ── containers come and go ── last container: everything ends
 *
 * The record on disk is written before anything is made; an engine that finds it takes the machine up again.
 */
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
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
import type { Executor, LaunchResult } from '../executor.ts';
import { GuestAgent } from './agent.ts';
import type { Hypervisor, Machine, MachineConfig, MachineLaunch } from './hypervisor/hypervisor.ts';
import { machinePlan } from './hypervisor/machine_plan.ts';
import { GUEST, GUEST_SHARE, MACHINE_KEY, SHARE_KEY, SHARE_TAG, type SandboxPaths } from './layout.ts';
import { endLaunched, NO_STDIO } from './processes.ts';
import { loadSandbox, saveSandbox, type SandboxContainer, type SandboxRecord } from './record.ts';
import { shareDaemonPlan } from './share.ts';

/** What a sandbox needs of the machine and of the configuration. */
export interface SandboxDeps {
  hypervisor: () => Promise<Hypervisor>;
  /** All of a machine's configuration but its directory. */
  machineConfig: (id: string, spec: Spec) => Promise<Omit<MachineConfig, 'dir'>>;
  layout: () => CgroupLayout;
  /** virtiofsd. */
  shareDaemon: string;
  openFiles: number;
  /** How long a guest may take until its agent answers. */
  bootDeadlineMs: number;
  log: Logger;
}

/** Whether QEMU's and virtiofsd's last words are worth showing. */
const LAST_LINES = 20;

export class VmSandbox {
  readonly paths: SandboxPaths;
  readonly record: SandboxRecord;
  readonly executor: Executor;
  readonly agent: GuestAgent;
  readonly #deps: SandboxDeps;
  #booted: Promise<void> | undefined;
  #machine: Promise<Machine> | undefined;
  #ending = false;
  #stopListening: (() => void)[] = [];

  private constructor(deps: SandboxDeps, paths: SandboxPaths, record: SandboxRecord, executor: Executor) {
    const { guests } = executor;
    if (guests === undefined) throw noGuests(record.group ?? '');
    this.#deps = deps;
    this.paths = paths;
    this.record = record;
    this.executor = executor;
    this.agent = new GuestAgent(guests);
    this.#stopListening = [
      executor.onExit(({ key }) => {
        if (key === MACHINE_KEY) this.#machineEnded();
      }),
      guests.onClosed((guest, reason) => {
        if (guest === GUEST) this.#channelClosed(reason);
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
      // It was lost while no engine was there.
      if (executor.guests?.isConnected(GUEST) !== true) sandbox.#channelClosed('lost');
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

  /** Enters a container into the record, and boots the machine for the first. Rejects with nothing left running. */
  async join(id: string, spec: Spec): Promise<SandboxContainer> {
    let container = this.container(id);
    if (container === undefined) {
      this.record.serial = (this.record.serial ?? 0) + 1;
      container = { id, serial: this.record.serial };
      (this.record.containers ??= []).push(container);
    }
    if (this.#booted === undefined) this.#plan(id, spec);
    this.save();
    this.#booted ??= this.#boot(id, spec);
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
    await this.#machine?.then(
      (machine) => machine.close(),
      () => {},
    );
    await Promise.all([MACHINE_KEY, SHARE_KEY].map((key) => endLaunched(this.executor, key)));
    await removeSandbox(this.paths, this.record, this.#deps.layout());
  }

  /** The hypervisor's handle; found again after a restart of the engine. */
  machine(): Promise<Machine> {
    this.#machine ??= this.#reattach();
    return this.#machine;
  }

  async #reattach(): Promise<Machine> {
    const config = JSON.parse(Buffer.from(this.record.machine ?? []).toString()) as MachineConfig;
    const hypervisor = await this.#deps.hypervisor();
    return hypervisor.reattach(config);
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

  async #boot(id: string, spec: Spec): Promise<void> {
    const hypervisor = await this.#deps.hypervisor();
    mkdirSync(this.paths.share, { recursive: true, mode: 0o711 });
    const config: MachineConfig = { ...(await this.#deps.machineConfig(id, spec)), dir: this.paths.dir };
    this.record.machine = Buffer.from(JSON.stringify(config));
    const launch = await hypervisor.prepare(config);
    try {
      const { pid } = await this.#launch(id, spec, launch);
      this.record.pid = pid;
      this.record.pidStartTime = processStartTime(pid) ?? 0;
      this.save();
      this.#machine = hypervisor.attach(launch);
      const { guests } = this.executor;
      await Promise.all([
        this.#machine.then((machine) =>
          machine.plug({ kind: 'fs', id: 'share', tag: SHARE_TAG, socketPath: this.paths.shareSocket }),
        ),
        guests?.connect(GUEST, launch.agent.path, this.#deps.bootDeadlineMs),
      ]);
      await this.#setUp(id, spec);
    } catch (error) {
      throw this.#bootError(id, error);
    } finally {
      launch.release();
    }
    this.record.ready = true;
    this.save();
  }

  /** The daemon of the share first: the machine does not outlive it, as nothing in it could be read any more. */
  async #launch(id: string, spec: Spec, launch: MachineLaunch): Promise<LaunchResult> {
    const { executor, paths } = this;
    const cgroupSteps = this.#cgroups(id, spec).outer;
    const { shareDaemon: program, openFiles } = this.#deps;
    const daemon = shareDaemonPlan({
      program,
      socket: paths.shareSocket,
      share: paths.share,
      cgroupSteps,
      openFiles,
    });
    const log = {
      ...NO_STDIO,
      stdout: join(paths.dir, 'fs.log'),
      stderr: join(paths.dir, 'fs.log'),
      append: true,
    };
    const network = networkSteps(spec);
    const machine = machinePlan(launch, {
      id: 'vm',
      steps: [...cgroupSteps, ...network.steps],
      namespaces: network.namespaces,
    });
    const [shared, result] = await Promise.all([
      executor.launch(SHARE_KEY, encodePlan(daemon), log),
      executor.launch(MACHINE_KEY, encodePlan(machine), launch.stdio, { diesWith: SHARE_KEY }),
    ]);
    this.record.sharePid = shared.pid;
    return result;
  }

  async #setUp(id: string, spec: Spec): Promise<void> {
    const mounted = this.agent.mount(id, {
      device: { virtiofsTag: SHARE_TAG },
      target: GUEST_SHARE,
      fstype: 'virtiofs',
    });
    await Promise.all([this.agent.setup(id, spec.hostname ?? id.slice(0, 63)), mounted]);
  }

  #bootError(id: string, error: unknown): unknown {
    if (error instanceof RuntimeError || (error as Error).name === 'LaunchError') return error;
    const words = this.#lastWords();
    return new RuntimeError({
      code: ErrorCode.Unavailable,
      op: 'create',
      id,
      object: 'virtual machine',
      reason: `${(error as Error).message}${words === '' ? '' : `; its last words: ${words}`}`,
      cause: error,
    });
  }

  #machineEnded(): void {
    if (this.#ending) return;
    this.#deps.log.error('the virtual machine has ended', { id: this.id, console: this.#lastWords() });
  }

  /** Without its channel a machine is of no use: nobody can reach what runs in it. */
  #channelClosed(reason: string): void {
    if (this.#ending) return;
    this.#deps.log.error('the channel to the guest is gone', { id: this.id, reason });
    this.executor.signal(MACHINE_KEY, 9).catch(() => {});
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

  /** What the guest's kernel and the hypervisor said last. */
  #lastWords(): string {
    for (const name of ['console.log', 'fs.log']) {
      const lines = tail(join(this.paths.dir, name));
      if (lines.length > 0) return lines.slice(-LAST_LINES).join(' | ');
    }
    return '';
  }
}

/** Ends what a record names when nobody is left to ask: by the cgroup that all of it is in. */
export async function endByCgroup(
  paths: SandboxPaths,
  record: SandboxRecord,
  layout: CgroupLayout,
): Promise<void> {
  await killCgroup(viewOfPaths(layout, record.cgroupPaths ?? []), { id: record.group ?? '' });
  await removeSandbox(paths, record, layout);
}

async function removeSandbox(
  paths: SandboxPaths,
  record: SandboxRecord,
  _layout: CgroupLayout,
): Promise<void> {
  await removeCgroups(record.cgroupPaths ?? [], { id: record.group ?? '' });
  rmSync(paths.dir, { recursive: true, force: true });
}

/** The hypervisor lives in the pod's network namespace, where the other ends of its network cards are. */
function networkSteps({ linux }: Spec): { steps: Step[]; namespaces: number } {
  const path = linux?.namespaces?.find(({ type }) => type === 'network')?.path ?? '';
  if (path === '') return { steps: [], namespaces: CLONE_NEWNET };
  return { steps: [{ joinNamespace: { path, types: CLONE_NEWNET } }], namespaces: 0 };
}

function tail(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').slice(-8192).split(/\r?\n/).filter(Boolean);
  } catch {
    return [];
  }
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
