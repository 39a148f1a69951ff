/** Turns the executor's {step, path, errno} into the sentence a user reads: `op id: object: reason; remedy`. */
import { errnoName, errnoText } from '../base/errno.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Spec } from '../oci/types.ts';
import { LaunchError } from '../sandbox/executor.ts';
import type { LaunchFailure } from '../sandbox/executor.ts';
import { stepNames } from '../plan/step_names.ts';

const ENOENT = 2;
const EAGAIN = 11;
const EACCES = 13;
const SIGKILL = 9;
/** Nothing that a start needs takes so much. */
const ENOUGH_MEMORY = 8 * 1024 * 1024;

const codeOfErrno: Record<string, ErrorCode> = {
  ENOENT: ErrorCode.NotFound,
  EEXIST: ErrorCode.AlreadyExists,
  EINVAL: ErrorCode.InvalidArgument,
  ERANGE: ErrorCode.InvalidArgument,
  ENOSPC: ErrorCode.ResourceExhausted,
  EMFILE: ErrorCode.ResourceExhausted,
  ENFILE: ErrorCode.ResourceExhausted,
  EPERM: ErrorCode.PermissionDenied,
  ETIMEDOUT: ErrorCode.DeadlineExceeded,
};

/**
 * A RuntimeError of what the executor reported; any other error comes back as it is.
 * @param config the container's config.json: its limits may be to blame
 */
export function launchSentence(op: string, id: string, error: unknown, config?: Uint8Array | null): unknown {
  if (!(error instanceof LaunchError)) return error;
  const { failure } = error;
  const object = objectOf(failure);
  return new RuntimeError({
    code: codeOf(failure),
    op,
    id,
    object,
    reason: reasonOf(failure),
    remedy: config ? remedyOf(failure, config) : undefined,
    path: failure.path === '' ? undefined : failure.path,
    errno: failure.errno === 0 ? undefined : errnoName(failure.errno),
    cause: error,
  });
}

function isExecutable(failure: LaunchFailure): boolean {
  const name = failure.action === undefined ? '' : stepNames[failure.action];
  return name === 'exec' || name === 'find executable';
}

function codeOf(failure: LaunchFailure): ErrorCode {
  if (isExecutable(failure))
    return failure.errno === EACCES ? ErrorCode.PermissionDenied : ErrorCode.InvalidArgument;
  if (failure.errno === 0) return ErrorCode.Unknown;
  return codeOfErrno[errnoName(failure.errno)] ?? ErrorCode.Unknown;
}

function objectOf(failure: LaunchFailure): string {
  const name =
    failure.action === undefined ? failure.op : (stepNames[failure.action] ?? `step ${failure.action}`);
  if (isExecutable(failure)) return `exec "${failure.path}"`;
  return failure.path === '' ? name : `${name} ${failure.path}`;
}

function reasonOf(failure: LaunchFailure): string {
  if (isExecutable(failure) && failure.errno === ENOENT) {
    return failure.path.includes('/') ? 'no such file or directory' : 'executable file not found in $PATH';
  }
  if (failure.detail === 'hook-timeout') return 'hook did not end in time and was killed';
  if (failure.detail === 'hook-exit') return `hook failed: ${waitStatusText(failure.status)}`;
  if (failure.errno === 0)
    return `the container's first process ended early: ${waitStatusText(failure.status)}`;
  const text = errnoText(failure.errno);
  return failure.detail === '' ? text : `${text} (${failure.detail})`;
}

/** The kernel does not say that a limit was the reason. */
function remedyOf(failure: LaunchFailure, config: Uint8Array): string | undefined {
  const { memory, pids } = (JSON.parse(Buffer.from(config).toString()) as Spec).linux?.resources ?? {};
  const killed = failure.errno === 0 && (failure.status & 0x7f) === SIGKILL;
  const bytes = memory?.limit ?? 0;
  if (killed && bytes > 0 && bytes < ENOUGH_MEMORY)
    return `its memory limit of ${bytes} bytes may be too small`;
  const limit = pids?.limit ?? -1;
  if (failure.errno === EAGAIN && limit >= 0) return `its limit of ${limit} processes may be too small`;
  return undefined;
}

function waitStatusText(status: number): string {
  const signal = status & 0x7f;
  return signal === 0 ? `exit status ${(status >> 8) & 0xff}` : `killed by signal ${signal}`;
}
