/**
 * One process at a time changes what functions are bound to, from the check to the last write: engines and commands of one
 * state root share the journal, and undoing a claim that two processes have seen would take the function from its next owner.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** flock(2) LOCK_EX | LOCK_NB; throws with `code` "EAGAIN" while another has it. */
export type TryLock = (fd: number) => void;

const RETRY_MS = 25;
/** A driver that does not let go is given up after 20 s; a container has a few functions. */
export const LOCK_DEADLINE_MS = 120_000;

/**
 * Locks the journal's directory itself, which is made for that: nothing is left behind. Tried again and again, for a blocking
 * call would stop the event loop. Unavailable when the time is up.
 */
export async function lockDirectory(
  dir: string,
  tryLock: TryLock,
  deadlineMs: number = LOCK_DEADLINE_MS,
): Promise<Disposable> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const fd = openSync(dir, 'r');
  const deadline = performance.now() + deadlineMs;
  for (;;) {
    try {
      tryLock(fd);
      return { [Symbol.dispose]: () => closeSync(fd) };
    } catch (error) {
      const isHeld = (error as NodeJS.ErrnoException).code === 'EAGAIN';
      if (!isHeld || performance.now() >= deadline) {
        closeSync(fd);
        throw isHeld ? stillHeld(dir, deadlineMs) : error;
      }
    }
    await sleep(RETRY_MS);
  }
}

function stillHeld(dir: string, deadlineMs: number): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.Unavailable,
    op: 'lock',
    object: dir,
    reason: `another process has been changing devices for ${deadlineMs / 1000} s`,
    remedy: `see which with: fuser -v ${dir}`,
    path: dir,
  });
}
