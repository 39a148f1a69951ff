/**
 * Launches plans by the addon, as promises: events are queued, and a caller asks how far the process came.
 *
 *   const launched = new Launcher(initPath).launch({ plan, stdio });
 *   await launched.advance();        // { pid, pausedAt: 'start' }
 *   launched.proceed();
 *   await launched.advance();        // { pid, pausedAt: '' }: execve has succeeded
 *   await launched.exited;           // { pid, waitStatus, exitedAtNs }
 */
import type { Addon, LaunchEvent, LaunchHandle, StepFailure } from './addon.d.ts';
import { addon } from './index.ts';

export interface LaunchProgress {
  pid: number;
  /** The gate at which the process waits; empty when execve has succeeded. */
  pausedAt: string;
}

export interface LaunchExit {
  /** 0 when the process was abandoned before there was one. */
  pid: number;
  /** As waitpid(2) gives it. */
  waitStatus: number;
  /** CLOCK_REALTIME in nanoseconds, when the event came. */
  exitedAtNs: number;
}

/** A step failed, or the process died before execve (`failure.action` is 0 then). */
export class LaunchFailedError extends Error {
  override readonly name = 'LaunchFailedError';
  readonly failure: StepFailure;

  constructor(failure: StepFailure) {
    super(`launch: step ${failure.index}: ${failure.detail || 'failed'}`);
    this.failure = failure;
  }
}

export interface LaunchInput {
  /** Encoded bulkhead.plan.v1.LaunchPlan. */
  plan: Uint8Array;
  /** Descriptors that become 0, 1 and 2; borrowed. Default: /dev/null. */
  stdio?: [number, number, number];
  /** Descriptors that become 3, 4, …; borrowed. */
  extraFds?: number[];
  onWarning?: (failure: StepFailure) => void;
}

type Outcome = { progress: LaunchProgress } | { failure: StepFailure };

export class Launched {
  /** Never rejects; stays pending after release(). */
  readonly exited: Promise<LaunchExit>;
  /** The pty master that Terminal sends, before the first gate. Whoever takes it closes it. */
  console: number | undefined;
  readonly #handle: LaunchHandle;
  readonly #onWarning: (failure: StepFailure) => void;
  readonly #outcomes: Outcome[] = [];
  #waiting: ((outcome: Outcome) => void) | undefined;
  /** What advance() answers once the process has ended. */
  #end: Outcome | undefined;
  #resolveExit: (exit: LaunchExit) => void = () => {};

  constructor(native: Addon, initPath: string, input: LaunchInput) {
    this.#onWarning = input.onWarning ?? (() => {});
    this.exited = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
    const { plan, stdio = [-1, -1, -1], extraFds } = input;
    const options = { initPath, plan, stdio, ...(extraFds === undefined ? {} : { extraFds }) };
    this.#handle = native.launch(options, (event) => this.#on(event));
  }

  get pid(): number {
    return this.#handle.pid;
  }

  /**
   * Resolves when the process waits at its next gate or runs; call once for the launch and once after each proceed().
   * Rejects with LaunchFailedError; detail "exited" when nothing more can come, as after abandon().
   */
  async advance(): Promise<LaunchProgress> {
    const outcome = this.#outcomes.shift() ?? this.#end ?? (await this.#next());
    if ('failure' in outcome) throw new LaunchFailedError(outcome.failure);
    return outcome.progress;
  }

  /** Opens the gate at which the process waits. Throws EINVAL when it waits at none, ESRCH when it is gone. */
  proceed(): void {
    this.#handle.proceed();
  }

  /** Makes a process that has not reached execve leave at its gate. */
  abandon(): void {
    this.#handle.abandon();
  }

  /** Throws ESRCH when it has ended. */
  signal(signum: number): void {
    this.#handle.signal(signum);
  }

  /** Lets it live on without us: no more events. */
  release(): void {
    this.#handle.release();
  }

  get over(): boolean {
    return this.#end !== undefined;
  }

  #next(): Promise<Outcome> {
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  #on(event: LaunchEvent): void {
    switch (event.type) {
      case 'cloned':
        return;
      case 'paused':
        return this.#settle({ progress: { pid: event.pid, pausedAt: event.point } });
      case 'started':
        return this.#settle({ progress: { pid: event.pid, pausedAt: '' } });
      case 'failed':
        return this.#settle({ failure: event.failure });
      case 'console':
        this.console = event.fd;
        return;
      case 'warning':
        return this.#onWarning(event.failure);
      case 'exited': {
        const { pid, waitStatus } = event;
        this.#end = { failure: exitedFailure(waitStatus) };
        this.#waiting?.(this.#end);
        this.#waiting = undefined;
        return this.#resolveExit({ pid, waitStatus, exitedAtNs: Date.now() * 1e6 });
      }
    }
  }

  #settle(outcome: Outcome): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) this.#outcomes.push(outcome);
    else waiting(outcome);
  }
}

function exitedFailure(status: number): StepFailure {
  return { index: 0, action: 0, path: '', errno: 0, detail: 'exited', status, output: '' };
}

export class Launcher {
  readonly #initPath: string;
  readonly #native: () => Addon;

  /** `initPath`: bulkhead-init. */
  constructor(initPath: string, native: () => Addon = addon) {
    this.#initPath = initPath;
    this.#native = native;
  }

  /** Starts bulkhead-init with the plan. Throws an AddonError when not even that works. */
  launch(input: LaunchInput): Launched {
    return new Launched(this.#native(), this.#initPath, input);
  }
}
