/**
 * A machine's devices' state, out of a QEMU and into another one (-incoming defer). Its memory is not in it: that is in a
 * file which both see (x-ignore-shared).
 */
import { closeSync, openSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import { FD } from './command_line.ts';
import type { Qmp } from './qmp.ts';

const CAPABILITIES = {
  capabilities: [
    { capability: 'x-ignore-shared', state: true },
    // We are told when it is done.
    { capability: 'events', state: true },
  ],
};
const SAVED_STATE = 'state';

/** Stops the machine and writes its state to a new file. */
export async function saveState(qmp: Qmp, id: string, path: string): Promise<void> {
  await qmp.execute('stop');
  await qmp.execute('migrate-set-capabilities', CAPABILITIES);
  const fd = openSync(path, 'wx', 0o600);
  try {
    await qmp.execute('getfd', { fdname: SAVED_STATE }, { fd });
    // `exec:` is what QEMU's own filter forbids (spawn=deny), and `file:` came with QEMU 8.2.
    await Promise.all([
      qmp.execute('migrate', { uri: `fd:${SAVED_STATE}` }),
      migrationEnd(qmp, id, 'cannot be saved'),
    ]);
  } finally {
    closeSync(fd);
  }
}

/** Resolves when the machine is complete and paused. Rejects with FailedPrecondition when the state does not fit. */
export async function restoreState(qmp: Qmp, id: string): Promise<void> {
  // All at once: QEMU does one after the other. `fd:` with a number is a descriptor that it was started with.
  await Promise.all([
    qmp.execute('migrate-set-capabilities', CAPABILITIES),
    qmp.execute('migrate-incoming', { uri: `fd:${FD.state}` }),
    migrationEnd(qmp, id, 'cannot be restored'),
  ]);
}

/** Resolves at "completed". QEMU ends itself when an incoming state is bad, so the connection's end is an answer. */
function migrationEnd(qmp: Qmp, id: string, what: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string, cause?: unknown): void =>
      reject(
        new RuntimeError({
          code: ErrorCode.FailedPrecondition,
          op: 'vm',
          id,
          object: 'template',
          reason,
          cause,
        }),
      );
    const end = qmp.onEvent(({ event, data }) => {
      if (event !== 'MIGRATION') return;
      const { status } = data;
      if (status !== 'completed' && status !== 'failed') return;
      end();
      if (status === 'completed') resolve();
      else fail(`its state ${what}`);
    });
    qmp.onClose((error) => fail(`its state ${what}: qemu has ended`, error));
  });
}
