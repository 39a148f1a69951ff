import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { ContainerRecord } from '../state/index.ts';
import { NAMESPACE } from './session.ts';
import type { Session } from './session.ts';

/** A container's record. NotFound says so in the words that runc's callers look for. */
export function loadRecord(session: Session, op: string, id: string): ContainerRecord {
  if (session.store.exists(NAMESPACE, id)) return session.store.load(NAMESPACE, id);
  throw new RuntimeError({ code: ErrorCode.NotFound, op, id, reason: 'container does not exist' });
}
