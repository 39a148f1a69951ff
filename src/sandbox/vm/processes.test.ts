import { describe, expect, it } from 'vitest';
import { FakeExecutor } from '../../../test/fakes/executor.ts';
import { ErrorCode } from '../../base/errors.ts';
import { MACHINE_KEY, SHARE_KEY } from './layout.ts';
import { endLaunched, NO_STDIO } from './processes.ts';

/** Forgets a process only when it was asked as often as `after`, as a monitor does while it still runs. */
class SlowExecutor extends FakeExecutor {
  after = Number.POSITIVE_INFINITY;
  #asked = 0;
  override forget(key: string): Promise<void> {
    if ((this.#asked += 1) >= this.after) return super.forget(key);
    return Promise.reject(Object.assign(new Error('device or resource busy'), { code: 'EBUSY' }));
  }
}

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
