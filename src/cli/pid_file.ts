import { renameSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** Writes a pid, without a new line, so that a reader sees all of it or no file. */
export function writePidFile(op: string, id: string, path: string, pid: number): void {
  const temporary = join(dirname(path), `.${basename(path)}`);
  try {
    writeFileSync(temporary, String(pid), { mode: 0o666 });
    renameSync(temporary, path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      object: `pid file ${path}`,
      reason: message,
      path,
      errno: code,
      cause: error,
    });
  }
}
