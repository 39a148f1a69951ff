/**
 * Events to containerd: one ordered queue, one connection, one event in flight. An event that cannot be delivered
 * holds the ones behind it up (containerd's own shim puts it at the end, and so breaks the order).
 *
 *   publish -> queue -> Forward over ttrpc --ok--------------------> next
 *                          | connection lost: one new one at once, then every 1 to 5 s; the queue waits
 *                          | refused: five tries, 1 to 5 s apart, then dropped
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { containerd } from '../gen/containerd.js';

const SERVICE = 'containerd.services.events.ttrpc.v1.Events';
const METHOD = 'Forward';
const NAMESPACE_HEADER = 'containerd-namespace-ttrpc';

/** Numbers of containerd's pkg/shim/publisher.go and event queue. */
const CALL_TIMEOUT_MS = 5000;
const MAX_QUEUE = 2048;
const MAX_TRIES = 5;
const BACKOFF_STEP_MS = 1000;

/** What the publisher needs of a ttrpc client (src/rpc's TtrpcClient has it). */
export interface EventConnection {
  call(
    service: string,
    method: string,
    payload: Uint8Array,
    options: { timeoutMs: number; metadata: Record<string, string> },
  ): Promise<unknown>;
  readonly open: boolean;
  close(): void;
}

export interface EventPublisherOptions {
  /** containerd's TTRPC_ADDRESS: a socket's path, also as unix:// url. Empty: events are dropped, and logged once. */
  address: string;
  namespace: string;
  log: Logger;
  /** Opens a connection: src/rpc's connectTtrpc. */
  connect: (address: string) => Promise<EventConnection>;
  /** Sleeps; tests give their own clock. */
  sleep?: (ms: number) => Promise<void>;
}

interface QueuedEvent {
  topic: string;
  typeName: string;
  message: () => Uint8Array;
  /** Milliseconds since the epoch. */
  at: number;
}

export class EventPublisher {
  readonly #o: EventPublisherOptions;
  readonly #sleep: (ms: number) => Promise<void>;
  readonly #queue: QueuedEvent[] = [];
  #connection: EventConnection | undefined;
  #sending: Promise<void> | undefined;
  #closed = false;
  #dropped = 0;
  #wake: (() => void) | undefined;

  constructor(options: EventPublisherOptions) {
    this.#o = options;
    this.#sleep = options.sleep ?? ((ms) => this.#pause(ms));
  }

  /** Events that containerd has not taken yet. */
  get pending(): number {
    return this.#queue.length;
  }

  /**
   * Queues an event: topic "/tasks/exit", typeName "containerd.events.TaskExit", message makes its encoding. Never
   * throws and never waits: it is made and sent when the event loop comes round, so that the answer of the request that
   * it tells of goes first. A full queue loses its oldest event: of a containerd that was away, the ends matter most.
   */
  publish(topic: string, typeName: string, message: () => Uint8Array): void {
    if (this.#o.address === '' || this.#closed) {
      this.#drop(topic, this.#closed ? 'publisher is closed' : 'no ttrpc address');
      return;
    }
    const oldest = this.#queue.length >= MAX_QUEUE ? this.#queue.splice(1, 1)[0] : undefined;
    if (oldest !== undefined) this.#drop(oldest.topic, `${MAX_QUEUE} events wait`);
    this.#queue.push({ topic, typeName, message, at: Date.now() });
    this.#sending ??= this.#send();
  }

  /** Resolves when every event queued so far is delivered or dropped, or after `timeoutMs`. */
  async flush(timeoutMs = CALL_TIMEOUT_MS): Promise<void> {
    if (this.#sending === undefined) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)));
    await Promise.race([this.#sending, late]);
    clearTimeout(timer);
  }

  /** Delivers what is queued, for `timeoutMs` at most, and closes the connection. */
  async close(timeoutMs?: number): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.flush(timeoutMs);
    for (const { topic } of this.#queue.splice(0)) this.#drop(topic, 'publisher is closed');
    this.#wake?.();
    this.#connection?.close();
    this.#connection = undefined;
  }

  #encode({ topic, typeName, message, at }: QueuedEvent): Uint8Array {
    const timestamp = { seconds: Math.floor(at / 1000), nanos: (at % 1000) * 1e6 };
    const event = { typeUrl: typeName, value: message() };
    const envelope = { timestamp, namespace: this.#o.namespace, topic, event };
    return containerd.services.events.ttrpc.v1.ForwardRequest.encode({ envelope }).finish();
  }

  async #send(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    for (let event = this.#queue[0]; event !== undefined; event = this.#queue[0]) {
      await this.#deliver(event);
      if (this.#queue[0] === event) this.#queue.shift();
    }
    this.#sending = undefined;
  }

  async #deliver(event: QueuedEvent): Promise<void> {
    let refused = 0;
    let reconnects = 0;
    const request = this.#encode(event);
    while (this.#queue[0] === event) {
      const error = await this.#try(request);
      if (error === undefined) return;
      const unreachable = error.code === ErrorCode.Unavailable;
      if (!unreachable && (isFinal(error.code) || ++refused >= MAX_TRIES)) {
        this.#drop(event.topic, error.message);
        return;
      }
      // A connection that died while idle shows only now: the first new one is tried at once.
      if (unreachable && ++reconnects === 1) continue;
      await this.#sleep(BACKOFF_STEP_MS * Math.min(refused + reconnects, MAX_TRIES));
    }
  }

  async #try(request: Uint8Array): Promise<RuntimeError | undefined> {
    try {
      if (this.#connection?.open !== true) this.#connection = await this.#o.connect(this.#o.address);
      const metadata = { [NAMESPACE_HEADER]: this.#o.namespace };
      await this.#connection.call(SERVICE, METHOD, request, { timeoutMs: CALL_TIMEOUT_MS, metadata });
      return undefined;
    } catch (error) {
      if (error instanceof RuntimeError) {
        if (error.code === ErrorCode.DeadlineExceeded) this.#reset();
        return error;
      }
      this.#reset();
      const reason = error instanceof Error ? error.message : String(error);
      return new RuntimeError({ code: ErrorCode.Unavailable, op: 'publish', reason, cause: error });
    }
  }

  /** A connection that does not answer is not used again. */
  #reset(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  #drop(topic: string, reason: string): void {
    this.#dropped++;
    // One line for the 1st, 10th, 100th … so that a containerd that is away does not fill the log.
    if (!/^10*$/.test(String(this.#dropped))) return;
    this.#o.log.warning('event dropped', {
      topic,
      namespace: this.#o.namespace,
      reason,
      dropped: this.#dropped,
    });
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

const final: ReadonlySet<ErrorCode> = new Set([
  ErrorCode.InvalidArgument,
  ErrorCode.PermissionDenied,
  ErrorCode.ResourceExhausted,
  ErrorCode.Unimplemented,
]);

/** Errors that another try will not cure. */
const isFinal = (code: ErrorCode): boolean => final.has(code);
