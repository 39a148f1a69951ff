/**
 * One error class for everything a user can be told, with containerd's error codes.
 * Mapped once at each front door: src/task (ttrpc and gRPC status), src/cli (exit status).
 */

import { cut, printable } from './text.ts';

/** containerd's error codes (github.com/containerd/errdefs); numbers are google.rpc.Code. */
export const ErrorCode = {
  Canceled: 1,
  Unknown: 2,
  InvalidArgument: 3,
  DeadlineExceeded: 4,
  NotFound: 5,
  AlreadyExists: 6,
  PermissionDenied: 7,
  ResourceExhausted: 8,
  FailedPrecondition: 9,
  Aborted: 10,
  OutOfRange: 11,
  Unimplemented: 12,
  Internal: 13,
  Unavailable: 14,
} as const;
export type ErrorCode = (typeof ErrorCode)[keyof typeof ErrorCode];

export interface ErrorDetails {
  code: ErrorCode;
  /** Verb that failed: "create", "exec", "mount". */
  op: string;
  /** Container, exec or sandbox id. */
  id?: string | undefined;
  /** What it failed on: "rootfs /b/rootfs", "mount /proc", "config.json: process.args". */
  object?: string | undefined;
  /** Why, in the kernel's or the specification's words. */
  reason: string;
  /** What the user can do, when there is something. */
  remedy?: string | undefined;
  path?: string | undefined;
  /** Errno name, "ENOENT". */
  errno?: string | undefined;
  cause?: unknown;
}

/** Text: `op id: object: reason`, then `; remedy`. Lower case, no full stop. */
export class RuntimeError extends Error {
  override readonly name = 'RuntimeError';
  readonly code: ErrorCode;
  readonly op: string;
  readonly id: string | undefined;
  readonly object: string | undefined;
  readonly reason: string;
  readonly remedy: string | undefined;
  readonly path: string | undefined;
  readonly errno: string | undefined;

  constructor(details: ErrorDetails) {
    super(formatMessage(details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.op = details.op;
    this.id = details.id;
    this.object = details.object;
    this.reason = details.reason;
    this.remedy = details.remedy;
    this.path = details.path;
    this.errno = details.errno;
  }
}

/** Of a message's object, reason and remedy, each: a path has at most 4096 bytes. */
const MAX_PART = 4500;

function formatMessage(details: ErrorDetails): string {
  const subject = details.id === undefined ? details.op : `${details.op} ${details.id}`;
  const object = details.object === undefined ? [] : [cut(details.object, MAX_PART)];
  const text = [subject, ...object, cut(details.reason, MAX_PART)].join(': ');
  // Names in a message are whatever a user, a container or a guest chose.
  return printable(details.remedy === undefined ? text : `${text}; ${cut(details.remedy, MAX_PART)}`);
}

/** The RuntimeError in a thrown value, or one that wraps it as `Unknown` with the value's own message. */
export function asRuntimeError(thrown: unknown, op: string, id?: string): RuntimeError {
  if (thrown instanceof RuntimeError) return thrown;
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  return new RuntimeError({ code: ErrorCode.Unknown, op, id, reason, cause: thrown });
}
