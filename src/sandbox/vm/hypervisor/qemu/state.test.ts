import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, type RuntimeError } from '../../../../base/errors.ts';
import { addon } from '../../../../native/index.ts';
import { QmpRefusal, ScriptedQmp, type QmpScript } from '../testing/scripted_qmp.ts';
import { Qmp } from './qmp.ts';
import { restoreState, saveState } from './state.ts';

let qemu: ScriptedQmp;
let qmp: Qmp;

const openFiles = (): number => readdirSync('/proc/self/fd').length;
const failure = (of: Promise<unknown>): Promise<RuntimeError> =>
  of.then(
    () => expect.unreachable('it resolved'),
    (error: unknown) => error as RuntimeError,
  );

beforeEach(async () => {
  qemu = await ScriptedQmp.start();
  qmp = await Qmp.connect(qemu.path, {
    id: 'pod-1',
    connect: (path) => addon().connectUnix(path),
    sendFd: (socket, fd, message) => addon().sendFdOver(socket, fd, message),
  });
});
afterEach(async () => {
  qmp.close();
  await qemu[Symbol.asyncDispose]();
});

const words = ': no space\\u000a\\u001b[2Jleft';
/** With QEMU's reason for a failure; what cannot be restored ends QEMU, which is not asked. */
const transfers: [
  command: string,
  what: string,
  run: (deadlineMs: number) => Promise<void>,
  reason: string,
][] = [
  ['migrate', 'saved', (deadlineMs) => saveState(qmp, 'pod-1', join(qemu.dir, 'state'), deadlineMs), words],
  ['migrate-incoming', 'restored', (deadlineMs) => restoreState(qmp, 'pod-1', deadlineMs), ''],
];

describe.each(transfers)('a state, by %s', (command, what, run, reason) => {
  /** Tells of the migration as soon as it is asked for. */
  const tells =
    (...states: string[]): QmpScript =>
    ({ execute }) => {
      if (execute === command) for (const status of states) qemu.event('MIGRATION', { status });
      if (execute === 'query-migrate') return { status: 'failed', 'error-desc': 'no space\n\u001b[2Jleft' };
      return {};
    };

  it('is whole when QEMU says so', async () => {
    qemu.script = tells('setup', 'active', 'device', 'completed');
    await run(60_000);
    expect(qemu.commands.at(-1)).toBe(command);
  });

  it.each(['failed', 'cancelled'])('that is %s is told in QEMU’s words', async (status) => {
    qemu.script = tells('setup', status);
    const error = await failure(run(60_000));
    expect(error.code).toBe(ErrorCode.FailedPrecondition);
    expect(error.object).toBe('template');
    expect(error.message).toBe(`vm pod-1: template: its state cannot be ${what}${reason}`);
    expect(qemu.commands.includes('query-migrate')).toBe(reason !== '');
  });

  it('is not waited for without end', async () => {
    qemu.script = tells('setup', 'active');
    const error = await failure(run(50));
    expect(error.code).toBe(ErrorCode.DeadlineExceeded);
    expect(error.message).toBe(
      `vm pod-1: template: its state cannot be ${what}: qemu is not done within 50 ms`,
    );
  });

  it('that QEMU refuses keeps nobody waiting', async () => {
    qemu.script = ({ execute }) => (execute === command ? new QmpRefusal('a blocker') : {});
    await expect(run(60_000)).rejects.toThrow(`vm pod-1: qemu ${command}: a blocker`);
  });

  it('of a QEMU that ends is one error', async () => {
    qemu.script = ({ execute }) => {
      if (execute === command) qemu.hangUp();
      return execute === command ? undefined : {};
    };
    const error = await failure(run(60_000));
    expect(error.message).toBe(`vm pod-1: template: its state cannot be ${what}: qemu has ended`);
  });

  it('leaves no descriptor open, however it ends', async () => {
    const before = openFiles();
    qemu.script = tells('failed');
    await failure(run(60_000));
    expect(openFiles()).toBe(before);
  });
});

describe('a state that is saved', () => {
  it('is never written over another', async () => {
    const path = join(qemu.dir, 'state');
    qemu.script = ({ execute }) => {
      if (execute === 'migrate') qemu.event('MIGRATION', { status: 'completed' });
      return {};
    };
    await saveState(qmp, 'pod-1', path, 60_000);
    expect(existsSync(path)).toBe(true);
    await expect(saveState(qmp, 'pod-1', path, 60_000)).rejects.toThrow('EEXIST');
  });
});
