/** What create and run share: from the flags to a container that waits at its start gate. */
import { existsSync, mkdirSync, unlinkSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join, resolve } from 'node:path';
import { asRuntimeError } from '../base/errors.ts';
import { addon } from '../native/index.ts';
import { readBundle } from '../runtime/bundle.ts';
import type { Container } from '../runtime/container.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import { createContainer } from '../runtime/create.ts';
import { deleteContainer, forgetContainer } from '../runtime/delete.ts';
import type { ProcessExit } from '../sandbox/executor.ts';
import { passedDescriptors } from './descriptors.ts';
import { deviceFlags, specDirs } from './device_flags.ts';
import type { Arguments, Flag } from './flags.ts';
import { LaunchIo } from './launch_io.ts';
import { newExecutor, runtimeContext } from './load.ts';
import type { LocalExecutor } from './local_executor.ts';
import { writePidFile } from './pid_file.ts';
import { pidfdSocketFlag, sendPidfd } from './pidfd_socket.ts';
import { NAMESPACE } from './session.ts';
import type { Session } from './session.ts';
import { chooseWall, wallFlag } from './wall.ts';

export const createFlags: readonly Flag[] = [
  { name: 'bundle', alias: 'b', kind: 'string', usage: 'directory of the bundle (default: current)' },
  { name: 'console-socket', kind: 'string', usage: 'unix socket that the master of the terminal is sent to' },
  { name: 'pid-file', kind: 'string', usage: 'file that the process id is written to' },
  { name: 'no-pivot', kind: 'boolean', usage: 'chroot instead of pivot_root, for a root on a ramdisk' },
  { name: 'no-new-keyring', kind: 'boolean', usage: 'keep the session keyring of the caller' },
  {
    name: 'preserve-fds',
    kind: 'number',
    usage: 'descriptors from 3 on, after LISTEN_FDS, that are passed on',
  },
  ...deviceFlags,
  wallFlag,
  pidfdSocketFlag,
];

export interface Created {
  ctx: RuntimeContext;
  container: Container;
  executor: LocalExecutor;
  io: LaunchIo;
}

export interface CreateMode {
  op: string;
  /** The container outlives this command. */
  detach: boolean;
  /** Another command opens the gate. */
  startFifo: boolean;
}

/** Creates the container and writes the pid file. Call with the lock held; leaves nothing behind when it rejects. */
export async function createFromFlags(session: Session, args: Arguments, mode: CreateMode): Promise<Created> {
  const id = args.operands[0] ?? '';
  const bundle = resolve(session.cwd, args.string('bundle') ?? '.');
  const { spec } = readBundle('create', id, bundle);
  const terminal = spec.process?.terminal ?? false;
  const passed = passedDescriptors(mode.op, id, args.number('preserve-fds') ?? 0, session.env, session.pid);
  const io = new LaunchIo({
    op: mode.op,
    id,
    key: id,
    terminal,
    detach: mode.detach,
    consoleSocket: args.string('console-socket'),
    fixedSize: spec.process?.consoleSize !== undefined,
    extraFds: passed.fds,
  });
  const ctx = { ...runtimeContext(session), cdiSpecDirs: specDirs(session, args) };
  const executor = newExecutor(session, io.inheritance);
  const exit = exitOf(executor, id);
  const fresh = !session.store.exists(NAMESPACE, id);
  try {
    const container = await createContainer(ctx, {
      id,
      namespace: NAMESPACE,
      bundle,
      wall: chooseWall(session, mode.op, args, spec),
      rootfsMounts: [],
      stdio: { stdin: '', stdout: '', stderr: '', terminal },
      options: {
        noPivot: args.boolean('no-pivot'),
        noNewKeyring: args.boolean('no-new-keyring'),
        preserveFds: passed.fds.length,
        listenFds: passed.listenFds,
      },
      executor,
      group: id,
      startFifo: mode.startFifo && fresh ? makeStartFifo(session, id) : undefined,
      devices: args.list('device'),
      owner: userName(session.uid),
    });
    void exit.then((status) => {
      container.init.recordExit(status);
      container.init.announceExit();
    });
    const created = { ctx, container, executor, io };
    await tellProcess(created, mode.op, args);
    return created;
  } catch (error) {
    io.relay?.restore();
    if (fresh) session.store.remove(NAMESPACE, id);
    throw error;
  }
}

/** Kills and removes a container that must not stay, because a later step failed with `error`. */
export async function undoCreate({ ctx, container, io }: Created, error: unknown): Promise<void> {
  io.relay?.restore();
  try {
    await deleteContainer(ctx, container, true);
    forgetContainer(ctx, container);
  } catch (cleanup) {
    const { message } = asRuntimeError(cleanup, 'delete', container.id);
    ctx.log.warning('clean-up failed', {
      id: container.id,
      error: message,
      after: asRuntimeError(error, 'run').message,
    });
  }
}

/** To those who asked for it: the pid file, the pidfd socket. */
async function tellProcess(created: Created, op: string, args: Arguments): Promise<void> {
  const { id, init } = created.container;
  const pidFile = args.string('pid-file');
  try {
    if (pidFile !== undefined) writePidFile(op, id, pidFile, init.pid);
    sendPidfd(op, id, args, init.pid);
  } catch (error) {
    await undoCreate(created, error);
    throw error;
  }
}

/** The exit of a process that this executor is about to launch. */
export function exitOf(executor: LocalExecutor, key: string): Promise<ProcessExit> {
  return new Promise((resolve) => {
    executor.onExit((exit) => {
      if (exit.key === key) resolve(exit);
    });
  });
}

function makeStartFifo(session: Session, id: string): string {
  const directory = session.store.paths.container('create', NAMESPACE, id);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const fifo = join(directory, 'start.fifo');
  // Of a create that was killed before it had a record.
  if (existsSync(fifo)) unlinkSync(fifo);
  addon().mkfifo(fifo, 0o600);
  return fifo;
}

/** For `list`; the number when the user has no name. */
function userName(uid: number): string {
  try {
    return userInfo().username;
  } catch {
    return String(uid);
  }
}
