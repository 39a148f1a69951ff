import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { eventually } from './lib/exec.ts';
import { isVm } from './lib/paths.ts';

/** Each virtual machine has some 50 MB of its own. */
const many = isVm ? 10 : 50;

/** Limits that bite, and many containers at once. */
describe('limits and load', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
  });
  afterAll(() => containerd?.stop());

  it('kills what exceeds its memory limit and says so by TaskOOM', async () => {
    const events = await containerd.events();
    // tail keeps its last line in memory, and a line of zeros never ends.
    const flags = ['-d', '--memory-limit', String(16 << 20)];
    await containerd.run('oom', ['sh', '-c', 'sleep 0.5; tail /dev/zero; sleep 1000'], { flags });
    await events.wait('/tasks/oom', 'oom');
    await containerd.remove('oom');
    const attached = await containerd.run('oom-init', ['sh', '-c', 'exec tail /dev/zero'], {
      flags: ['--rm', '--memory-limit', String(16 << 20)],
    });
    expect(attached.code).toBe(137);
  });

  it('runs many at once, all correctly', async () => {
    const results = await Promise.all(
      Array.from({ length: many }, (_, n) =>
        containerd.run(`many-${n}`, ['sh', '-c', `echo ${n}; exit ${n}`], { timeout: 100_000 }),
      ),
    );
    expect(results.map(({ code, stdout, stderr }) => ({ code, stdout, stderr }))).toEqual(
      results.map((_, n) => ({ code: n, stdout: `${n}\n`, stderr: '' })),
    );
    expect(await containerd.leaks()).toEqual([]);
  });

  it('holds many idle containers and removes them', async () => {
    const ids = Array.from({ length: many }, (_, n) => `idle-${n}`);
    for (let n = 0; n < ids.length; n += 10) {
      await Promise.all(ids.slice(n, n + 10).map((id) => containerd.detached(id, ['sleep', '1000'])));
    }
    const running = [...(await containerd.tasks()).values()].filter(({ status }) => status === 'RUNNING');
    expect(running).toHaveLength(many);
    for (let n = 0; n < ids.length; n += 10) {
      await Promise.all(ids.slice(n, n + 10).map((id) => containerd.remove(id)));
    }
    await eventually('no task', async () => (await containerd.tasks()).size === 0);
    expect(await containerd.leaks()).toEqual([]);
  });
});
