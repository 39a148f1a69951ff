import { ErrorCode, RuntimeError } from '../../base/errors.ts';

/**
 * ttrpc has no flow control. containerd's server waits a second for a slow reader of 64 messages and then gives the
 * stream up; a handler here may fall behind by this much before the stream ends with ResourceExhausted.
 */
const MAX_WAITING_MESSAGES = 1024;
const MAX_WAITING_BYTES = 16 << 20;

/** Messages that arrived on a stream and wait for its handler. */
export class IncomingMessages implements AsyncIterable<Uint8Array> {
  #waiting: Uint8Array[] = [];
  #bytes = 0;
  #ended = false;
  #failure: RuntimeError | undefined;
  #wake: (() => void) | undefined;

  get ended(): boolean {
    return this.#ended;
  }

  /** Errors: ResourceExhausted when the handler is too far behind. */
  push(payload: Uint8Array): void {
    if (this.#waiting.length >= MAX_WAITING_MESSAGES || this.#bytes + payload.length > MAX_WAITING_BYTES) {
      const reason = `${this.#waiting.length} messages wait to be read`;
      throw new RuntimeError({ code: ErrorCode.ResourceExhausted, op: 'stream', reason });
    }
    this.#waiting.push(payload);
    this.#bytes += payload.length;
    this.#wake?.();
  }

  /** The caller sends no more: the handler reads what waits, then sees the end. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** The stream is over: the handler sees the error at once. */
  fail(error: RuntimeError): void {
    this.#failure ??= error;
    this.#waiting = [];
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (;;) {
      const waiting = this.#waiting;
      this.#waiting = [];
      this.#bytes = 0;
      for (const payload of waiting) {
        if (this.#failure !== undefined) throw this.#failure;
        yield payload;
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#waiting.length > 0) continue;
      if (this.#ended) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
  }
}
