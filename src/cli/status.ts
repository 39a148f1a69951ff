/** The status of a container that other invocations made: its record says what it was, /proc what it is. */
import { isAlive } from '../base/proc.ts';
import { Status } from '../runtime/lifecycle.ts';
import type { ContainerRecord } from '../state/index.ts';

/** A record that is still CREATING is left as it is: its create may be under way. */
export function currentStatus(record: ContainerRecord): Status {
  const status = record.init?.status ?? Status.STATUS_UNKNOWN;
  if (status === Status.STATUS_CREATING || status === Status.STATUS_STOPPED) return status;
  const { pid, pidStartTime } = record.init ?? {};
  return pid && isAlive(pid, pidStartTime ?? undefined) ? status : Status.STATUS_STOPPED;
}
