/** A template's state goes into a new QEMU (-incoming defer), whose memory is there already (x-ignore-shared). */
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import { FD } from './command_line.ts';
import type { Qmp } from './qmp.ts';

/** Memory that is shared, or mapped from the template, is not in the state. Events: we are told when it is done. */
export const MIGRATION_CAPABILITIES = [
  { capability: 'x-ignore-shared', state: true },
  { capability: 'events', state: true },
];

/** Resolves when the machine is complete and paused. Rejects with FailedPrecondition when the state does not fit. */
export async function restore(qmp: Qmp, id: string): Promise<void> {
  const arrived = migrationEnd(qmp, id);
  // `fd:` of a number is a descriptor that QEMU was started with; `exec:` is what its own filter forbids (spawn=deny).
  await Promise.all([
    qmp.execute('migrate-set-capabilities', { capabilities: MIGRATION_CAPABILITIES }),
    qmp.execute('migrate-incoming', { uri: `fd:${FD.state}` }),
    arrived,
  ]);
}

/** Resolves at "completed". QEMU ends itself when an incoming state is bad, so the connection's end is an answer. */
export function migrationEnd(qmp: Qmp, id: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const bad = (reason: string, cause?: unknown): void =>
      reject(
        new RuntimeError({
          code: ErrorCode.FailedPrecondition,
          op: 'vm',
          id,
          object: 'template',
          reason,
          remedy: 'it has to be built anew',
          cause,
        }),
      );
    const end = qmp.onEvent(({ event, data }) => {
      if (event !== 'MIGRATION') return;
      if (data['status'] === 'completed') {
        end();
        resolve();
      } else if (data['status'] === 'failed') {
        end();
        bad('its state cannot be restored');
      }
    });
    qmp.onClose((error) => bad('its state cannot be restored: qemu has ended', error));
  });
}
