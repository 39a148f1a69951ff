import { describe, expect, it, vi } from 'vitest';
import { FakeExecutor } from '../../../test/fakes/executor.ts';
import { ErrorCode } from '../../base/errors.ts';
import { MACHINE_KEY, SHARE_KEY } from './layout.ts';
import { endLaunched, NO_STDIO, runHelper } from './processes.ts';

/** Forgets a process only when it was asked as often as `after`, as a monitor does while it still runs. */
class SlowExecutor extends FakeExecutor {
  after = Number.POSITIVE_INFINITY;
  #asked = 0;
  override forget(key: string): Promise<void> {
    if ((this.#asked += 1) >= this.after) return super.forget(key);
    return Promise.reject(Object.assign(new Error('device or resource busy'), { code: 'EBUSY' }));
  }
}

describe('a helper', () => {
  const plan = { version: 1, id: 'web', steps: [{ exit: {} }] };
  const run = { op: 'create', id: 'web', key: '/vm/share-1' };
  const failed = { op: 'clone', path: '', errno: 11, detail: '', status: 0 };

  it('is forgotten when it has ended', async () => {
    const executor = new FakeExecutor();
    await runHelper(executor, run, plan);
    await executor.launch('/vm/share-2', new Uint8Array(), NO_STDIO);
    executor.exit('/vm/share-2', 0);
    executor.exit('/vm/share-1', 0);
    expect(executor.calls.filter((call) => call.startsWith('forget'))).toEqual(['forget /vm/share-1']);
  });

  it('that fails says at which step', async () => {
    const executor = new FakeExecutor();
    executor.failures.set('/vm/share-1', failed);
    await expect(runHelper(executor, run, plan)).rejects.toMatchObject({ name: 'LaunchError' });
    expect(executor.calls).toEqual(['launch /vm/share-1']);
  });

  it('is killed when a file system of the host keeps it waiting', async () => {
    const executor = new FakeExecutor();
    const launch = executor.launch.bind(executor);
    executor.launch = async (...args) => {
      await launch(...args);
      return new Promise(() => undefined);
    };
    vi.useFakeTimers();
    try {
      const error = runHelper(executor, run, plan).catch((thrown: unknown) => thrown);
      await vi.advanceTimersByTimeAsync(60_000);
      expect(await error).toMatchObject({
        code: ErrorCode.DeadlineExceeded,
        message: 'create web: files of the host: a file system does not answer within 60 s',
      });
    } finally {
      vi.useRealTimers();
    }
    expect(executor.calls).toContain('signal /vm/share-1 9');
    expect(executor.processes.size).toBe(0);
  });
});

describe('a process that is ended', () => {
  it('is forgotten once it has gone', async () => {
    const executor = new SlowExecutor();
    executor.after = 3;
    await executor.launch(MACHINE_KEY, new Uint8Array(), NO_STDIO);
    await endLaunched(executor, { id: 'pod', key: MACHINE_KEY });
    expect(executor.processes.size).toBe(0);
  });

  it('and is not known any more is no error', async () => {
    const executor = new FakeExecutor();
    executor.forget = () => Promise.reject(Object.assign(new Error('gone'), { code: 'ESRCH' }));
    await endLaunched(executor, { id: 'pod', key: MACHINE_KEY });
  });

  it.each([
    [MACHINE_KEY, 'hypervisor'],
    [SHARE_KEY, 'share daemon'],
  ])('and does not go is one sentence: %s', async (key, name) => {
    await expect(endLaunched(new SlowExecutor(), { id: 'pod', key }, 20)).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: `delete pod: ${name}: has not ended within 0.02 s of SIGKILL`,
    });
  });
});
