/**
 * A scripted engine: what a real monitor and launcher (native/shim) meet on the other end of the executor protocol.
 * Listens on ROOT/engine.sock, answers `start` with a group, says Welcome, and keeps what the monitor says.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { join } from 'node:path';
import { frame, readMessages } from '../../../src/base/frames.ts';
import { bulkhead } from '../../../src/gen/bulkhead.js';

const { ToEngine, ToMonitor } = bulkhead.executor.v1;
export type FromMonitor = bulkhead.executor.v1.ToEngine;
type IToMonitor = bulkhead.executor.v1.IToMonitor;
type IShimRequest = bulkhead.executor.v1.IShimRequest;
type IShimReply = bulkhead.executor.v1.IShimReply;

/** One monitor's connection. */
export class Session {
  readonly received: FromMonitor[] = [];
  readonly socket: Socket;
  readonly hello: bulkhead.executor.v1.IHello;
  closed = false;

  constructor(socket: Socket, hello: bulkhead.executor.v1.IHello) {
    this.socket = socket;
    this.hello = hello;
  }

  send(message: IToMonitor): void {
    this.socket.write(frame(ToMonitor.encode(message).finish()));
  }

  /** Messages of one kind, in order. */
  all<K extends keyof FromMonitor>(kind: K): NonNullable<FromMonitor[K]>[] {
    return this.received.flatMap((message) => (message[kind] ? [message[kind]] : []));
  }

  /** The stream's bytes so far, conn by conn. */
  data(conn: number): Buffer {
    return Buffer.concat(
      this.all('streamData').flatMap((part) => (part.conn === conn ? [part.data ?? Buffer.alloc(0)] : [])),
    );
  }
}

export class FakeEngine {
  readonly sessions: Session[] = [];
  readonly requests: IShimRequest[] = [];
  /** What a launcher is answered; undefined: nothing, the connection is dropped. */
  onRequest: (request: IShimRequest) => IShimReply | undefined = (request) => ({ group: request.id });
  onMessage: (session: Session, message: FromMonitor) => void = () => {};
  onHello: (session: Session) => void = (session) => session.send({ welcome: { protocol: 1 } });
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  readonly #path: string;

  constructor(root: string, name = 'engine.sock') {
    mkdirSync(root, { recursive: true });
    this.#path = join(root, name);
  }

  listen(): Promise<void> {
    rmSync(this.#path, { force: true });
    const server = createServer((socket) => this.#accept(socket));
    this.#server = server;
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#path, () => resolve());
    });
  }

  /** The engine dies under its monitors; with `listening` a new one is there at once. */
  async crash(listening: boolean): Promise<void> {
    if (!listening) await this.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    for (const socket of this.#sockets) socket.destroy();
    if (server !== undefined) await new Promise((resolve) => server.close(resolve));
  }

  get latest(): Session {
    const session = this.sessions.at(-1);
    if (session === undefined) throw new Error('no monitor has said hello');
    return session;
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    let session: Session | undefined;
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#sockets.delete(socket);
      if (session !== undefined) session.closed = true;
    });
    readMessages(
      socket,
      (bytes) => {
        const message = ToEngine.decode(bytes);
        if (message.shimRequest) {
          this.requests.push(message.shimRequest);
          const shimReply = this.onRequest(message.shimRequest);
          if (shimReply === undefined) socket.destroy();
          else socket.write(frame(ToMonitor.encode({ shimReply }).finish()));
        } else if (message.hello) {
          session = new Session(socket, message.hello);
          this.sessions.push(session);
          this.onHello(session);
        } else if (session !== undefined) {
          session.received.push(message);
          this.onMessage(session, message);
        }
      },
      () => {},
    );
  }
}
