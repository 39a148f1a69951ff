/**
 * One monitor's connection: its containers (TaskService), its executor, and containerd's connections that it relays.
 *
 *   containerd == ttrpc/gRPC == monitor -- StreamOpen/Data/Close --> MonitorSession --> rpc servers --> Router
 *                                       -- Launched/Exited/… ----> MonitorExecutor
 */
import { Duplex } from 'node:stream';
import type { Socket } from 'node:net';
import type { Logger } from '../base/log.ts';
import { bulkhead } from '../gen/bulkhead.js';
import type { Router } from '../rpc/router.ts';
import type { Transport } from '../rpc/transport.ts';
import { serveTtrpc } from '../rpc/ttrpc/server.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import type { Wall } from '../sandbox/backend.ts';
import type { TaskPeer } from './bind.ts';
import type { TaskEvents } from '../task/events.ts';
import { TaskService } from '../task/service.ts';
import { cut } from '../base/text.ts';
import { frame } from '../base/frames.ts';
import { MonitorExecutor } from './monitor_executor.ts';
import { recoverContainers } from './recover.ts';

type IHello = bulkhead.executor.v1.IHello;
type ToEngine = bulkhead.executor.v1.ToEngine;
type IToMonitor = bulkhead.executor.v1.IToMonitor;
const { ToMonitor, StreamProtocol } = bulkhead.executor.v1;

/** The only version of the executor protocol so far. */
export const PROTOCOL = 1;

export interface SessionDeps {
  ctx: RuntimeContext;
  router: Router<TaskPeer>;
  /** Takes a byte stream that speaks HTTP/2; loaded when the first one comes. */
  acceptGrpc: (stream: Duplex, peer: TaskPeer) => Promise<void>;
  eventsFor: (hello: IHello) => TaskEvents;
  /** Whether a container belongs to another session. */
  isHeld: (namespace: string, id: string) => boolean;
  log: Logger;
}

const MAX_WARNINGS = 500;
const MAX_PATH = 500;

/** A relayed connection of containerd. */
interface Relay {
  receive(data: Uint8Array): void;
  peerClosed(): void;
}

export class MonitorSession implements TaskPeer {
  readonly name: string;
  readonly namespace: string;
  readonly group: string;
  readonly tasks: TaskService;
  readonly ready: Promise<void>;
  #isReady = false;
  readonly executor: MonitorExecutor;
  /** When the engine first saw it without containers and connections, ms since the epoch. */
  idleSince: number | undefined;
  readonly #deps: SessionDeps;
  readonly #socket: Socket;
  readonly #relays = new Map<number, Relay>();
  /** Messages that go out together with the next one. */
  readonly #held: Uint8Array[] = [];
  #endsUnused = false;
  /** Warnings of processes that run, by their key. */
  readonly #warned = new Map<string, number>();
  #lose: (nothing: undefined) => void = () => {};
  readonly #lost = new Promise<undefined>((resolve) => (this.#lose = resolve));

  constructor(deps: SessionDeps, socket: Socket, hello: IHello) {
    this.#deps = deps;
    this.#socket = socket;
    this.namespace = hello.namespace ?? '';
    this.group = hello.group ?? '';
    this.name = `${this.namespace}/${this.group}`;
    this.executor = new MonitorExecutor((message) => this.send(message), hello.guests ?? []);
    this.tasks = new TaskService({
      ctx: deps.ctx,
      executor: this.executor,
      events: deps.eventsFor(hello),
      namespace: this.namespace,
      group: this.group,
      wall: (hello.wall ?? 'namespace') as Wall,
      monitorPid: hello.monitorPid ?? 0,
      log: deps.log.with({ namespace: this.namespace, group: this.group }),
      shutdown: () => this.send({ shutdown: {} }),
      leaveAnswer: (method, request, response) =>
        this.#sendWithNext({
          leftAnswer: method === 'State' ? { request, response } : { request, response, method },
        }),
    });
    this.send({ welcome: { protocol: PROTOCOL } });
    this.ready = recoverContainers(deps.ctx, this, hello.processes ?? [], deps.isHeld).then(() => {
      this.#isReady = true;
    });
  }

  send(message: IToMonitor): void {
    const bytes = frame(ToMonitor.encode(message).finish());
    this.#socket.write(this.#held.length === 0 ? bytes : Buffer.concat([...this.#held.splice(0), bytes]));
  }

  /** As send, but saves a write(2), which wakes the monitor: an answer follows in this turn of the event loop. */
  #sendWithNext(message: IToMonitor): void {
    if (this.#held.length === 0) setImmediate(() => this.#sendHeld());
    this.#held.push(frame(ToMonitor.encode(message).finish()));
  }

  #sendHeld(): void {
    if (this.#held.length > 0) this.#socket.write(Buffer.concat(this.#held.splice(0)));
  }

  handle(message: ToEngine): void {
    const over = message.exited ?? message.launchFailed;
    if (over) this.#warned.delete(over.key ?? '');
    // The exit of a container that is not found again yet would be nobody's.
    if (message.exited && !this.#isReady) {
      void this.ready.then(() => this.executor.handle(message));
      return;
    }
    if (this.executor.handle(message)) return;
    if (message.streamOpen) this.#open(message.streamOpen.conn ?? 0, message.streamOpen.protocol);
    else if (message.streamData)
      this.#relays.get(message.streamData.conn ?? 0)?.receive(message.streamData.data ?? new Uint8Array());
    else if (message.streamClose) this.#close(message.streamClose.conn ?? 0);
    else if (message.launchWarning) this.#warn(message.launchWarning);
  }

  /** The monitor is gone: what waits on it fails. Its containers are dealt with by containerd's `delete`. */
  closed(): void {
    this.#lose(undefined);
    this.executor.close();
    for (const container of this.tasks.containers.values()) container.stopOomWatch();
    for (const conn of [...this.#relays.keys()]) this.#close(conn);
  }

  /** Resolves when the monitor is gone: nothing that waits for it will end by itself. */
  get lost(): Promise<undefined> {
    return this.#lost;
  }

  get connections(): number {
    return this.#relays.size;
  }

  /** containerd has cleaned up after itself and may not come to say Shutdown: the monitor ends with its last connection. */
  endWhenUnused(): void {
    this.#endsUnused = true;
    if (this.#relays.size === 0 && this.tasks.isEmpty) this.send({ shutdown: {} });
  }

  #open(conn: number, protocol: bulkhead.executor.v1.StreamProtocol | null | undefined): void {
    if (protocol === StreamProtocol.STREAM_PROTOCOL_GRPC) {
      const stream = new RelayedStream(
        (data) => this.#sendData(conn, data),
        () => this.#hangUp(conn),
      );
      this.#relays.set(conn, stream);
      this.#deps.acceptGrpc(stream, this).catch((error: unknown) => stream.destroy(error as Error));
      return;
    }
    const transport = new RelayedTransport(
      (data) => this.#sendData(conn, data),
      () => this.#hangUp(conn),
    );
    this.#relays.set(conn, transport);
    serveTtrpc(this.#deps.router, transport, this);
  }

  #sendData(conn: number, data: Uint8Array): void {
    if (this.#relays.has(conn)) this.send({ streamData: { conn, data } });
  }

  /** We end the connection. */
  #hangUp(conn: number): void {
    if (this.#relays.delete(conn)) this.send({ streamClose: { conn } });
  }

  /** containerd ended it. */
  #close(conn: number): void {
    const relay = this.#relays.get(conn);
    this.#relays.delete(conn);
    relay?.peerClosed();
    if (this.#endsUnused) this.endWhenUnused();
  }

  #warn({ key, warning }: bulkhead.executor.v1.ILaunchWarning): void {
    // A plan has no more steps than that; a guest may tell of as many as it likes.
    const told = (this.#warned.get(key ?? '') ?? 0) + 1;
    this.#warned.set(key ?? '', told);
    if (told > MAX_WARNINGS) return;
    this.#deps.log.warning('launch step passed over', {
      id: key ?? '',
      step: warning?.action ?? 0,
      path: cut(warning?.path ?? '', MAX_PATH),
      errno: warning?.errno ?? 0,
    });
  }
}

/** ttrpc over the relay: every chunk is one whole frame. */
class RelayedTransport implements Transport, Relay {
  #onData: (chunk: Uint8Array) => void = () => {};
  #onClose: (error?: Error) => void = () => {};
  readonly #send: (data: Uint8Array) => void;
  readonly #hangUp: () => void;

  constructor(send: (data: Uint8Array) => void, hangUp: () => void) {
    this.#send = send;
    this.#hangUp = hangUp;
  }

  send(bytes: Uint8Array): void {
    this.#send(bytes);
  }
  onData(callback: (chunk: Uint8Array) => void): void {
    this.#onData = callback;
  }
  onClose(callback: (error?: Error) => void): void {
    this.#onClose = callback;
  }
  close(): void {
    this.#hangUp();
    this.#onClose();
  }
  receive(data: Uint8Array): void {
    this.#onData(data);
  }
  peerClosed(): void {
    this.#onClose();
  }
}

/** gRPC over the relay: bytes as they come. */
class RelayedStream extends Duplex implements Relay {
  readonly #send: (data: Uint8Array) => void;
  readonly #hangUp: () => void;

  constructor(send: (data: Uint8Array) => void, hangUp: () => void) {
    super({ allowHalfOpen: false });
    this.#send = send;
    this.#hangUp = hangUp;
  }

  receive(data: Uint8Array): void {
    this.push(data);
  }
  peerClosed(): void {
    this.push(null);
    this.destroy();
  }
  override _read(): void {}
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#send(chunk);
    done();
  }
  override _final(done: () => void): void {
    this.#hangUp();
    done();
  }
  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#hangUp();
    done(error);
  }
}
