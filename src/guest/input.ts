/** Files that a user names to `guest build`. */
import { readFileSync } from 'node:fs';
import { errnoText } from '../base/errno.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

const OP = 'guest build';

/** The file's content; InvalidArgument names it and says why it cannot be read, and `remedy` when it is not there. */
export function readInput(path: string, remedy?: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const { code, errno, message } = error as NodeJS.ErrnoException;
    const reason = errno === undefined ? message : errnoText(-errno);
    throw refusedInput(path, reason, code === 'ENOENT' ? remedy : undefined);
  }
}

export function refusedInput(path: string, reason: string, remedy?: string): RuntimeError {
  return new RuntimeError({ code: ErrorCode.InvalidArgument, op: OP, object: path, reason, remedy, path });
}
