import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Metadata } from './codec.ts';

/** Who called. The engine puts the monitor behind it; `name` is for log lines. */
export interface Peer {
  readonly name: string;
}

export interface CallDetails<P> {
  service: string;
  method: string;
  metadata: Metadata;
  peer: P;
  /** Milliseconds from now; absent: no limit. */
  timeoutMs?: number | undefined;
}

/** setTimeout takes a 32-bit number of milliseconds; 24.8 days are as good as no deadline. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** One call under way: what came with it, and when to stop. */
export class CallContext<P = Peer> {
  readonly service: string;
  readonly method: string;
  readonly metadata: Metadata;
  readonly peer: P;
  /** Milliseconds since the epoch. */
  readonly deadline: number | undefined;
  #controller: AbortController | undefined;
  #cancelled: RuntimeError | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #onCancel: ((reason: RuntimeError) => void) | undefined;

  /** `onCancel` hears of the deadline and of `cancel`, once at most, and not after `finish`. */
  constructor(details: CallDetails<P>, onCancel?: (reason: RuntimeError) => void) {
    this.service = details.service;
    this.method = details.method;
    this.metadata = details.metadata;
    this.peer = details.peer;
    this.#onCancel = onCancel;
    const { timeoutMs } = details;
    if (timeoutMs === undefined) return;
    this.deadline = Date.now() + timeoutMs;
    if (timeoutMs > LONGEST_TIMER_MS) return;
    this.#timer = setTimeout(() => this.cancel(this.#late(timeoutMs)), timeoutMs);
    this.#timer.unref();
  }

  /** containerd's namespace of the call; ttrpc and gRPC name the header differently. */
  get namespace(): string | undefined {
    return (this.metadata.get('containerd-namespace-ttrpc') ??
      this.metadata.get('containerd-namespace'))?.[0];
  }

  /** Aborted, with a RuntimeError as reason, at the deadline or when the caller's connection closes. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#cancelled !== undefined) this.#controller.abort(this.#cancelled);
    }
    return this.#controller.signal;
  }

  cancel(reason: RuntimeError): void {
    if (this.#cancelled !== undefined) return;
    this.#cancelled = reason;
    this.finish();
    this.#controller?.abort(reason);
    this.#onCancel?.(reason);
  }

  /** The call was answered: no deadline any more. */
  finish(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #late(timeoutMs: number): RuntimeError {
    return new RuntimeError({
      code: ErrorCode.DeadlineExceeded,
      op: this.method,
      reason: `not done within ${timeoutMs} ms`,
    });
  }
}
