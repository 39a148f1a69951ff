/**
 * Writes to files of the kernel that may not come back: unbinding a driver waits until the last user has closed the
 * device. The write is done by a launched process (one step of a plan), which is killed when its time is up, so
 * neither the event loop nor a thread of the pool waits.
 */
import { errnoName, errnoText } from '../base/errno.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { encodePlan } from '../plan/encode.ts';
import { LaunchFailedError, type Launcher } from './launcher.ts';

const SIGKILL = 9;
const DONE = 'written';

/** Milliseconds that a driver gets. Resetting a large GPU takes a few seconds. */
export const KERNEL_WRITE_DEADLINE_MS = 20_000;

/**
 * One write(2) of `data`. DeadlineExceeded when the kernel does not come back; else a RuntimeError with the errno.
 * A process that not even SIGKILL ends is left behind: it ends when the kernel lets go of it.
 */
export async function kernelWrite(
  launcher: Launcher,
  path: string,
  data: string,
  deadlineMs: number = KERNEL_WRITE_DEADLINE_MS,
): Promise<void> {
  const plan = encodePlan({
    version: 1,
    id: 'kernel write',
    steps: [{ writeFile: { path, data: Buffer.from(data) } }, { gate: { point: DONE } }],
  });
  const launched = launcher.launch({ plan });
  const timer = new Timer(deadlineMs);
  try {
    const outcome = await Promise.race([launched.advance().then(() => DONE), timer.expired]);
    if (outcome === DONE) {
      launched.abandon();
      await launched.exited;
      return;
    }
  } catch (error) {
    throw error instanceof LaunchFailedError ? writeFailed(path, error) : error;
  } finally {
    timer.stop();
  }
  launched.signal(SIGKILL);
  launched.release();
  throw new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op: 'write',
    object: path,
    reason: `the kernel did not come back within ${deadlineMs} ms: the device is in use`,
    remedy: 'end the processes that hold the device open',
    path,
    errno: 'ETIMEDOUT',
  });
}

function writeFailed(path: string, error: LaunchFailedError): RuntimeError {
  const { errno } = error.failure;
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'write',
    object: path,
    reason: errnoText(errno),
    path,
    errno: errnoName(errno),
    cause: error,
  });
}

class Timer {
  readonly expired: Promise<string>;
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number) {
    this.expired = new Promise((resolve) => {
      this.#timer = setTimeout(() => resolve('expired'), ms);
    });
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}
