/** Reading and writing cgroup files: small, synchronous, one buffer; errors name the file and the value. */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** memory.stat has about 2 KiB, cpuacct.usage_all grows with the number of CPUs. */
let buffer = Buffer.allocUnsafe(16384);

/** The text of a file; undefined when it does not exist or its cgroup is gone. Other errors are thrown as they are. */
export function readText(path: string): string | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
  try {
    let length = 0;
    for (;;) {
      if (length === buffer.length) buffer = Buffer.concat([buffer], buffer.length * 2);
      const count = readSync(fd, buffer, length, buffer.length - length, null);
      if (count === 0) return buffer.toString('latin1', 0, length);
      length += count;
    }
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** One write(2) of `value`, as cgroup files demand; some cannot be read, none is made. Throws Node's error. */
export function writeText(path: string, value: string): void {
  const fd = openSync(path, constants.O_WRONLY);
  try {
    writeSync(fd, value);
  } finally {
    closeSync(fd);
  }
}

/** Name of a thrown error's errno. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** True for errors that mean that the cgroup, the file, or the process that a file of /proc tells of is not there (any more). */
export function isGone(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === 'ENOENT' || errno === 'ENODEV' || errno === 'ENOTDIR' || errno === 'ESRCH';
}

const reasons: Record<string, string> = {
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EBUSY: 'device or resource busy',
  EINVAL: 'invalid argument',
  ENOENT: 'no such file or directory',
  ENODEV: 'no such device',
  EROFS: 'read-only file system',
  ERANGE: 'numerical result out of range',
  EOPNOTSUPP: 'operation not supported',
  ENOTSUP: 'operation not supported',
};

const codes: Record<string, ErrorCode> = {
  EACCES: ErrorCode.PermissionDenied,
  EPERM: ErrorCode.PermissionDenied,
  EINVAL: ErrorCode.InvalidArgument,
  ERANGE: ErrorCode.InvalidArgument,
};

/** A RuntimeError of an operation on a cgroup file. */
export function cgroupError(
  op: string,
  id: string,
  object: string,
  error: unknown,
  path?: string,
): RuntimeError {
  if (error instanceof RuntimeError) return error;
  const errno = errnoOf(error);
  return new RuntimeError({
    code: isGone(error) ? ErrorCode.NotFound : (codes[errno ?? ''] ?? ErrorCode.Unknown),
    op,
    id,
    object,
    reason: reasons[errno ?? ''] ?? (error instanceof Error ? error.message : String(error)),
    errno,
    path,
    cause: error,
  });
}
