import { beforeEach, describe, expect, it } from 'vitest';
import type { bulkhead } from '../gen/bulkhead.js';
import type { HeldProcess, ProcessExit } from '../sandbox/executor.ts';
import { MonitorExecutor } from './monitor_executor.ts';

describe('a process that the wall holds itself', () => {
  let sent: bulkhead.executor.v1.IToMonitor[];
  let done: string[];
  let executor: MonitorExecutor;
  const process: HeldProcess = {
    proceed: async () => {
      done.push('proceed');
      return { pid: 77, pausedAt: '' };
    },
    signal: async (signum) => void done.push(`signal ${signum}`),
    resize: async (width, height) => void done.push(`resize ${width}x${height}`),
    closeStdin: async () => void done.push('close'),
    forget: async () => void done.push('forget'),
  };

  beforeEach(() => {
    sent = [];
    done = [];
    executor = new MonitorExecutor((message) => sent.push(message));
  });

  it('gets what concerns its key, and the monitor none of it', async () => {
    executor.hold('web', process);
    expect(await executor.proceed('web')).toEqual({ pid: 77, pausedAt: '' });
    await executor.signal('web', 15);
    await executor.resize('web', 80, 24);
    await executor.closeStdin('web');
    await executor.forget('web');
    expect(done).toEqual(['proceed', 'signal 15', 'resize 80x24', 'close', 'forget']);
    expect(sent).toEqual([]);
  });

  it('tells its exit as others do', () => {
    const heard: ProcessExit[] = [];
    executor.onExit((exit) => heard.push(exit));
    executor.hold('web', process)({ pid: 77, waitStatus: 0, exitedAtNs: 5 });
    expect(heard).toEqual([{ key: 'web', pid: 77, waitStatus: 0, exitedAtNs: 5 }]);
  });

  it('leaves its key to the monitor once it is forgotten', async () => {
    executor.hold('web', process);
    await executor.forget('web');
    void executor.signal('web', 9);
    expect(sent).toMatchObject([{ signal: { key: 'web', signal: 9 } }]);
  });

  it('keeps its key when it cannot be forgotten, and a new one of that key is kept', async () => {
    executor.hold('web', { ...process, forget: () => Promise.reject(new Error('it runs')) });
    await expect(executor.forget('web')).rejects.toThrow('it runs');
    let release = (): void => {};
    executor.hold('web', { ...process, forget: () => new Promise((resolve) => (release = resolve)) });
    const forgetting = executor.forget('web');
    executor.hold('web', process);
    release();
    await forgetting;
    await executor.signal('web', 9);
    expect(done).toEqual(['signal 9']);
  });

  it('keeps apart from others', () => {
    executor.hold('web', process);
    void executor.proceed('web/e');
    expect(sent).toMatchObject([{ continue: { key: 'web/e' } }]);
  });
});
