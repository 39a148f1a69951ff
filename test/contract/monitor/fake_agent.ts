/** A scripted agent behind a unix socket: the guest's end of the channel, well-behaved until told otherwise. */
import { rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import { CREDIT, DATA, EOF, RESET, credit, frame } from '../agent/mux.ts';
import type { Frame } from '../agent/mux.ts';
import { until } from './harness.ts';

const { ToAgent, FromAgent } = bulkhead.agent.v1;
type FromHost = bulkhead.agent.v1.ToAgent;
type IFromAgent = bulkhead.agent.v1.IFromAgent;

const PREAMBLE = 32;

export class FakeAgent {
  readonly received: FromHost[] = [];
  readonly frames: Frame[] = [];
  readonly path: string;
  connections = 0;
  closed = false;
  /** What comes first on a connection, once the host's preamble is there. */
  greet: (preamble: Buffer) => Buffer[] = (preamble) => [
    preamble,
    controlFrame({ hello: { protocol: 1, version: 'fake', kernel: '6.12' } }),
  ];
  #bytes = Buffer.alloc(0);
  #greeted = false;
  #server: Server | undefined;
  #socket: Socket | undefined;

  constructor(path: string) {
    this.path = path;
  }

  listen(): Promise<void> {
    rmSync(this.path, { force: true });
    const server = createServer((socket) => this.#accept(socket));
    this.#server = server;
    return new Promise((done) => server.listen(this.path, done));
  }
  hangUp(): void {
    this.#socket?.destroy();
  }
  async close(): Promise<void> {
    this.hangUp();
    const server = this.#server;
    if (server !== undefined) await new Promise((done) => server.close(done));
  }
  /** Stops reading, as a guest that hangs does. */
  pause(): void {
    this.#socket?.pause();
  }

  raw(bytes: Uint8Array): void {
    this.#socket?.write(bytes);
  }
  send(message: IFromAgent): void {
    this.raw(controlFrame(message));
  }
  data(stream: number, bytes: Uint8Array | string): void {
    this.raw(frame(stream, DATA, Buffer.from(bytes as string)));
  }
  eof(stream: number): void {
    this.raw(frame(stream, EOF));
  }
  reset(stream: number): void {
    this.raw(frame(stream, RESET));
  }
  credit(stream: number, bytes: number): void {
    this.raw(credit(stream, bytes));
  }

  /** The first message of a kind that has not been taken yet. */
  async take<K extends keyof FromHost>(kind: K): Promise<NonNullable<FromHost[K]>> {
    const index = await until(String(kind), () => {
      const at = this.received.findIndex((message) => message[kind]);
      return at < 0 ? undefined : { at };
    });
    const [message] = this.received.splice(index.at, 1);
    return message?.[kind] as NonNullable<FromHost[K]>;
  }
  /** Bytes that came on a stream so far. */
  input(stream: number): string {
    return Buffer.concat(
      this.frames.filter((one) => one.stream === stream && one.kind === DATA).map(({ payload }) => payload),
    ).toString();
  }
  credits(stream: number): number {
    return this.frames
      .filter((one) => one.stream === stream && one.kind === CREDIT)
      .reduce((sum, { payload }) => sum + payload.readUInt32BE(0), 0);
  }
  has(stream: number, kind: number): boolean {
    return this.frames.some((one) => one.stream === stream && one.kind === kind);
  }

  #accept(socket: Socket): void {
    this.connections++;
    this.#socket = socket;
    this.#bytes = Buffer.alloc(0);
    this.#greeted = false;
    socket.on('error', () => {});
    socket.on('close', () => (this.closed = true));
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
  }

  #take(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (!this.#greeted) {
      if (this.#bytes.length < PREAMBLE) return;
      this.#greeted = true;
      for (const bytes of this.greet(Buffer.from(this.#bytes.subarray(0, PREAMBLE)))) this.raw(bytes);
      this.#bytes = this.#bytes.subarray(PREAMBLE);
    }
    while (this.#bytes.length >= 9) {
      const length = this.#bytes.readUInt32BE(0);
      if (this.#bytes.length < 9 + length) return;
      const stream = this.#bytes.readUInt32BE(4);
      const payload = Buffer.from(this.#bytes.subarray(9, 9 + length));
      if (stream === 0) this.received.push(ToAgent.decode(payload));
      else this.frames.push({ stream, kind: this.#bytes[8] ?? 0, payload });
      this.#bytes = this.#bytes.subarray(9 + length);
    }
  }
}

export const controlFrame = (message: IFromAgent): Buffer =>
  frame(0, DATA, FromAgent.encode(message).finish());
