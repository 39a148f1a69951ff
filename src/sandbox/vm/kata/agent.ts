/**
 * Kata's agent in a pod's guest, as the wall sees any agent (pod_agent.ts). The engine holds the connection: a new
 * engine connects anew, which vsock allows at any time, and takes the processes up again by their keys.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';
import type { bulkhead } from '../../../gen/bulkhead.js';
import type { HeldProcess, HeldState, LaunchResult } from '../../executor.ts';
import { noMonitor } from '../bulkhead_agent.ts';
import type { GuestFunction } from '../functions.ts';
import type { AgentSocket, MachineConfig, NetDevice, Placement } from '../hypervisor/hypervisor.ts';
import { KILL_PAUSE_MS } from '../kills.ts';
import { MACHINE_KEY } from '../layout.ts';
import type {
  AgentInput,
  GuestContainer,
  GuestExec,
  GuestLaunch,
  GuestSetup,
  PodAgent,
  RecalledProcess,
} from '../pod_agent.ts';
import { connectAgent } from './connect.ts';
import { kataContainer } from './container.ts';
import { kataPlaces } from './layout.ts';
import { kataNetwork } from './network.ts';
import { KataProcess } from './process.ts';
import type { CallScope, KataRpc, MethodName, OpenRpc, RequestOf, ResponseOf } from './rpc.ts';
import { kataProcess, kataSpec } from './spec.ts';
import { kataPciPath, shareStorage, shmStorage, type Storage } from './storage.ts';
import { KataVolumes } from './volumes.ts';

const ENTROPY_BYTES = 256;
/** Storages are waited for by the agent, and a snapshot's first mount may be slow. */
const CREATE_DEADLINE_MS = 60_000;
const END_DEADLINE_MS = 15_000;
/** Of a machine that an earlier engine has left; when there are many, all are asked at once. */
const RESUME_DEADLINE_MS = 30_000;

export class KataAgent implements PodAgent {
  readonly places = kataPlaces;
  readonly volumes: KataVolumes;
  readonly #input: AgentInput;
  readonly #open: OpenRpc;
  readonly #lost = new Set<(reason: string) => void>();
  readonly #oom = new Map<string, Set<() => void>>();
  /** Where the guest finds each card, by its hardware address. */
  readonly #cards = new Map<string, string>();
  readonly #shm = new Map<string, Storage>();
  readonly #ended = new AbortController();
  readonly #stop: () => void;
  #rpc: Promise<KataRpc> | undefined;
  #seccomp = true;
  #isGone = false;

  /** @throws RuntimeError FailedPrecondition when nobody holds processes here (command line) */
  constructor(input: AgentInput, open: OpenRpc) {
    if (input.executor.hold === undefined) throw noMonitor(input.record.group ?? '');
    this.#input = input;
    this.#open = open;
    this.volumes = new KataVolumes({ ...input, unmountAll: (id) => this.#unmountAll(id) });
    this.#stop = input.executor.onExit(({ key }) => {
      if (key === MACHINE_KEY) this.#ended.abort();
    });
  }

  get isConnected(): boolean {
    return this.#rpc !== undefined && !this.#isGone;
  }

  async connect(socket: AgentSocket): Promise<void> {
    const { record, save, bootDeadlineMs } = this.#input;
    record.agentSocket = Buffer.from(JSON.stringify(socket));
    save();
    await this.#connect(socket, bootDeadlineMs, false);
  }

  async #connect(socket: AgentSocket, deadlineMs: number, runs: boolean): Promise<void> {
    const { record, log } = this.#input;
    const id = record.group ?? '';
    this.#rpc = connectAgent({ id, socket, deadlineMs, open: this.#open, signal: this.#ended.signal, runs });
    try {
      const scope = { op: 'create', id };
      const { protocol, agent } = await this.#call('Version', {}, scope);
      const { agentDetails } = await this.#call('GetGuestDetails', { memBlockSize: true }, scope);
      this.#seccomp = agentDetails?.supportsSeccomp ?? false;
      log.debug("kata's agent answers", { id, version: agent, protocol, seccomp: this.#seccomp });
    } catch (error) {
      this.#rpc.then((rpc) => rpc.close()).catch(() => {});
      this.#rpc = undefined;
      throw error;
    }
    void this.#watchOom();
  }

  /** The processes that the pod's containers have are held again by whoever asks for them (recall). */
  resume(): void {
    const socket = Buffer.from(this.#input.record.agentSocket ?? []).toString();
    this.#connect(JSON.parse(socket || '{"path":""}') as AgentSocket, RESUME_DEADLINE_MS, true).catch(
      (error: unknown) => this.#tellLost((error as Error).message),
    );
  }

  onLost(listener: (reason: string) => void): () => void {
    this.#lost.add(listener);
    return () => this.#lost.delete(listener);
  }

  #tellLost(reason: string): void {
    if (this.#isGone) return;
    this.#isGone = true;
    for (const listener of this.#lost) listener(reason);
  }

  async #call<N extends MethodName>(
    name: N,
    request: RequestOf<N>,
    scope: CallScope,
  ): Promise<ResponseOf<N>> {
    const { op, id } = scope;
    if (this.#rpc === undefined || this.#isGone) throw gone(op, id);
    const rpc = await this.#rpc;
    try {
      return await rpc.call(name, request, scope);
    } catch (error) {
      // The agent itself says "unavailable" too: of a terminal that is not there.
      if (!rpc.open) this.#tellLost('its agent hung up');
      throw error;
    }
  }

  /** One call at a time tells of one kill each; that none is under way any more says when the agent has gone. */
  async #watchOom(): Promise<void> {
    const id = this.#input.record.group ?? '';
    for (;;) {
      try {
        const { containerId } = await this.#call('GetOOMEvent', {}, { op: 'watch', id });
        for (const listener of this.#oom.get(containerId) ?? []) listener();
        // One that answers at once, always, would keep the engine busy.
        await sleep(KILL_PAUSE_MS, undefined, { ref: false });
      } catch (error) {
        if (this.#isGone) return;
        // An agent without this call is asked no more.
        return this.#input.log.warning('no news of memory limits', { id, error: (error as Error).message });
      }
    }
  }

  async setUp(id: string, { hostname, share, grown }: GuestSetup): Promise<void> {
    const scope = { op: 'create', id };
    // Another name than any container's: the agent does not watch the memory of a container of the sandbox's name.
    const sandboxId = `pod-${this.#input.record.group ?? ''}`;
    const storages = share ? [shareStorage] : [];
    await this.#call('CreateSandbox', { hostname, sandboxId, storages }, scope);
    const now = Date.now();
    const time = { seconds: Math.floor(now / 1000), microseconds: (now % 1000) * 1000 };
    await Promise.all([
      this.#call('SetGuestDateTime', time, scope),
      this.#call('ReseedRandomDev', { data: randomBytes(ENTROPY_BYTES) }, scope),
      grown ? this.onlineMemory('create', id) : undefined,
    ]);
  }

  mountShm(id: string, bytes: number): Promise<void> {
    this.#shm.set(id, shmStorage(bytes));
    return Promise.resolve();
  }

  async onlineMemory(op: string, id: string): Promise<void> {
    await this.#call('OnlineCPUMem', { wait: true }, { op, id });
  }

  cardPlugged({ mac }: NetDevice, placement: Placement): void {
    this.#cards.set(mac, kataPciPath(placement));
  }

  async configureNetwork(id: string, setup: bulkhead.agent.v1.INetworkSetup): Promise<void> {
    const scope = { op: 'create', id };
    const network = kataNetwork(setup, this.#cards);
    network.ignored.forEach(this.#warn(id));
    for (const each of network.interfaces) await this.#call('UpdateInterface', { interface: each }, scope);
    const { interfaces } = await this.#call('ListInterfaces', {}, scope);
    const missing = network.interfaces.find(({ name }) => !interfaces.some((found) => found.name === name));
    if (missing !== undefined) throw noInterface(id, missing.name ?? '');
    if (network.routes.length > 0)
      await this.#call('UpdateRoutes', { routes: { routes: network.routes } }, scope);
    const { neighbors } = network;
    if (neighbors.length > 0) await this.#call('AddARPNeighbors', { neighbors: { neighbors } }, scope);
  }

  functions(id: string, { functions = [] }: MachineConfig): Promise<GuestFunction[]> {
    if (functions.length === 0) return Promise.resolve([]);
    return Promise.reject(
      new RuntimeError({
        code: ErrorCode.Unimplemented,
        op: 'create',
        id,
        object: `device ${functions[0]?.address}`,
        reason: "functions of the host are not handed to Kata's agent",
        remedy: 'use our own agent (vm.agent = "bulkhead")',
      }),
    );
  }

  async launch({ id, spec, root, stdio }: GuestLaunch): Promise<LaunchResult> {
    const scope = { op: 'create', id };
    const { spec: oci, sharesPids } = kataSpec(id, spec, root, this.#warn(id));
    if (oci.linux?.seccomp !== undefined && !this.#seccomp) throw noSeccomp(id);
    const process = await this.#process(id, '', stdio, () => this.#startContainer(id));
    const shm = this.#shm.get(id);
    const storages = [...this.volumes.take(id), ...(shm === undefined ? [] : [shm])];
    const request = { containerId: id, execId: id, oci, storages, sandboxPidns: sharesPids };
    try {
      await this.#call('CreateContainer', request, { ...scope, deadlineMs: CREATE_DEADLINE_MS });
    } catch (error) {
      process.abandon();
      await this.#remove(id).catch(() => {});
      throw error;
    }
    return this.#hold(process, 'start');
  }

  async exec({ id, execId, process, stdio, gated }: GuestExec): Promise<LaunchResult> {
    const scope = { op: 'exec', id: `${id}/${execId}` };
    const oci = kataProcess('exec', scope.id, process, this.#warn(scope.id));
    const start = (): Promise<unknown> =>
      this.#call('ExecProcess', { containerId: id, execId, process: oci }, scope);
    const held = await this.#process(id, execId, stdio, start);
    if (gated) return this.#hold(held, 'start');
    try {
      await start();
    } catch (error) {
      held.abandon();
      throw error;
    }
    const result = this.#hold(held, '');
    held.running();
    return result;
  }

  /** Whether one was started is what this side has noted: the agent is not asked. */
  async recall(processes: readonly RecalledProcess[]): Promise<HeldState[]> {
    const rpc = await this.#rpc?.catch(() => undefined);
    if (rpc === undefined) return [];
    const { record } = this.#input;
    const held: HeldState[] = [];
    for (const { containerId, execId, stdio } of processes) {
      const process = await this.#process(containerId, execId, stdio, () =>
        this.#startContainer(containerId),
      );
      const running = (record.started ?? []).includes(process.key);
      if (execId !== '' && !running) {
        // It is asked for anew, with its configuration.
        process.abandon();
        continue;
      }
      this.#hold(process, '');
      if (running) process.running();
      held.push({ key: process.key, pid: record.pid ?? 0, running });
    }
    return held;
  }

  #startContainer(containerId: string): Promise<unknown> {
    return this.#call('StartContainer', { containerId }, { op: 'start', id: containerId });
  }

  async #process(
    containerId: string,
    execId: string,
    stdio: GuestLaunch['stdio'],
    start: () => Promise<unknown>,
  ): Promise<KataProcess> {
    if (this.#rpc === undefined) throw gone('create', containerId);
    const rpc = await this.#rpc;
    const { record, save, log } = this.#input;
    const note = (key: string, started: boolean): void => {
      const others = (record.started ?? []).filter((each) => each !== key);
      record.started = started ? [...others, key] : others;
      // What is forgotten may be so after its machine's directory has gone; whatever is saved next has it.
      if (started) save();
    };
    return new KataProcess({ rpc, containerId, execId, pid: record.pid ?? 0, stdio, start, note, log });
  }

  /** A container's first process is there before its start; an exec comes with it. */
  #hold(process: KataProcess, pausedAt: string): LaunchResult {
    const { executor, record } = this.#input;
    const held: HeldProcess = process;
    const tell = executor.hold?.(process.key, held);
    if (tell !== undefined) process.heldBy(tell);
    if (!process.isExec) process.watch();
    return { pid: record.pid ?? 0, pausedAt };
  }

  container(id: string): GuestContainer {
    return kataContainer(id, {
      pid: this.#input.record.pid ?? 0,
      call: (name, request, scope) => this.#call(name, request, scope),
      remove: () => this.#remove(id),
      warn: this.#warn(id),
      watchOom: (onOom) => this.#onOom(id, onOom),
    });
  }

  async #remove(id: string): Promise<void> {
    this.#shm.delete(id);
    await this.volumes.detach(id);
    await this.#call('RemoveContainer', { containerId: id, timeout: 10 }, { op: 'delete', id });
  }

  /** DestroySandbox ends the agent, and a guest whose first process it is. */
  async #unmountAll(id: string): Promise<void> {
    await this.#remove(id);
    await this.#call('DestroySandbox', {}, { op: 'delete', id, deadlineMs: END_DEADLINE_MS });
  }

  #onOom(id: string, onOom: () => void): () => void {
    const listeners = this.#oom.get(id) ?? new Set();
    this.#oom.set(id, listeners);
    listeners.add(onOom);
    return () => {
      listeners.delete(onOom);
      if (listeners.size === 0) this.#oom.delete(id);
    };
  }

  #warn(id: string): (message: string) => void {
    return (message) => this.#input.log.warning(message, { id });
  }

  close(): void {
    this.#stop();
    this.#lost.clear();
    this.#isGone = true;
    this.#ended.abort();
    this.#rpc?.then(
      (rpc) => rpc.close(),
      () => {},
    );
  }
}

function gone(op: string, id: string): RuntimeError {
  const reason = 'there is no connection to its agent any more';
  return new RuntimeError({ code: ErrorCode.Unavailable, op, id, object: 'virtual machine', reason });
}

function noInterface(id: string, name: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.Internal,
    op: 'create',
    id,
    object: `guest interface ${name}`,
    reason: 'the agent has accepted it, and does not list it',
  });
}

function noSeccomp(id: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: 'config.json: linux.seccomp',
    reason: 'the agent of this guest image was built without seccomp',
    remedy: 'use an image with seccomp, or our own agent (vm.agent = "bulkhead")',
  });
}
