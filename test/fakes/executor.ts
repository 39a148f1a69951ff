/** A scripted executor: launches succeed with rising pids unless told otherwise; tests end processes by `exit`. */
import { LaunchError } from '../../src/sandbox/executor.ts';
import type {
  Executor,
  LaunchFailure,
  LaunchResult,
  ProcessExit,
  StdioPaths,
} from '../../src/sandbox/executor.ts';

interface FakeProcess {
  pid: number;
  running: boolean;
  exited: boolean;
}

export class FakeExecutor implements Executor {
  readonly calls: string[] = [];
  readonly processes = new Map<string, FakeProcess>();
  /** Makes the next launch or proceed of a key fail. */
  readonly failures = new Map<string, LaunchFailure>();
  /** The first gate of a launch, by key; empty: none. */
  gate: (key: string) => string = () => 'start';
  #listeners = new Set<(exit: ProcessExit) => void>();
  /** Of all launches; undefined: rising ones. */
  pid: number | undefined;
  #nextPid = 1000;

  launch(key: string, _plan: Uint8Array, _stdio: StdioPaths): Promise<LaunchResult> {
    this.calls.push(`launch ${key}`);
    const failed = this.#failure(key);
    if (failed !== undefined) return Promise.reject(failed);
    const pausedAt = this.gate(key);
    const process = { pid: this.pid ?? this.#nextPid++, running: pausedAt === '', exited: false };
    this.processes.set(key, process);
    return Promise.resolve({ pid: process.pid, pausedAt });
  }

  proceed(key: string): Promise<LaunchResult> {
    this.calls.push(`proceed ${key}`);
    const failed = this.#failure(key);
    if (failed !== undefined) {
      this.exit(key, 1 << 8);
      return Promise.reject(failed);
    }
    const process = this.#process(key);
    process.running = true;
    return Promise.resolve({ pid: process.pid, pausedAt: '' });
  }

  signal(key: string, signum: number): Promise<void> {
    this.calls.push(`signal ${key} ${signum}`);
    const process = this.processes.get(key);
    if (process === undefined || process.exited) {
      return Promise.reject(Object.assign(new Error('no such process'), { code: 'ESRCH' }));
    }
    if (signum !== 9) return Promise.resolve();
    this.exit(key, 9);
    // The kernel ends what else is in the pid namespace of an init.
    for (const other of this.processes.keys()) if (other.startsWith(`${key}/`)) this.exit(other, 9);
    return Promise.resolve();
  }

  resize(key: string, width: number, height: number): Promise<void> {
    this.calls.push(`resize ${key} ${width}x${height}`);
    return Promise.resolve();
  }

  closeStdin(key: string): Promise<void> {
    this.calls.push(`close-stdin ${key}`);
    return Promise.resolve();
  }

  forget(key: string): Promise<void> {
    this.calls.push(`forget ${key}`);
    this.processes.delete(key);
    return Promise.resolve();
  }

  onExit(listener: (exit: ProcessExit) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends a process with a wait status as waitpid(2) gives it. */
  exit(key: string, waitStatus: number): void {
    const process = this.#process(key);
    if (process.exited) return;
    process.exited = true;
    for (const listener of this.#listeners)
      listener({ key, pid: process.pid, waitStatus, exitedAtNs: 1_700_000_000_000_000_000 });
  }

  #process(key: string): FakeProcess {
    const process = this.processes.get(key);
    if (process === undefined) throw new Error(`fake executor: no process ${key}`);
    return process;
  }

  #failure(key: string): LaunchError | undefined {
    const failure = this.failures.get(key);
    this.failures.delete(key);
    return failure === undefined ? undefined : new LaunchError(failure);
  }
}
