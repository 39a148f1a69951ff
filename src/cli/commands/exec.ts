import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { exitCodeOf } from '../../base/proc.ts';
import type { Process, Spec } from '../../oci/types.ts';
import type { Container } from '../../runtime/container.ts';
import { launchExec } from '../../runtime/exec.ts';
import { Status } from '../../runtime/lifecycle.ts';
import type { ProcessExit } from '../../sandbox/executor.ts';
import type { Command } from '../command.ts';
import { exitOf } from '../create_flow.ts';
import { passedDescriptors } from '../descriptors.ts';
import { execProcess } from '../exec_process.ts';
import type { Arguments } from '../flags.ts';
import { LaunchIo } from '../launch_io.ts';
import { loadContainer, lockContainer, runtimeContext } from '../load.ts';
import type { LocalExecutor } from '../local_executor.ts';
import { writePidFile } from '../pid_file.ts';
import { pidfdSocketFlag, sendPidfd } from '../pidfd_socket.ts';
import { loadRecord } from '../record.ts';
import type { Session } from '../session.ts';
import { SignalForwarder } from '../signals.ts';

export const exec: Command = {
  operands: '<container-id> <command> [argument...]',
  count: [1, Infinity],
  flagsFirst: true,
  flags: [
    {
      name: 'console-socket',
      kind: 'string',
      usage: 'unix socket that the master of the terminal is sent to',
    },
    { name: 'cwd', kind: 'string', usage: 'working directory in the container' },
    { name: 'env', alias: 'e', kind: 'list', usage: 'NAME=value, added to the environment' },
    { name: 'tty', alias: 't', kind: 'boolean', usage: 'with a terminal' },
    { name: 'user', alias: 'u', kind: 'string', usage: 'UID[:GID]' },
    { name: 'additional-gids', alias: 'g', kind: 'list', usage: 'supplementary group' },
    {
      name: 'process',
      alias: 'p',
      kind: 'string',
      usage: 'file with an OCI process object; other flags are passed over',
    },
    { name: 'detach', alias: 'd', kind: 'boolean', usage: 'do not wait for the process' },
    { name: 'pid-file', kind: 'string', usage: 'file that the process id is written to' },
    { name: 'process-label', kind: 'string', usage: 'SELinux label' },
    { name: 'apparmor', kind: 'string', usage: 'AppArmor profile' },
    { name: 'no-new-privs', kind: 'boolean', usage: 'no privileges beyond those it starts with' },
    { name: 'cap', alias: 'c', kind: 'list', usage: 'capability, added to those of the container' },
    {
      name: 'preserve-fds',
      kind: 'number',
      usage: 'descriptors from 3 on, after LISTEN_FDS, that are passed on',
    },
    { name: 'cgroup', kind: 'list', usage: '[CONTROLLER:]PATH of a cgroup below the container’s to run in' },
    pidfdSocketFlag,
    {
      name: 'ignore-paused',
      kind: 'boolean',
      usage: 'also in a paused container, where it waits for resume',
    },
  ],
  async run(session, args) {
    using forwarder = new SignalForwarder();
    const started = await start(session, args);
    const { executor, key, exit, io } = started;
    if (args.boolean('detach')) {
      executor.release();
      return 0;
    }
    forwarder.open((signum) => void executor.signal(key, signum).catch(() => {}));
    const { waitStatus } = await exit;
    await io.relay?.finish();
    return exitCodeOf(waitStatus);
  },
};

interface Started {
  executor: LocalExecutor;
  key: string;
  exit: Promise<ProcessExit>;
  io: LaunchIo;
}

async function start(session: Session, args: Arguments): Promise<Started> {
  const id = args.operands[0] ?? '';
  using _lock = lockContainer(session, id);
  const process = execProcess(id, ownProcess(session, id), args, session.cwd);
  const passed = passedDescriptors('exec', id, args.number('preserve-fds') ?? 0, session.env, session.pid);
  // For messages only; our pid tells it from those of other invocations.
  const execId = `exec-${session.pid}`;
  const key = `${id}/${execId}`;
  const terminal = process.terminal ?? false;
  const io = new LaunchIo({
    op: 'exec',
    id,
    key,
    terminal,
    detach: args.boolean('detach'),
    consoleSocket: args.string('console-socket'),
    fixedSize: process.consoleSize !== undefined,
    extraFds: passed.fds,
  });
  const container = loadContainer(session, runtimeContext(session), 'exec', id, io.inheritance);
  const executor = container.executor as LocalExecutor;
  checkRunning(container, args.boolean('ignore-paused'));
  const exit = exitOf(executor, key);
  try {
    const pid = await launchExec(container, {
      execId,
      process,
      stdio: { stdin: '', stdout: '', stderr: '', terminal },
      options: {
        preserveFds: passed.fds.length,
        listenFds: passed.listenFds,
        subCgroups: args.list('cgroup'),
      },
    });
    const pidFile = args.string('pid-file');
    if (pidFile !== undefined) writePidFile('exec', id, pidFile, pid);
    sendPidfd('exec', id, args, pid);
  } catch (error) {
    io.relay?.restore();
    await executor.signal(key, 9).catch(() => {});
    throw error;
  }
  return { executor, key, exit, io };
}

function ownProcess(session: Session, id: string): Process {
  const { spec } = loadRecord(session, 'exec', id);
  const { process } = JSON.parse(Buffer.from(spec ?? []).toString('utf8')) as Spec;
  return process ?? { user: { uid: 0, gid: 0 }, args: [], cwd: '/' };
}

/** --ignore-paused passes for running: the process joins the frozen cgroup and goes on when that is thawed. */
function checkRunning(container: Container, ignorePaused: boolean): void {
  const { id, status, init } = container;
  if (status === Status.STATUS_STOPPED) {
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'exec',
      id,
      reason: 'cannot exec in a stopped container',
    });
  }
  if (status !== Status.STATUS_PAUSED) return;
  if (ignorePaused) {
    init.record.status = Status.STATUS_RUNNING;
    return;
  }
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'exec',
    id,
    reason: 'cannot exec in a paused container',
    remedy: 'use --ignore-paused to override',
  });
}
