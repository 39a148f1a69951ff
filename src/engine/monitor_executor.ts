/**
 * The Executor of the shim: launches through a monitor (native/shim) over its connection. Requests are numbered; the
 * answers come in any order. Exits are told after the answer of the launch they belong to (the monitor sees to it).
 */
import { errnoName, errnoText } from '../base/errno.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import { LaunchError } from '../sandbox/executor.ts';
import { HeldProcesses } from './held_processes.ts';
import { MonitorGuests } from './monitor_guests.ts';
import type {
  Executor,
  HeldProcess,
  LaunchOptions,
  LaunchResult,
  ProcessExit,
  StdioPaths,
} from '../sandbox/executor.ts';

type ToMonitor = bulkhead.executor.v1.IToMonitor;
type ToEngine = bulkhead.executor.v1.ToEngine;
type ILaunchFailed = bulkhead.executor.v1.ILaunchFailed;

interface Pending {
  /** The process that waited at its gate; it is gone when it could not go on. */
  continued: string | undefined;
  resolve: (result: LaunchResult) => void;
  reject: (error: Error) => void;
}

/** Wait status of an exit with 1, as runc's init ends when its last step fails. */
const EXIT_1 = 1 << 8;

export class MonitorExecutor implements Executor {
  readonly guests: MonitorGuests;
  readonly #send: (message: ToMonitor) => void;
  readonly #pending = new Map<number, Pending>();
  readonly #held = new HeldProcesses();
  readonly #exitListeners = new Set<(exit: ProcessExit) => void>();
  #nextRequest = 1;

  /** @param guests whose channel the monitor holds already */
  constructor(send: (message: ToMonitor) => void, guests: readonly string[] = []) {
    this.#send = send;
    this.guests = new MonitorGuests(send, () => this.#nextRequest++, guests);
  }

  hold(key: string, process: HeldProcess): (exit: Omit<ProcessExit, 'key'>) => void {
    this.#held.add(key, process);
    return (exit) => this.#tellExit({ key, ...exit });
  }

  launch(
    key: string,
    plan: Uint8Array,
    stdio: StdioPaths,
    { diesWith = '', guest = '', holdMounts = false }: LaunchOptions = {},
  ): Promise<LaunchResult> {
    return this.#request((request) => ({
      launch: { request, key, plan, stdio, diesWith, guest, holdMounts },
    }));
  }

  proceed(key: string): Promise<LaunchResult> {
    return (
      this.#held.get(key)?.proceed() ?? this.#request((request) => ({ continue: { request, key } }), key)
    );
  }

  async signal(key: string, signum: number): Promise<void> {
    await (this.#held.get(key)?.signal(signum) ??
      this.#request((request) => ({ signal: { request, key, signal: signum } })));
  }

  async resize(key: string, width: number, height: number): Promise<void> {
    await (this.#held.get(key)?.resize(width, height) ??
      this.#request((request) => ({ resize: { request, key, width, height } })));
  }

  async closeStdin(key: string): Promise<void> {
    await (this.#held.get(key)?.closeStdin() ??
      this.#request((request) => ({ closeStdin: { request, key } })));
  }

  async forget(key: string): Promise<void> {
    await (this.#held.forget(key) ?? this.#request((request) => ({ forget: { request, key } })));
  }

  onExit(listener: (exit: ProcessExit) => void): () => void {
    this.#exitListeners.add(listener);
    return () => this.#exitListeners.delete(listener);
  }

  /** Takes a message of the monitor; false when it is none of the executor's. */
  handle(message: ToEngine): boolean {
    if (message.launched) {
      const { request, pid, pausedAt } = message.launched;
      this.#take(request)?.resolve({ pid: pid ?? 0, pausedAt: pausedAt ?? '' });
    } else if (message.started) {
      this.#take(message.started.request)?.resolve({ pid: message.started.pid ?? 0, pausedAt: '' });
    } else if (message.launchFailed) {
      this.#launchFailed(message.launchFailed);
    } else if (message.reply) {
      this.#reply(message.reply.request, message.reply.errno ?? 0);
    } else if (message.exited) {
      const { key, pid, waitStatus, exitedAtNs, outputWaits, executed } = message.exited;
      const exit = {
        key: key ?? '',
        pid: pid ?? 0,
        waitStatus: waitStatus ?? 0,
        exitedAtNs: exitedAtNs ?? 0,
        ...(outputWaits === true && { outputWaits }),
        ...(executed === true && { executed }),
      };
      this.#tellExit(exit);
    } else {
      return this.guests.handle(message);
    }
    return true;
  }

  /** The monitor forgets what failed. Of a process that was there already, an exit is waited for. */
  #launchFailed(failed: ILaunchFailed): void {
    const pending = this.#take(failed.request);
    const error = launchError(failed);
    pending?.reject(error);
    if (pending?.continued === undefined) return;
    const waitStatus = error.failure.index === undefined ? error.failure.status : EXIT_1;
    this.#tellExit({ key: pending.continued, pid: 0, waitStatus, exitedAtNs: Date.now() * 1e6 });
  }

  #tellExit(exit: ProcessExit): void {
    for (const listener of this.#exitListeners) listener(exit);
  }

  /** The monitor is gone: everything under way fails. */
  close(): void {
    const error = Object.assign(new Error('the monitor of this shim is gone'), { code: 'ECONNRESET' });
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    this.guests.close(error);
  }

  #request(build: (request: number) => ToMonitor, continued?: string): Promise<LaunchResult> {
    const request = this.#nextRequest++;
    return new Promise((resolve, reject) => {
      this.#pending.set(request, { continued, resolve, reject });
      this.#send(build(request));
    });
  }

  #take(request: number | null | undefined): Pending | undefined {
    const pending = this.#pending.get(request ?? 0);
    this.#pending.delete(request ?? 0);
    return pending;
  }

  #reply(request: number | null | undefined, errno: number): void {
    const pending = this.#take(request);
    if (errno === 0) pending?.resolve({ pid: 0, pausedAt: '' });
    else pending?.reject(Object.assign(new Error(errnoText(errno)), { errno, code: errnoName(errno) }));
  }
}

function launchError(failed: ILaunchFailed): LaunchError {
  const { step } = failed;
  return new LaunchError({
    index: step ? (step.index ?? 0) : undefined,
    action: step ? (step.action ?? 0) : undefined,
    path: (step ? step.path : failed.path) ?? '',
    errno: (step ? step.errno : failed.errno) ?? 0,
    detail: step?.detail ?? '',
    status: step?.status ?? failed.waitStatus ?? 0,
    op: failed.op ?? '',
  });
}
