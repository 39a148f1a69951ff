/** Our own agent: launch plans and calls over the channel that the monitor holds. */
import { encodePlan } from '../../plan/encode.ts';
import type { LaunchPlan } from '../../plan/inputs.ts';
import { within } from '../../base/deadline.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import { GuestError, type Executor, type Guests, type LaunchResult, type StdioPaths } from '../executor.ts';
import { nameMount } from '../host_backend.ts';
import { GuestAgent } from './agent.ts';
import { awaitFunctions, type GuestFunction } from './functions.ts';
import { guestContainer } from './guest_container.ts';
import { guestCreatePlan, guestExecPlan, guestProcessPlan } from './guest_plan.ts';
import type { AgentSocket, Hypervisor, MachineConfig } from './hypervisor/hypervisor.ts';
import { GUEST, GUEST_PROGRAMS, GUEST_SHARE, GUEST_SHM, MACHINE_KEY, SHARE_TAG } from './layout.ts';
import type {
  AgentInput,
  GuestExec,
  GuestContainer,
  GuestLaunch,
  GuestProcess,
  GuestSetup,
  PodAgent,
} from './pod_agent.ts';
import { Volumes } from './volumes.ts';

/** Up to a process's gate; its file systems are mounted by then. */
const LAUNCH_DEADLINE_MS = 120_000;
/** PID_MAX_LIMIT of the kernel. */
const PID_MAX = 2 ** 22;
/** The guest has found its network cards and configured them. */
const NETWORK_DEADLINE_MS = 60_000;
/** Its kernel starts each processor by itself. */
const CPUS_DEADLINE_MS = 30_000;

export class BulkheadAgent implements PodAgent {
  readonly places = { shareTag: SHARE_TAG, share: GUEST_SHARE, shm: GUEST_SHM };
  readonly volumes: Volumes;
  readonly #input: AgentInput;
  readonly #executor: Executor;
  readonly #guests: Guests;
  readonly #agent: GuestAgent;
  readonly #lost = new Set<(reason: string) => void>();
  readonly #stop: () => void;
  #shm: Promise<void> | undefined;

  /** @throws RuntimeError FailedPrecondition when nobody holds channels here (command line) */
  constructor(input: AgentInput) {
    const { executor, record, machine } = input;
    const { guests } = executor;
    if (guests === undefined) throw noMonitor(record.group ?? '');
    this.#input = input;
    this.#executor = executor;
    this.#guests = guests;
    this.#agent = new GuestAgent(guests, (what) => this.#tellLost(what));
    this.volumes = new Volumes({
      plug: async (device) => (await machine()).plug(device),
      unplug: async (device) => (await machine()).unplug(device),
      agent: this.#agent,
    });
    this.#stop = guests.onClosed((guest, reason) => {
      if (guest === GUEST) this.#tellLost(`the channel to it is ${reason}`);
    });
  }

  get isConnected(): boolean {
    return this.#guests.isConnected(GUEST);
  }

  async connect({ path }: AgentSocket): Promise<void> {
    const { bootDeadlineMs } = this.#input;
    try {
      await this.#guests.connect(GUEST, path, bootDeadlineMs, MACHINE_KEY);
    } catch (error) {
      const reason = error instanceof GuestError ? channelReason(error, bootDeadlineMs) : undefined;
      throw reason === undefined ? error : new Error(reason, { cause: error });
    }
  }

  /** The monitor has held the channel meanwhile. */
  resume(): void {
    if (!this.isConnected) this.#tellLost('the channel to it is gone');
  }

  onLost(listener: (reason: string) => void): () => void {
    this.#lost.add(listener);
    return () => this.#lost.delete(listener);
  }

  #tellLost(reason: string): void {
    for (const listener of this.#lost) listener(reason);
  }

  async setUp(id: string, { hostname, share, grown }: GuestSetup): Promise<void> {
    const mount = { device: { virtiofsTag: SHARE_TAG }, target: GUEST_SHARE, fstype: 'virtiofs' };
    await Promise.all([
      this.#agent.setup(id, hostname),
      share ? this.#agent.mount(id, mount) : undefined,
      grown ? this.onlineMemory('create', id) : undefined,
    ]);
  }

  /** Who comes while it is being mounted waits for that, and who comes after a failure tries again. */
  async mountShm(id: string, bytes: number): Promise<void> {
    if (this.#input.record.shm === true) return;
    this.#shm ??= this.#mountShm(id, bytes).finally(() => (this.#shm = undefined));
    await this.#shm;
  }

  async #mountShm(id: string, bytes: number): Promise<void> {
    const { record, save } = this.#input;
    const data = `mode=1777,size=${bytes}`;
    await this.#agent.mount(id, { source: 'shm', target: GUEST_SHM, fstype: 'tmpfs', data });
    record.shm = true;
    save();
  }

  async onlineMemory(op: string, id: string): Promise<void> {
    await this.#agent.call(op, id, { onlineMemory: {} });
  }

  async onlineCpus(op: string, id: string, count: number): Promise<void> {
    await this.#agent.call(
      op,
      id,
      { onlineCpus: { count, timeoutMs: CPUS_DEADLINE_MS } },
      2 * CPUS_DEADLINE_MS,
    );
  }

  /** Found by its hardware address. */
  cardPlugged(): void {}

  async configureNetwork(id: string, network: bulkhead.agent.v1.INetworkSetup): Promise<void> {
    await this.#agent.call('create', id, { network }, NETWORK_DEADLINE_MS);
  }

  functions(
    id: string,
    config: MachineConfig,
    hypervisor: Hypervisor,
    warn: (message: string) => void,
  ): Promise<GuestFunction[]> {
    return awaitFunctions(this.#agent, id, config, hypervisor, warn);
  }

  async launch({ id, spec, root, seccomp, options, stdio }: GuestLaunch): Promise<LaunchResult> {
    const rootfs = { path: root, mounts: [] };
    const plan = guestCreatePlan({ id, spec, rootfs, seccomp: seccomp(), options }, this.#warn(id));
    return this.#launch('create', id, plan, { ...stdio, stdinAtGate: true }).catch((error: unknown) => {
      throw nameMount(error, plan);
    });
  }

  async exec({ seccomp, stdio, gated, ...exec }: GuestExec): Promise<LaunchResult> {
    const { id, execId } = exec;
    const plan = guestExecPlan({ ...exec, seccomp: seccomp(), gated }, this.#warn(id));
    return this.#launch('exec', `${id}/${execId}`, plan, { ...stdio, stdinAtGate: gated });
  }

  async #launch(op: string, key: string, plan: LaunchPlan, stdio: StdioPaths): Promise<LaunchResult> {
    const launched = this.#executor.launch(key, encodePlan(plan), stdio, { guest: GUEST });
    const { pid, pausedAt } = await within(LAUNCH_DEADLINE_MS, launched, () => silent(op, key));
    if (Number.isInteger(pid) && pid > 0 && pid <= PID_MAX) return { pid, pausedAt };
    throw this.#agent.refuse(op, key, `process ${pid}`, 'tells of a process that there cannot be');
  }

  #warn(id: string): (message: string) => void {
    return (message) => this.#input.log.warning(message, { id });
  }

  /** The program is a file of the guest's own for no longer than it takes to execute it. */
  async run(id: string, process: GuestProcess): Promise<LaunchResult> {
    const { program, key, stdio } = process;
    const path = program.length === 0 ? undefined : `${GUEST_PROGRAMS}${key}`;
    if (path !== undefined)
      await this.#agent.writeFiles('guest exec', id, [{ path, data: program, create: true, mode: 0o700 }]);
    try {
      return await this.#launch('guest exec', key, guestProcessPlan(process, path), stdio);
    } finally {
      if (path !== undefined) await this.#agent.remove(id, [path]).catch(() => {});
    }
  }

  container(id: string): GuestContainer {
    return guestContainer(id, this.#agent, this.#warn(id));
  }

  close(): void {
    this.#stop();
    this.#lost.clear();
  }
}

/** Why there is no channel to the agent; the monitor's log has the bytes. undefined: not known. */
function channelReason({ code }: GuestError, deadlineMs: number): string | undefined {
  const reasons: Readonly<Record<string, string>> = {
    ETIMEDOUT: `its agent did not answer within ${deadlineMs / 1000} s`,
    ECONNRESET: 'its agent hung up, or said what no agent says',
  };
  return reasons[code];
}

function silent(op: string, key: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op,
    id: key,
    object: 'guest launch',
    reason: `no answer within ${LAUNCH_DEADLINE_MS / 1000} s`,
  });
}

/** A wall whose processes somebody has to hold for as long as they live. */
export function noMonitor(id: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: 'wall "vm"',
    reason: 'needs the monitor of a shim',
    remedy: 'run the container through containerd',
  });
}
