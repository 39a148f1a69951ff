/** A hypervisor, its machine and the guest's agent, all scripted: they do what they are told and say what they were. */
import { bulkhead } from '../../src/gen/bulkhead.js';
import type { LaunchPlan } from '../../src/plan/inputs.ts';
import { decodePlan } from '../../src/plan/encode.ts';
import {
  GuestError,
  type Guests,
  type LaunchOptions,
  type LaunchResult,
  type StdioPaths,
} from '../../src/sandbox/executor.ts';
import type {
  Hypervisor,
  Machine,
  MachineConfig,
  MachineDevice,
  MachineEvent,
  MachineLaunch,
} from '../../src/sandbox/vm/hypervisor/hypervisor.ts';
import { FakeExecutor } from './executor.ts';

const { Call, CallReply, Event } = bulkhead.agent.v1;
type ICall = bulkhead.agent.v1.ICall;
type ICallReply = bulkhead.agent.v1.ICallReply;

/** The monitor's side: the channel to one guest, whose agent answers by a function. */
export class FakeGuests implements Guests {
  /** Of every call, its kind: "setup", "mount /run/bulkhead/share". */
  readonly calls: string[] = [];
  readonly asked: ICall[] = [];
  connected = false;
  /** Why connect() rejects; undefined: the agent says Hello. */
  refusal: GuestError | undefined;
  answer: (call: ICall) => ICallReply = () => ({});
  /** Instead of an answer, its bytes. */
  raw: ((call: ICall) => Uint8Array | undefined) | undefined;
  #events = new Set<(guest: string, event: Uint8Array) => void>();
  #closed = new Set<(guest: string, reason: string) => void>();

  async connect(): Promise<Uint8Array> {
    if (this.refusal !== undefined) throw this.refusal;
    this.connected = true;
    return new Uint8Array();
  }

  async call(_guest: string, bytes: Uint8Array): Promise<Uint8Array> {
    const call = Call.decode(bytes);
    const kind = call.call ?? '';
    this.asked.push(call);
    const target = call.mount?.target ?? call.unmount?.target;
    const paths = call.writeFiles?.files?.map(({ path }) => path) ?? call.remove?.paths;
    this.calls.push([kind, target ?? paths?.join() ?? ''].filter((word) => word !== '').join(' '));
    const bare = this.raw?.(call);
    if (bare !== undefined) return bare;
    const reply = CallReply.encode(this.answer(call)).finish();
    const failure = CallReply.decode(reply).failure;
    if (failure === undefined || failure === null) return reply;
    throw new GuestError('refused', { code: '', errno: failure.errno ?? 0, what: '', reply });
  }

  isConnected(): boolean {
    return this.connected;
  }

  onEvent(listener: (guest: string, event: Uint8Array) => void): () => void {
    this.#events.add(listener);
    return () => this.#events.delete(listener);
  }

  onClosed(listener: (guest: string, reason: string) => void): () => void {
    this.#closed.add(listener);
    return () => this.#closed.delete(listener);
  }

  oom(cgroup: string): void {
    this.event(Event.encode({ oom: { cgroup } }).finish());
  }

  event(bytes: Uint8Array): void {
    for (const each of this.#events) each('vm', bytes);
  }

  close(reason: string): void {
    this.connected = false;
    for (const each of this.#closed) each('vm', reason);
  }
}

interface Launch {
  key: string;
  plan: LaunchPlan;
  options: LaunchOptions | undefined;
}

/** A monitor with a way into a guest. */
export class FakeMonitorExecutor extends FakeExecutor {
  readonly guests = new FakeGuests();
  readonly launches: Launch[] = [];

  override launch(
    key: string,
    plan: Uint8Array,
    stdio: StdioPaths,
    options?: LaunchOptions,
  ): Promise<LaunchResult> {
    this.launches.push({ key, plan: decodePlan(plan), options });
    return super.launch(key, plan, stdio);
  }

  launched(key: string): Launch | undefined {
    return this.launches.findLast((each) => each.key === key);
  }

  /** A process that the monitor does not know any more. */
  override forget(key: string): Promise<void> {
    if (this.processes.has(key)) return super.forget(key);
    return Promise.reject(Object.assign(new Error('no such process'), { code: 'ESRCH' }));
  }
}

export class FakeHypervisor implements Hypervisor {
  readonly name = 'qemu';
  /** What was done to it and to its machine, in order. */
  readonly calls: string[] = [];
  readonly plugged: MachineDevice[] = [];
  /** Makes the call of that name fail. */
  readonly failures = new Map<string, Error>();

  readonly #listeners = new Set<(event: MachineEvent) => void>();

  /** Of its machines. */
  tell(event: MachineEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  functionPaths({ functions = [] }: MachineConfig): string[] {
    return functions.map((_, index) => `05.${index}/00.0`);
  }

  async prepare(config: MachineConfig): Promise<MachineLaunch> {
    this.did('prepare');
    return {
      config,
      program: '/bin/hypervisor',
      args: ['hypervisor'],
      env: [],
      listen: [],
      files: [],
      stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
      agent: { path: `${config.dir}/agent.sock` },
      ready: Promise.resolve(),
      release: () => void this.calls.push('release'),
    };
  }

  async attach({ config }: MachineLaunch): Promise<Machine> {
    this.did('attach');
    return this.#machine(config);
  }

  async reattach(config: MachineConfig): Promise<Machine> {
    this.did('reattach');
    return this.#machine(config);
  }

  #machine(config: MachineConfig): Machine {
    const done = async (call: string): Promise<void> => this.did(call);
    return {
      config,
      plug: async (device) => {
        this.did(`plug ${device.kind}`);
        this.plugged.push(device);
        return { pciPath: '0000:00:02.3/00.0' };
      },
      unplug: (id) => done(`unplug ${id}`),
      growMemory: (mib) => done(`grow ${mib}`),
      addVcpus: (count) => done(`vcpus ${count}`),
      vcpuThreads: async () => [501, 502],
      stop: () => done('stop'),
      cont: () => done('cont'),
      status: async () => ({ running: true, state: 'running' }),
      quit: () => done('quit'),
      onEvent: (listener) => {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
      },
      close: () => void this.calls.push('close'),
    };
  }

  did(call: string): void {
    this.calls.push(call);
    const failure = this.failures.get(call);
    if (failure !== undefined) throw failure;
  }
}
