/** kill: a signal to one process, or to all of the container. */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Container, ContainerProcess } from './container.ts';
import { Status, transition } from './lifecycle.ts';

const SIGKILL = 9;

/**
 * Sends `signum` to a process; `all` sends it to every process of the container (only SIGKILL can be sent so without a
 * race; other signals go to each pid found). NotFound when the process is gone, FailedPrecondition for an exec that was
 * not started.
 */
export async function killProcess(
  container: Container,
  target: ContainerProcess,
  signum: number,
  all: boolean,
): Promise<void> {
  if (target.execId !== '' && target.pid === 0 && !target.isStopped) {
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'kill',
      id: target.key,
      reason: 'process not created',
    });
  }
  transition('kill', target.record.status, target.key);
  if (all && signum === SIGKILL) {
    await container.backend.killAll(container.record, container.executor);
    return;
  }
  try {
    await container.executor.signal(target.key, signum);
    if (signum === SIGKILL && container.status === Status.STATUS_PAUSED)
      await container.backend.resume(container.record, container.executor);
  } catch (error) {
    // Who should carry it out does not answer: the wall ends the container, by what is around it if need be.
    if (signum === SIGKILL && target.execId === '' && isLate(error))
      return container.backend.killAll(container.record, container.executor);
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EINVAL') {
      throw new RuntimeError({
        code: ErrorCode.InvalidArgument,
        op: 'kill',
        id: target.key,
        object: `signal ${signum}`,
        reason: 'no such signal',
        errno: code,
        cause: error,
      });
    }
    if (code !== 'ESRCH') throw error;
    throw new RuntimeError({
      code: ErrorCode.NotFound,
      op: 'kill',
      id: target.key,
      reason: 'process already finished',
      errno: 'ESRCH',
      cause: error,
    });
  }
}

function isLate(error: unknown): boolean {
  const code: unknown = (error as { code?: unknown }).code;
  return code === 'ETIMEDOUT' || (error instanceof RuntimeError && code === ErrorCode.DeadlineExceeded);
}
