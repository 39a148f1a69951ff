/**
 * Everything a monitor needs to run under a test: a prefix with the real binary, a private state root, a bundle, and
 * containerd's end of its socket. dispose() ends what is left and reports processes that should not be there.
 */
import { spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import { FakeEngine } from './fake_engine.ts';
import type { FromMonitor, Session } from './fake_engine.ts';

const { LaunchPlan } = bulkhead.plan.v1;
/** BULKHEAD_NATIVE: another build of the binaries, such as the one under AddressSanitizer. */
const NATIVE = resolve(process.env.BULKHEAD_NATIVE ?? join(import.meta.dirname, '../../../build/native'));

export interface Finished {
  status: number | null;
  stdout: string;
  bytes: Buffer;
  stderr: string;
  ms: number;
}

/** Waits until `check` returns something truthy; its value. The message says what was waited for. */
export async function until<T>(
  what: string,
  check: () => T | undefined | false | null,
  timeoutMs = 60_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = check();
    if (value !== undefined && value !== false && value !== null) return value;
    if (Date.now() > deadline) throw new Error(`timed out waiting for ${what}`);
    await new Promise((done) => setTimeout(done, 2));
  }
}

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** One ttrpc frame. */
export function ttrpc(stream: number, type: number, payload: Uint8Array | string, flags = 0): Buffer {
  const body = Buffer.from(payload as string);
  const head = Buffer.alloc(10);
  head.writeUInt32BE(body.length, 0);
  head.writeUInt32BE(stream, 4);
  head[8] = type;
  head[9] = flags;
  return Buffer.concat([head, body]);
}

/** containerd's end of one connection. */
export class Client {
  received = Buffer.alloc(0);
  closed = false;
  readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => (this.received = Buffer.concat([this.received, chunk])));
    socket.on('error', () => {});
    socket.on('close', () => (this.closed = true));
  }

  send(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }
}

export class ShimRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'bh-monitor-'));
  readonly root = join(this.dir, 'root');
  readonly engine = new FakeEngine(this.root);
  readonly #clients: Client[] = [];
  readonly #sockets = new Set<string>();
  #pids: number[] = [];

  constructor() {
    mkdirSync(join(this.dir, 'bin'));
    mkdirSync(join(this.dir, 'lib/bulkhead'), { recursive: true });
    cpSync(join(NATIVE, 'bulkhead-shim'), join(this.dir, 'bin/bulkhead-shim'));
    for (const name of ['containerd-shim-bulkhead-v2', 'containerd-shim-bulkhead-vm-v2', 'bulkhead']) {
      symlinkSync('bulkhead-shim', join(this.dir, 'bin', name));
    }
    if (existsSync(join(NATIVE, 'bulkhead-init'))) {
      cpSync(join(NATIVE, 'bulkhead-init'), join(this.dir, 'lib/bulkhead/bulkhead-init'));
    }
    symlinkSync(process.execPath, join(this.dir, 'lib/bulkhead/node'));
  }

  /** A container's bundle, made when it is first asked for. */
  bundle(id = 'web'): string {
    const path = join(this.dir, 'bundles', id);
    mkdirSync(path, { recursive: true });
    return path;
  }

  get address(): string {
    return join(this.dir, 'containerd.sock');
  }

  /** Runs the binary as containerd does: cwd is the bundle, stdout and stderr read to their end. */
  exec(
    words: string[],
    options: {
      name?: string;
      input?: Uint8Array;
      env?: Record<string, string>;
      cwd?: string;
      /** RLIMIT_NOFILE, soft and hard. */
      openFiles?: [number, number];
    } = {},
  ): Promise<Finished> {
    const began = process.hrtime.bigint();
    const program = join(this.dir, 'bin', options.name ?? 'containerd-shim-bulkhead-v2');
    const limit = options.openFiles && ['prlimit', `--nofile=${options.openFiles.join(':')}`];
    const [file = '', ...args] = [...(limit ?? []), program, ...words];
    const child = spawn(file, args, {
      cwd: options.cwd ?? this.bundle(),
      env: {
        PATH: process.env.PATH,
        BULKHEAD_ROOT: this.root,
        TTRPC_ADDRESS: `${this.address}.ttrpc`,
        MAX_SHIM_VERSION: '2',
        ...options.env,
      },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    child.stdin.on('error', () => {});
    child.stdin.end(options.input ?? Buffer.alloc(0));
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    return new Promise((done, reject) => {
      child.once('error', reject);
      child.once('close', (status) =>
        done({
          status,
          stdout: Buffer.concat(out).toString(),
          bytes: Buffer.concat(out),
          stderr: Buffer.concat(err).toString(),
          ms: Number(process.hrtime.bigint() - began) / 1e6,
        }),
      );
    });
  }

  flags(id: string): string[] {
    return [
      '-namespace',
      'test',
      '-address',
      this.address,
      '-publish-binary',
      '/usr/bin/containerd',
      '-id',
      id,
    ];
  }

  async start(id = 'web', options: Parameters<ShimRig['exec']>[1] = {}): Promise<Finished> {
    const started = await this.exec([...this.flags(id), 'start'], { cwd: this.bundle(id), ...options });
    const path = /\/run\/containerd\/s\/[0-9a-f]{64}/.exec(started.stdout)?.[0];
    if (path !== undefined) this.#sockets.add(path);
    return started;
  }

  /** A started monitor with its session at the fake engine. */
  async monitor(
    id = 'web',
    options: Parameters<ShimRig['exec']>[1] = {},
  ): Promise<{ session: Session; socket: string; pid: number }> {
    const known = this.engine.sessions.length;
    const started = await this.start(id, options);
    if (started.status !== 0) throw new Error(`start failed: ${started.stderr}`);
    const session = await until('hello', () => this.engine.sessions[known]);
    const pid = session.hello.monitorPid ?? 0;
    this.#pids.push(pid);
    return { session, socket: started.stdout.replace('unix://', ''), pid };
  }

  adopt(pid: number): void {
    this.#pids.push(pid);
  }

  async dial(path: string): Promise<Client> {
    const socket = connect(path);
    await new Promise<void>((done, reject) => {
      socket.once('connect', done);
      socket.once('error', reject);
    });
    const client = new Client(socket);
    this.#clients.push(client);
    return client;
  }

  async dispose(): Promise<void> {
    for (const client of this.#clients) client.socket.destroy();
    for (const session of this.engine.sessions) if (!session.closed) session.send({ shutdown: {} });
    await until('monitors to leave', () => this.#pids.every((pid) => !alive(pid)), 1500).catch(
      () => undefined,
    );
    // Also monitors that no test got to know.
    for (const pid of [...this.#pids, ...processesBelow(this.dir)]) killTree(pid);
    this.#pids = [];
    // A monitor that was killed leaves its socket for the next launcher to replace.
    for (const path of this.#sockets) rmSync(path, { force: true });
    await this.engine.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** As in proc_pid_stat(5): 'S', 'Z' and so on; undefined: no such process. */
export function stateOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.charAt(stat.lastIndexOf(')') + 2);
  } catch {
    return undefined;
  }
}

/** A check for until(): the process sleeps whenever it is looked at. One that spins is seen asleep now and then. */
export function asleep(pid: number): () => boolean {
  let times = 0;
  return () => (times = stateOf(pid) === 'S' ? times + 1 : 0) >= 25;
}

/** A check for until(): every descriptor is taken whenever it is looked at; some are open for a moment only. */
export function full(pid: number, openFiles: number): () => boolean {
  let times = 0;
  return () => (times = readdirSync(`/proc/${pid}/fd`).length === openFiles ? times + 1 : 0) > 200;
}

export function alive(pid: number): boolean {
  const state = stateOf(pid);
  return state !== undefined && state !== 'Z';
}

export function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** Processes whose executable lies below a directory. */
export function processesBelow(dir: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/exe`).startsWith(`${dir}/`);
      } catch {
        return false;
      }
    })
    .map(Number);
}

function killTree(pid: number): void {
  for (const child of childrenOf(pid)) killTree(child);
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    return;
  }
}

/** A plan that only executes: helper processes, and everything about stdio, need no namespaces. */
export function execPlan(script: string, steps: bulkhead.plan.v1.IStep[] = []): Uint8Array {
  return LaunchPlan.encode({
    version: 1,
    id: 'test',
    steps: [...steps, { exec: { file: '/bin/sh', args: ['sh', '-c', script], env: ['PATH=/usr/bin:/bin'] } }],
  }).finish();
}

const PTRACE = process.arch === 'arm64' ? 117 : 101;
const TRACEME = `syscall(${PTRACE}, 0, 0, 0, 0) == 0 or die;`;
const SEIZE = `syscall(${PTRACE}, 0x4206, $main, 0, 0) == 0 or die;`;
const USR1 = `$SIG{USR1} = sub { exec "sh", "-c", "exit 42" };`;

/** Scripts whose processes ask their parent, who knows nothing of it, to trace them. Each ends with 42. */
export const TRACEES: [what: string, script: string][] = [
  ['executes another', `exec perl -e '${TRACEME} exec "sh", "-c", "exit 42"'`],
  ['has a signal sent to it', `exec perl -e '${USR1} ${TRACEME} kill "USR1", $$; sleep 600'`],
  [
    'is stopped and goes on',
    `exec perl -e '$main = $$; if (!fork) { do { open F, "/proc/$main/stat"; $_ = <F> } until /[)] T/;
      kill "CONT", $main; exit } ${TRACEME} kill "STOP", $$; exit 42'`,
  ],
  [
    'is an orphan by then',
    `exec perl -e '$^F = 10; pipe R, W; if (!fork) { $main = getppid; exit if fork;
      select undef, undef, undef, 0.01 until getppid == $ARGV[0]; ${USR1} ${TRACEME} kill "USR1", $$; sleep 600 }
      close W; wait; sysread R, $_, 1; exit 42' $PPID`,
  ],
];
/** Ends with 5, but as a zombie of which a child that traces it says nothing before it ends itself. */
export const HELD_ZOMBIE = `exec perl -e 'pipe R, W; $main = $$; if (!fork) { ${SEIZE} syswrite W, "x"; sleep 600 }
  sysread R, $_, 1; exit 5'`;

/** The first message of a kind that names the key. */
export function messageFor<K extends 'launched' | 'launchFailed' | 'started' | 'exited'>(
  session: Session,
  kind: K,
  key: string,
): NonNullable<FromMonitor[K]> | undefined {
  return session.all(kind).find((message) => message.key === key);
}

export function scratchFile(dir: string, name: string, text: string): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
}
