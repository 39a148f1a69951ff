/**
 * QMP, QEMU's control protocol (docs/interop/qmp-spec): JSON objects, one a line, over a unix socket. Requests carry
 * an id and have a deadline; descriptors go along with a request (SCM_RIGHTS, for getfd and add-fd).
 *
 * What comes back is not trusted: whoever breaks out of a guest speaks here. Input is bounded, and anything that is
 * not QMP ends the connection with one error that every caller gets.
 */
import { Socket } from 'node:net';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import { isRecord, type Reader } from './answers.ts';

export interface QmpEvent {
  event: string;
  data: Readonly<Record<string, unknown>>;
}

export interface QmpOptions {
  /** For messages. */
  id: string;
  /** Milliseconds that a request gets; default 30 s. */
  deadlineMs?: number;
  /** Connects to a unix socket; the descriptor is the caller's. src/native: addon().connectUnix. */
  connect: (path: string) => number;
  /** Sends bytes with a descriptor over a connected socket. src/native: addon().sendFdOver. */
  sendFd: (socket: number, fd: number, message: string) => void;
}

interface RequestOptions {
  deadlineMs?: number;
  fd?: number;
}

interface Pending {
  command: string;
  resolve: (value: unknown) => void;
  reject: (error: RuntimeError) => void;
  timer: NodeJS.Timeout;
}

const DEFAULT_DEADLINE_MS = 30_000;
/** The longest answers we ask for (query-pci, qom-list) have some 100 KiB. */
const MAX_LINE = 4 << 20;
/** Events beyond this many before anybody listens are a flood. */
const MAX_EARLY_EVENTS = 256;

/** QEMU's refusal of one command; the connection goes on. */
export class QmpCommandError extends RuntimeError {
  readonly command: string;
  /** QEMU's error class: "GenericError", "DeviceNotFound", … */
  readonly qmpClass: string;

  constructor(id: string, command: string, qmpClass: string, description: string) {
    const code = qmpClass === 'DeviceNotFound' ? ErrorCode.NotFound : ErrorCode.FailedPrecondition;
    super({ code, op: 'vm', id, object: `qemu ${command}`, reason: lowerFirst(description) });
    this.command = command;
    this.qmpClass = qmpClass;
  }
}

export class Qmp {
  readonly #id: string;
  readonly #fd: number;
  readonly #socket: Socket;
  readonly #options: QmpOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #closed = new Set<(error: RuntimeError) => void>();
  #early: QmpEvent[] | undefined = [];
  #chunks: Buffer[] = [];
  #buffered = 0;
  #nextId = 1;
  #greeted: Pending | undefined;
  #error: RuntimeError | undefined;

  private constructor(fd: number, options: QmpOptions) {
    this.#id = options.id;
    this.#fd = fd;
    this.#options = options;
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#socket.on('data', (chunk) => this.#read(chunk));
    this.#socket.on('error', (error) => this.#fail(`the connection broke: ${error.message}`));
    this.#socket.on('close', () => this.#fail('the connection was closed'));
  }

  /**
   * Connects, waits for the greeting and negotiates capabilities. Rejects with Unavailable when nothing listens, and
   * with DeadlineExceeded when QEMU does not greet.
   */
  static async connect(path: string, options: QmpOptions): Promise<Qmp> {
    let fd: number;
    try {
      fd = options.connect(path);
    } catch (cause) {
      const errno = (cause as NodeJS.ErrnoException).code;
      throw new RuntimeError({
        code: ErrorCode.Unavailable,
        op: 'vm',
        id: options.id,
        object: `qemu's control socket ${path}`,
        reason: errno === 'ECONNREFUSED' || errno === 'ENOENT' ? 'nobody listens' : (cause as Error).message,
        errno,
        cause,
      });
    }
    const qmp = new Qmp(fd, options);
    try {
      const greeted = new Promise<unknown>((resolve, reject) => {
        qmp.#greeted = qmp.#expect('greeting', resolve, reject);
      });
      // QEMU reads commands in the order they come; it needs no pause after its greeting.
      await Promise.all([greeted, qmp.execute('qmp_capabilities')]);
    } catch (error) {
      qmp.close();
      throw error;
    }
    return qmp;
  }

  get open(): boolean {
    return this.#error === undefined;
  }

  /**
   * One command whose answer is read: what is none to it ends the connection. Rejects as `execute` does, and with Internal.
   * @param read gives undefined for what is no answer
   */
  async ask<T>(read: Reader<T>, command: string, args?: object, options?: RequestOptions): Promise<T> {
    const answer = read(await this.execute(command, args, options));
    if (answer !== undefined) return answer;
    this.#fail(`answered ${command} with what is no answer to it`);
    throw this.#problem(ErrorCode.Internal, `qemu ${command}`, 'an answer of another kind');
  }

  /**
   * One command. Rejects with QmpCommandError when QEMU refuses, DeadlineExceeded, or Unavailable when the connection
   * is gone. With `fd` that descriptor goes along (borrowed).
   */
  execute(command: string, args?: object, { deadlineMs, fd }: RequestOptions = {}): Promise<unknown> {
    if (this.#error !== undefined) return Promise.reject(this.#error);
    const id = this.#nextId++;
    const text = `${JSON.stringify({ execute: command, ...(args === undefined ? {} : { arguments: args }), id })}\n`;
    return new Promise((resolve, reject) => {
      const forget = (error: RuntimeError): void => {
        this.#pending.delete(id);
        reject(error);
      };
      this.#pending.set(id, this.#expect(command, resolve, forget, deadlineMs));
      this.#send(text, fd);
    });
  }

  /** Events come in order; those before the first listener are kept for it. Returns what ends it. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const event of early) listener(event);
    return () => this.#listeners.delete(listener);
  }

  /** Called once, with why, when the connection is gone; at once when it is already. */
  onClose(listener: (error: RuntimeError) => void): void {
    if (this.#error === undefined) this.#closed.add(listener);
    else listener(this.#error);
  }

  close(): void {
    this.#fail('the connection was closed');
  }

  #expect(
    command: string,
    resolve: (value: unknown) => void,
    reject: (error: RuntimeError) => void,
    deadlineMs: number = this.#options.deadlineMs ?? DEFAULT_DEADLINE_MS,
  ): Pending {
    const timer = setTimeout(() => {
      const reason = `no answer within ${deadlineMs} ms`;
      reject(this.#problem(ErrorCode.DeadlineExceeded, `qemu ${command}`, reason));
    }, deadlineMs);
    return { command, resolve, reject, timer };
  }

  #send(text: string, fd: number | undefined): void {
    if (fd === undefined) {
      this.#socket.write(text);
      return;
    }
    // Behind the socket's own queue: bytes that Node still holds must go first.
    const send = (): void => {
      if (this.#error !== undefined) return;
      try {
        this.#options.sendFd(this.#fd, fd, text);
      } catch (error) {
        this.#fail(`a descriptor could not be sent: ${(error as Error).message}`);
      }
    };
    if (this.#socket.writableLength === 0) send();
    else this.#socket.write('\n', send);
  }

  #read(chunk: Buffer): void {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0 && this.#error === undefined; end = rest.indexOf(10)) {
      const line = Buffer.concat([...this.#chunks, rest.subarray(0, end)]);
      this.#chunks = [];
      this.#buffered = 0;
      rest = rest.subarray(end + 1);
      if (line.length > MAX_LINE) this.#tooLong();
      else this.#line(line);
    }
    if (rest.length === 0 || this.#error !== undefined) return;
    this.#chunks.push(rest);
    this.#buffered += rest.length;
    if (this.#buffered > MAX_LINE) this.#tooLong();
  }

  #tooLong(): void {
    this.#fail(`sent a line of more than ${MAX_LINE >> 20} MiB`);
  }

  #line(line: Buffer): void {
    const text = line.toString('utf8').trim();
    if (text === '') return;
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      this.#fail('sent what is not JSON');
      return;
    }
    if (!isRecord(message)) this.#fail('sent JSON that is no message');
    else if ('QMP' in message) settle(this.#greeted, undefined);
    else if (typeof message['event'] === 'string') this.#event(message['event'], message['data']);
    else this.#answer(message);
  }

  #event(event: string, data: unknown): void {
    const told = { event, data: isRecord(data) ? data : {} };
    if (this.#early === undefined) for (const listener of this.#listeners) listener(told);
    else if (this.#early.push(told) > MAX_EARLY_EVENTS) this.#early.shift();
  }

  #answer(message: Readonly<Record<string, unknown>>): void {
    const { id, error } = message;
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    if (pending === undefined) {
      // Of a request whose deadline has passed; but only such ids were ever given out.
      if (typeof id !== 'number' || id <= 0 || id >= this.#nextId)
        this.#fail('answered a request that was not made');
      return;
    }
    this.#pending.delete(id as number);
    clearTimeout(pending.timer);
    if ('return' in message) pending.resolve(message['return']);
    else if (isRecord(error)) {
      const { class: name, desc } = error;
      pending.reject(new QmpCommandError(this.#id, pending.command, text(name), text(desc)));
    } else {
      pending.reject(
        this.#problem(ErrorCode.Internal, `qemu ${pending.command}`, 'an answer without result'),
      );
      this.#fail('sent an answer without result');
    }
  }

  #problem(code: ErrorCode, object: string, reason: string): RuntimeError {
    return new RuntimeError({ code, op: 'vm', id: this.#id, object, reason });
  }

  #fail(reason: string): void {
    if (this.#error !== undefined) return;
    const error = this.#problem(ErrorCode.Unavailable, "qemu's control socket", reason);
    this.#error = error;
    const waiting = [...this.#pending.values(), ...(this.#greeted === undefined ? [] : [this.#greeted])];
    this.#pending.clear();
    this.#chunks = [];
    this.#socket.destroy();
    for (const { timer, reject } of waiting) {
      clearTimeout(timer);
      reject(error);
    }
    for (const listener of this.#closed) listener(error);
    this.#closed.clear();
  }
}

function settle(pending: Pending | undefined, value: unknown): void {
  if (pending === undefined) return;
  clearTimeout(pending.timer);
  pending.resolve(value);
}

/** QEMU's own words, at most a line of them. */
function text(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, 500) : 'no reason given';
}

function lowerFirst(sentence: string): string {
  const first = sentence.charAt(0);
  const acronym = /^[A-Z]{2}/.test(sentence);
  return (acronym ? first : first.toLowerCase()) + sentence.slice(1).replace(/\.$/, '');
}
