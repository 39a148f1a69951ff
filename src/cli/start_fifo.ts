/**
 * The start gate of a container whose init outlives the command that created it: a fifo in its state directory.
 *
 *   create: mkfifo; the init opens it for reading (outer stage) and waits for one byte
 *   start:  opens it for writing, which fails with ENXIO when nobody waits, writes the byte, and sees the last reader
 *           go at execve (O_CLOEXEC) or at the init's end
 *
 * The container's lock and the fifo's removal see to it that one start wins.
 */
import { closeSync, constants, openSync, rmSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { LaunchError } from '../sandbox/executor.ts';

const { O_WRONLY, O_NONBLOCK } = constants;
const ESRCH = 3;

/** Opens the gate; resolves after execve, or when the init has ended. Rejects with LaunchError when nobody waits. */
export async function openStartGate(fifo: string): Promise<void> {
  const fd = openWriter(fifo);
  if (fd === undefined) {
    throw new LaunchError({ path: '', errno: ESRCH, detail: '', status: 0, op: 'continue' });
  }
  writeSync(fd, '\0');
  closeSync(fd);
  await lastReaderGone(fifo);
  rmSync(fifo, { force: true });
}

/** startContainer hooks run before execve and may take their time, so the wait has no end of its own. */
async function lastReaderGone(fifo: string): Promise<void> {
  for (let delay = 0.25; ; delay = Math.min(delay * 2, 20)) {
    const fd = openWriter(fifo);
    if (fd === undefined) return;
    closeSync(fd);
    await sleep(delay);
  }
}

/** undefined when no process has it open for reading, or it is gone. */
function openWriter(fifo: string): number | undefined {
  try {
    return openSync(fifo, O_WRONLY | O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENXIO' || code === 'ENOENT') return undefined;
    throw error;
  }
}
