/**
 * A machine's devices' state, out of a QEMU and into another one (-incoming defer). Its memory is not in it: that is in a
 * file which both see (x-ignore-shared).
 */
import { closeSync, openSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import { isRecord } from './answers.ts';
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

/**
 * Stops the machine and writes its state to a new file.
 * @throws RuntimeError FailedPrecondition when QEMU cannot, DeadlineExceeded when it does not say so within `deadlineMs`
 */
export async function saveState(qmp: Qmp, id: string, path: string, deadlineMs: number): Promise<void> {
  await qmp.execute('stop');
  await qmp.execute('migrate-set-capabilities', CAPABILITIES);
  const fd = openSync(path, 'wx', 0o600);
  try {
    await qmp.execute('getfd', { fdname: SAVED_STATE }, { fd });
    // `exec:` is what QEMU's own filter forbids (spawn=deny), and `file:` came with QEMU 8.2.
    const reason = (): Promise<string> => reasonOf(qmp);
    await migration({ qmp, id, what: 'cannot be saved', deadlineMs, reason }, () => [
      qmp.execute('migrate', { uri: `fd:${SAVED_STATE}` }),
    ]);
  } finally {
    closeSync(fd);
  }
}

/**
 * Resolves when the machine is complete and paused.
 * @throws RuntimeError FailedPrecondition when the state does not fit, DeadlineExceeded without an end within `deadlineMs`
 */
export function restoreState(qmp: Qmp, id: string, deadlineMs: number): Promise<void> {
  // All at once: QEMU does one after the other. `fd:` with a number is a descriptor that it was started with.
  // Nobody is asked why not: QEMU ends itself then, and has said it on its console.
  const reason = (): string => '';
  return migration({ qmp, id, what: 'cannot be restored', deadlineMs, reason }, () => [
    qmp.execute('migrate-set-capabilities', CAPABILITIES),
    qmp.execute('migrate-incoming', { uri: `fd:${FD.state}` }),
  ]);
}

interface Migration {
  qmp: Qmp;
  id: string;
  /** "cannot be saved", for messages. */
  what: string;
  deadlineMs: number;
  /** Of a failure; empty: not known. */
  reason: () => string | Promise<string>;
}

/** Resolves at "completed". QEMU ends itself when an incoming state is bad, so the connection's end is an answer. */
async function migration(wanted: Migration, begin: () => Promise<unknown>[]): Promise<void> {
  const { qmp, id, what, deadlineMs, reason } = wanted;
  const failure = (code: ErrorCode, why: string, cause?: unknown): RuntimeError =>
    new RuntimeError({ code, op: 'vm', id, object: 'template', reason: `its state ${what}${why}`, cause });
  let stop = (): void => {};
  const ended = new Promise<string>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(failure(ErrorCode.DeadlineExceeded, `: qemu is not done within ${deadlineMs} ms`)),
      deadlineMs,
    );
    const end = qmp.onEvent(({ event, data: { status } }) => {
      if (event === 'MIGRATION' && typeof status === 'string' && ENDS.has(status)) resolve(status);
    });
    qmp.onClose(reject);
    stop = () => {
      clearTimeout(timer);
      end();
    };
  });
  try {
    const [status] = await Promise.all([ended, ...begin()]);
    if (status !== COMPLETED) throw failure(ErrorCode.FailedPrecondition, await reason());
  } catch (error) {
    throw qmp.open ? error : failure(ErrorCode.FailedPrecondition, ': qemu has ended', error);
  } finally {
    stop();
  }
}

const COMPLETED = 'completed';
const ENDS: ReadonlySet<string> = new Set([COMPLETED, 'failed', 'cancelled']);

/** QEMU's own words for a migration that has failed, where it has any. */
async function reasonOf(qmp: Qmp): Promise<string> {
  const found = await qmp.execute('query-migrate').catch(() => undefined);
  const words = isRecord(found) ? found['error-desc'] : undefined;
  return typeof words === 'string' && words !== '' ? `: ${words.slice(0, MAX_WORDS)}` : '';
}

const MAX_WORDS = 300;
