/** A QMP server that plays QEMU: it answers by a table, and says what a test wants said. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface QmpRequest {
  execute: string;
  arguments?: Record<string, unknown>;
  id: number;
}

/** A value is the command's return value; a QmpRefusal its error; undefined: no answer at all. */
export type QmpScript = (request: QmpRequest) => unknown;

export class QmpRefusal {
  readonly error: { class: string; desc: string };

  constructor(desc: string, name = 'GenericError') {
    this.error = { class: name, desc };
  }
}

const GREETING = {
  QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: '' }, capabilities: ['oob'] },
};

export class ScriptedQmp implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'bulkhead-qmp-'));
  readonly path = join(this.dir, 'qmp.sock');
  readonly requests: QmpRequest[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  script: QmpScript;
  /** Sent at a connection; undefined: nothing. */
  greeting: string | undefined = `${JSON.stringify(GREETING)}\r\n`;

  private constructor(script: QmpScript) {
    this.script = script;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(script: QmpScript = () => ({})): Promise<ScriptedQmp> {
    const server = new ScriptedQmp(script);
    await new Promise<void>((resolve) => server.#server.listen(server.path, resolve));
    return server;
  }

  /** Commands so far, without the handshake. */
  get commands(): string[] {
    return this.requests.map(({ execute }) => execute).filter((name) => name !== 'qmp_capabilities');
  }

  say(text: string | Uint8Array): void {
    for (const socket of this.#sockets) socket.write(text);
  }

  event(event: string, data: Record<string, unknown> = {}): void {
    this.say(`${JSON.stringify({ event, data, timestamp: { seconds: 1, microseconds: 2 } })}\r\n`);
  }

  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.hangUp();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.dir, { recursive: true, force: true });
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => {});
    if (this.greeting !== undefined) socket.write(this.greeting);
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) if (line.trim() !== '') this.#answer(socket, JSON.parse(line) as QmpRequest);
    });
  }

  #answer(socket: Socket, request: QmpRequest): void {
    this.requests.push(request);
    const result = request.execute === 'qmp_capabilities' ? {} : this.script(request);
    if (result === undefined) return;
    const answer = result instanceof QmpRefusal ? { error: result.error } : { return: result };
    socket.write(`${JSON.stringify({ ...answer, id: request.id })}\r\n`);
  }
}
