import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** google.rpc.Status without details, which neither containerd's client nor its server reads. */
export interface Status {
  code: number;
  message: string;
}

/** The one mapping from what a handler threw to what the caller is told. */
export function statusOf(thrown: unknown): Status {
  if (thrown instanceof RuntimeError) return { code: thrown.code, message: thrown.message };
  return { code: ErrorCode.Unknown, message: thrown instanceof Error ? thrown.message : String(thrown) };
}

const known: ReadonlySet<number> = new Set(Object.values(ErrorCode));

/** The error in a status that a peer answered to `op`; a code that containerd does not know becomes Unknown. */
export function errorOf(status: Status, op: string): RuntimeError {
  const code = known.has(status.code) ? (status.code as ErrorCode) : ErrorCode.Unknown;
  return new RuntimeError({ code, op, reason: status.message });
}
