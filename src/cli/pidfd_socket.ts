import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { addon } from '../native/index.ts';
import type { Arguments, Flag } from './flags.ts';

export const pidfdSocketFlag: Flag = {
  name: 'pidfd-socket',
  kind: 'string',
  usage: 'unix socket that a pidfd of the process is sent to',
};

/** Sends a descriptor for the process to the socket that --pidfd-socket names; nothing without the flag. */
export function sendPidfd(op: string, id: string, args: Arguments, pid: number): void {
  const path = args.string('pidfd-socket');
  if (path === undefined) return;
  try {
    addon().sendPidfd(path, pid, 'pidfd');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op,
      id,
      object: `pidfd socket ${path}`,
      reason: message,
      path,
      errno: code,
      cause: error,
    });
  }
}
