/**
 * Writing to the standard descriptors without process.stdout: that object would make them non-blocking, and they are
 * the container's too.
 */
import { writeSync } from 'node:fs';

const wait = new Int32Array(new SharedArrayBuffer(4));

/** Writes all of it; waits where another process made the descriptor non-blocking. A reader that went away ends it. */
export function writeAll(fd: number, data: string | Uint8Array): void {
  let rest = typeof data === 'string' ? Buffer.from(data) : data;
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EPIPE') return;
      if (code !== 'EAGAIN') throw error;
      Atomics.wait(wait, 0, 0, 1);
    }
  }
}
