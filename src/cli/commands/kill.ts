import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { addon } from '../../native/index.ts';
import type { Container } from '../../runtime/container.ts';
import { killProcess } from '../../runtime/kill.ts';
import type { Command } from '../command.ts';
import { usageError } from '../flags.ts';
import { loadContainer, lockContainer, runtimeContext } from '../load.ts';
import { signalNumber } from '../signals.ts';

const SIGKILL = 9;

export const kill: Command = {
  operands: '<container-id> [signal]',
  count: [1, 2],
  flags: [{ name: 'all', alias: 'a', kind: 'boolean', usage: 'to every process of the container' }],
  async run(session, args) {
    const [id = '', name = 'SIGTERM'] = args.operands;
    const signum = signalNumber(name);
    if (signum === undefined) throw usageError('kill', `unknown signal ${JSON.stringify(name)}`);
    using _lock = lockContainer(session, id);
    const container = loadContainer(session, runtimeContext(session), 'kill', id);
    const all = args.boolean('all');
    // The kernel does not end the others with an init that shares its pid namespace.
    const group = all || (signum === SIGKILL && container.record.privatePidNamespace !== true);
    if (group && signum !== SIGKILL) return await signalEach(container, signum);
    // As runc: --all also ends what is left behind by an init that is gone.
    if (all && container.init.isStopped) return await signalEach(container, signum);
    if (container.init.isStopped) throw notRunning(id);
    await killProcess(container, container.init, signum, group);
    return 0;
  },
};

/** Signals each process found; one that ended meanwhile had no need of it. */
async function signalEach(container: Container, signum: number): Promise<number> {
  for (const pid of await container.backend.pids(container.record, container.executor)) {
    try {
      addon().pidfdSendSignal(pid, undefined, signum);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
  return 0;
}

/** The words by which containerd's runc shim and Podman know this case. */
function notRunning(id: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'kill',
    id,
    reason: 'container not running',
  });
}
