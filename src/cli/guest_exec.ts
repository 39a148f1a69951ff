/**
 * `bulkhead guest exec POD COMMAND…`: a process in a pod's guest beside its containers, by way of the engine. The guest's
 * initial file system has no programs to look around with, so a static one of the host is brought along: busybox,
 * of which COMMAND is an applet. A COMMAND that is an absolute path is a file of the guest.
 *
 *   our stdin ──► fifo ──► monitor ══ channel ══ agent ──► process ──► … ──► fifos ──► our stdout and stderr
 */
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { connect, Socket } from 'node:net';
import { basename, join } from 'node:path';
import { isatty } from 'node:tty';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { frame, readMessages } from '../base/frames.ts';
import { exitCodeOf } from '../base/proc.ts';
import { bulkhead } from '../gen/bulkhead.js';
import { addon } from '../native/index.ts';
import { findSandbox } from '../sandbox/vm/find.ts';
import type { Arguments } from './flags.ts';
import { usageError } from './flags.ts';
import { writeAll } from './output.ts';
import type { Session } from './session.ts';

type IGuestExec = bulkhead.executor.v1.IGuestExec;
type IGuestExecEnd = bulkhead.executor.v1.IGuestExecEnd;
const { ToEngine, ToMonitor } = bulkhead.executor.v1;

const OP = 'guest exec';
const BUSYBOX = '/bin/busybox';
/** A message to the engine, to the monitor and to the agent has at most 8 MiB. */
const LARGEST_PROGRAM = 7 << 20;
const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const { O_RDONLY, O_RDWR, O_NONBLOCK } = constants;

/** Resolves with the exit status of the command. */
export async function execInGuest(session: Session, args: Arguments): Promise<number> {
  const [, id, command, ...rest] = args.operands;
  if (id === undefined || command === undefined) throw usageError('guest', 'exec needs a pod and a command');
  const root = session.env['BULKHEAD_ROOT'] || '/run/bulkhead';
  const { record, dir } = findSandbox(OP, root, id);
  const terminal = args.boolean('tty');
  // Goes with the pod when we are killed.
  using streams = new Streams(mkdtempSync(join(dir, 'exec-')), terminal);
  const end = await ask(id, join(root, 'engine.sock'), streams, {
    namespace: record.namespace ?? '',
    group: record.group ?? '',
    ...programOf(id, args, command, rest),
    env: [PATH, ...(terminal ? [`TERM=${session.env['TERM'] ?? 'linux'}`] : []), ...args.list('env')],
    cwd: args.string('cwd') ?? '/',
    stdio: streams.paths,
  });
  if ((end.error ?? '') !== '') {
    writeAll(2, `bulkhead: ${end.error}\n`);
    return 1;
  }
  await streams.drained();
  return exitCodeOf(end.waitStatus ?? 0);
}

function programOf(
  id: string,
  args: Arguments,
  command: string,
  rest: readonly string[],
): Pick<IGuestExec, 'args' | 'program'> {
  const given = args.string('program');
  if (given === undefined && command.startsWith('/')) return { args: [command, ...rest] };
  const path = given ?? BUSYBOX;
  // busybox looks at its own name for what it is to do; of another program, command is the first argument.
  const name = given === undefined ? [command] : [basename(given), command];
  return { args: [...name, ...rest], program: readProgram(id, path, given === undefined) };
}

function readProgram(id: string, path: string, isDefault: boolean): Uint8Array {
  const fail = (reason: string, code: ErrorCode): RuntimeError => {
    const remedy = isDefault
      ? 'install busybox-static (Debian), or name a static program with --program'
      : undefined;
    return new RuntimeError({ code, op: OP, id, object: `program ${path}`, reason, remedy });
  };
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    const reason = missing ? 'no such file or directory' : (error as Error).message;
    throw fail(reason, missing ? ErrorCode.NotFound : ErrorCode.FailedPrecondition);
  }
  if (bytes.length > LARGEST_PROGRAM) {
    throw fail(
      `has ${bytes.length} bytes, more than the ${LARGEST_PROGRAM} that are brought into a guest`,
      ErrorCode.InvalidArgument,
    );
  }
  return bytes;
}

/** The connection stands for the process: the engine ends it when we are gone. */
function ask(id: string, path: string, streams: Streams, guestExec: IGuestExec): Promise<IGuestExecEnd> {
  const lost = (reason: string): RuntimeError =>
    new RuntimeError({ code: ErrorCode.Unavailable, op: OP, id, object: `engine ${path}`, reason });
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const send = (message: bulkhead.executor.v1.IToEngine): void =>
      void socket.write(frame(ToEngine.encode(message).finish()));
    const hungUp = lost('hung up; the process, if there is one, ends with its pod');
    let connected = false;
    socket.on('connect', () => (connected = true));
    // ECONNRESET is one way to hear of it.
    socket.on('error', (error) => reject(connected ? hungUp : lost(error.message)));
    socket.on('close', () => reject(hungUp));
    readMessages(
      socket,
      (bytes) => {
        const { guestExecEnd } = ToMonitor.decode(bytes);
        if (guestExecEnd) resolve(guestExecEnd);
      },
      (error) => reject(lost(error.message)),
    );
    send({ guestExec: { ...guestExec, ...streams.size } });
    streams.begin((guestExecInput) => send({ guestExecInput }));
  });
}

/** Our standard streams and the fifos that the monitor has the other ends of. */
class Streams implements Disposable {
  readonly paths: bulkhead.executor.v1.IStdio;
  readonly #dir: string;
  readonly #terminal: boolean;
  readonly #ends: Promise<void>[];
  readonly #sockets: Socket[] = [];
  readonly #input: number;
  #raw: { restore(): void } | undefined;
  #resize = (): void => {};

  constructor(dir: string, terminal: boolean) {
    this.#dir = dir;
    this.#terminal = terminal;
    const make = (name: string): string => {
      const path = join(dir, name);
      addon().mkfifo(path, 0o600);
      return path;
    };
    const [stdin, stdout, stderr] = [make('in'), make('out'), terminal ? '' : make('err')];
    this.paths = { stdin, stdout, stderr, terminal };
    // Open for reading before anybody writes: nothing is lost.
    this.#ends = [this.#copy(stdout, 1), ...(terminal ? [] : [this.#copy(stderr, 2)])];
    // O_RDWR: opening a fifo for writing would wait for a reader (fifo(7)).
    this.#input = openSync(stdin, O_RDWR | O_NONBLOCK);
  }

  #copy(path: string, to: number): Promise<void> {
    const socket = new Socket({ fd: openSync(path, O_RDONLY | O_NONBLOCK), readable: true, writable: false });
    this.#sockets.push(socket);
    socket.on('data', (chunk: Buffer) => writeAll(to, chunk));
    return new Promise((resolve) => {
      socket.on('end', resolve);
      socket.on('error', () => resolve());
    });
  }

  /** Of our terminal, if there is one: the process begins with it. */
  get size(): { width: number; height: number } {
    const ours = this.#terminal ? [0, 1, 2].find((fd) => isatty(fd)) : undefined;
    return ours === undefined ? { width: 0, height: 0 } : addon().getWinsize(ours);
  }

  /** Input flows, and with a terminal its size follows ours. */
  begin(tell: (input: bulkhead.executor.v1.IGuestExecInput) => void): void {
    const writer = new Socket({ fd: this.#input, readable: false, writable: true });
    this.#sockets.push(writer);
    writer.on('error', () => {});
    const ours = [0, 1, 2].find((fd) => isatty(fd));
    if (this.#terminal && isatty(0)) this.#raw = addon().setRawMode(0);
    if (this.#terminal && ours !== undefined) {
      this.#resize = () => tell(addon().getWinsize(ours));
      process.on('SIGWINCH', this.#resize);
      this.#resize();
    }
    process.stdin.on('error', () => {});
    process.stdin.on('data', (chunk: Buffer) => {
      if (writer.destroyed || writer.write(chunk)) return;
      process.stdin.pause();
      writer.once('drain', () => process.stdin.resume());
    });
    process.stdin.on('end', () => writer.end(() => tell({ closeStdin: true })));
  }

  /** Everything that the process wrote has been passed on. */
  async drained(): Promise<void> {
    await Promise.all(this.#ends);
  }

  [Symbol.dispose](): void {
    process.off('SIGWINCH', this.#resize);
    process.stdin.pause();
    this.#raw?.restore();
    for (const socket of this.#sockets) socket.destroy();
    if (this.#sockets.length === this.#ends.length) closeSync(this.#input);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
