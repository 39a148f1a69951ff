/**
 * The real agent as PID 1 of its own pid, mount, uts and network namespaces, over a unix socket instead of a virtio
 * port, and the host's end of the channel.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import { until } from '../monitor/harness.ts';
import { CREDIT, DATA, EOF, MuxReader, RESET, credit, frame, preamble } from './mux.ts';

const { ToAgent, FromAgent, Call, CallReply, Event } = bulkhead.agent.v1;
export type FromAgentMessage = bulkhead.agent.v1.IFromAgent;
export type CallMessage = bulkhead.agent.v1.ICall;

/** BULKHEAD_NATIVE: another build of the binaries, such as the one under AddressSanitizer. */
const NATIVE = resolve(process.env.BULKHEAD_NATIVE ?? join(import.meta.dirname, '../../../build/native'));

export const AGENT = join(NATIVE, 'bulkhead-agent');

/** What has come on one stream. Gives credit back at once unless `hold`. */
export class Incoming {
  bytes = 0;
  readonly chunks: Buffer[] = [];
  eof = false;
  reset = false;
  empties = 0;
  hold = false;
  held = 0;

  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

/** One session of the host with the agent. */
export class HostSession {
  readonly socket: Socket;
  readonly messages: FromAgentMessage[] = [];
  readonly streams = new Map<number, Incoming>();
  /** Credit that the agent gave, by stream. */
  readonly credits = new Map<number, number>();
  readonly resets = new Set<number>();
  closed = false;
  #reader: MuxReader;
  #request = 0;

  constructor(socket: Socket, opening = preamble()) {
    this.socket = socket;
    this.#reader = new MuxReader(opening);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', () => {});
    socket.on('close', () => (this.closed = true));
    socket.write(opening);
    this.send({ hello: { protocol: 1 } });
  }

  /** Opens a new session on the same connection. */
  reopen(): void {
    const opening = preamble();
    this.#reader = new MuxReader(opening);
    this.messages.length = 0;
    this.streams.clear();
    this.socket.write(opening);
    this.send({ hello: { protocol: 1 } });
  }

  #take(chunk: Buffer): void {
    for (const { stream, kind, payload } of this.#reader.feed(chunk)) {
      if (stream === 0) {
        this.messages.push(FromAgent.decode(payload));
      } else if (kind === CREDIT) {
        this.credits.set(stream, (this.credits.get(stream) ?? 0) + payload.readUInt32BE(0));
      } else if (kind === DATA) {
        this.#takeData(this.incoming(stream), stream, payload);
      } else if (kind === EOF) {
        this.incoming(stream).eof = true;
      } else if (kind === RESET) {
        this.incoming(stream).reset = true;
        this.resets.add(stream);
      }
    }
  }

  #takeData(incoming: Incoming, stream: number, payload: Buffer): void {
    if (payload.length === 0) incoming.empties++;
    incoming.bytes += payload.length;
    if (payload.length > 0 && incoming.bytes < 1 << 20) incoming.chunks.push(payload);
    if (incoming.hold) incoming.held += payload.length;
    else if (payload.length > 0) this.socket.write(credit(stream, payload.length));
  }

  incoming(stream: number): Incoming {
    const known = this.streams.get(stream) ?? new Incoming();
    this.streams.set(stream, known);
    return known;
  }

  release(stream: number): void {
    const incoming = this.incoming(stream);
    incoming.hold = false;
    if (incoming.held > 0) this.socket.write(credit(stream, incoming.held));
    incoming.held = 0;
  }

  send(message: bulkhead.agent.v1.IToAgent): void {
    this.socket.write(frame(0, DATA, ToAgent.encode(message).finish()));
  }
  write(stream: number, bytes: Uint8Array | string): void {
    this.socket.write(frame(stream, DATA, Buffer.from(bytes as string)));
  }
  end(stream: number): void {
    this.socket.write(frame(stream, EOF));
  }
  reset(stream: number): void {
    this.socket.write(frame(stream, RESET));
  }

  hello(): Promise<bulkhead.agent.v1.IAgentHello> {
    return until('hello', () => this.messages.find((message) => message.hello)?.hello);
  }

  launch(key: string, plan: Uint8Array, streams: Partial<bulkhead.agent.v1.IGuestLaunch> = {}): number {
    const request = ++this.#request;
    this.send({ launch: { request, key, plan, ...streams } });
    return request;
  }

  answer<K extends 'launched' | 'launchFailed' | 'started' | 'exited'>(
    kind: K,
    key: string,
    timeoutMs = 60_000,
  ): Promise<NonNullable<FromAgentMessage[K]>> {
    return until(
      `${kind} of ${key}`,
      () => this.messages.map((message) => message[kind]).find((message) => message?.key === key),
      timeoutMs,
    ) as Promise<NonNullable<FromAgentMessage[K]>>;
  }

  async ask(message: (request: number) => bulkhead.agent.v1.IToAgent): Promise<number> {
    const request = ++this.#request;
    this.send(message(request));
    const reply = await until('a reply', () =>
      this.messages.map(({ reply }) => reply).find((reply) => reply?.request === request),
    );
    return reply.errno ?? 0;
  }

  async callBytes(
    bytes: Uint8Array,
    timeoutMs = 60_000,
  ): Promise<{ errno: number; reply: bulkhead.agent.v1.CallReply }> {
    const request = ++this.#request;
    this.send({ call: { request, call: bytes } });
    const answer = await until(
      'an answer to a call',
      () => this.messages.map(({ call }) => call).find((call) => call?.request === request),
      timeoutMs,
    );
    return { errno: answer.errno ?? 0, reply: CallReply.decode(answer.reply ?? new Uint8Array()) };
  }
  call(call: CallMessage, timeoutMs = 60_000): ReturnType<HostSession['callBytes']> {
    return this.callBytes(Call.encode(call).finish(), timeoutMs);
  }

  events(): bulkhead.agent.v1.Event[] {
    return this.messages.flatMap(({ event }) =>
      event ? [Event.decode(event.event ?? new Uint8Array())] : [],
    );
  }
}

export class AgentRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'bh-agent-'));
  readonly socketPath = join(this.dir, 'agent.sock');
  stderr = '';
  process: ChildProcess | undefined;
  #sockets: Socket[] = [];

  /** Starts the agent listening. `prepare` is run by a shell in its namespaces before it. */
  start(prepare = 'true'): void {
    const agent = `exec ${AGENT} --init ${NATIVE}/bulkhead-init --listen ${this.socketPath}`;
    const own = 'mount -t tmpfs none /run && mount -t proc proc /proc && ip link set lo up 2>/dev/null; ';
    this.process = spawn(
      'unshare',
      [
        '--mount',
        '--pid',
        '--uts',
        '--net',
        '--ipc',
        '--fork',
        '--kill-child=KILL',
        'sh',
        '-c',
        `${own}${prepare}; ${agent}`,
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    this.process.stderr?.on('data', (chunk: Buffer) => (this.stderr += chunk.toString()));
  }

  async dial(): Promise<Socket> {
    const deadline = Date.now() + 60_000;
    for (;;) {
      const socket = connect(this.socketPath);
      const failed = await new Promise<Error | undefined>((done) => {
        socket.once('connect', () => done(undefined));
        socket.once('error', done);
      });
      if (failed === undefined) {
        this.#sockets.push(socket);
        return socket;
      }
      if (Date.now() > deadline) throw new Error(`no agent: ${failed.message}: ${this.stderr}`);
      await new Promise((done) => setTimeout(done, 5));
    }
  }

  async session(): Promise<HostSession> {
    return new HostSession(await this.dial());
  }

  get alive(): boolean {
    return this.process?.exitCode === null && this.process.signalCode === null;
  }

  async dispose(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    const { process: child } = this;
    if (child !== undefined && this.alive) {
      const gone = new Promise((done) => child.once('exit', done));
      child.kill('SIGKILL');
      await gone;
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}
