/**
 * The one transition table. A verb that the table does not list for a status is refused with a sentence that names both.
 * Follows runtime-spec "Lifecycle" and what containerd's runc shim answers.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { bulkhead } from '../gen/bulkhead.js';

export const Status = bulkhead.state.v1.Status;
export type Status = bulkhead.state.v1.Status;

export type Verb = 'start' | 'exec' | 'pause' | 'resume' | 'update' | 'kill' | 'exit' | 'delete';

const S = Status;
const table: Record<Verb, Partial<Record<Status, Status>>> = {
  start: { [S.STATUS_CREATED]: S.STATUS_RUNNING },
  exec: { [S.STATUS_CREATED]: S.STATUS_CREATED, [S.STATUS_RUNNING]: S.STATUS_RUNNING },
  pause: { [S.STATUS_RUNNING]: S.STATUS_PAUSED },
  resume: { [S.STATUS_PAUSED]: S.STATUS_RUNNING },
  update: {
    [S.STATUS_CREATED]: S.STATUS_CREATED,
    [S.STATUS_RUNNING]: S.STATUS_RUNNING,
    [S.STATUS_PAUSED]: S.STATUS_PAUSED,
  },
  kill: {
    [S.STATUS_CREATED]: S.STATUS_CREATED,
    [S.STATUS_RUNNING]: S.STATUS_RUNNING,
    [S.STATUS_PAUSED]: S.STATUS_PAUSED,
  },
  exit: {
    [S.STATUS_CREATING]: S.STATUS_STOPPED,
    [S.STATUS_CREATED]: S.STATUS_STOPPED,
    [S.STATUS_RUNNING]: S.STATUS_STOPPED,
    [S.STATUS_PAUSED]: S.STATUS_STOPPED,
  },
  delete: { [S.STATUS_CREATED]: S.STATUS_STOPPED, [S.STATUS_STOPPED]: S.STATUS_STOPPED },
};

const names: Record<Status, string> = {
  [S.STATUS_UNKNOWN]: 'unknown',
  [S.STATUS_CREATING]: 'creating',
  [S.STATUS_CREATED]: 'created',
  [S.STATUS_RUNNING]: 'running',
  [S.STATUS_PAUSED]: 'paused',
  [S.STATUS_STOPPED]: 'stopped',
};

/** The OCI name of a status ("created", "running", …). */
export function statusName(status: Status | null | undefined): string {
  return names[status ?? S.STATUS_UNKNOWN];
}

/** The status after `verb`. FailedPrecondition when the table has no such transition; NotFound for kill of a stopped one. */
export function transition(verb: Verb, status: Status | null | undefined, id: string): Status {
  const current = status ?? S.STATUS_UNKNOWN;
  const next = table[verb][current];
  if (next !== undefined) return next;
  if (verb === 'kill' && current === S.STATUS_STOPPED) {
    throw new RuntimeError({ code: ErrorCode.NotFound, op: verb, id, reason: 'process already finished' });
  }
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: verb,
    id,
    reason: refusal(verb, current),
  });
}

function refusal(verb: Verb, status: Status): string {
  if (verb === 'delete') return `cannot delete a ${names[status]} process`;
  if (verb === 'exec' && status === S.STATUS_STOPPED)
    return 'container is stopped: its init process is not running';
  return `container is ${names[status]}`;
}
