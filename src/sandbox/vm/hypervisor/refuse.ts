/** What a hypervisor cannot do, in one sentence. */
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';

export function unable(id: string, who: string, what: string, remedy?: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.Unimplemented,
    op: 'vm',
    id,
    object: who,
    reason: what,
    remedy,
  });
}
