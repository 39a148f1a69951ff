import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { run } from '../lib/exec.ts';
import { prefix } from '../lib/paths.ts';
import { vm } from './machines.ts';

let containerd: PrivateContainerd;
beforeAll(async () => {
  containerd = await PrivateContainerd.start({ runtime: vm });
});
afterAll(() => containerd?.stop());

it('leaves the agent of a guest processes that its containers cannot take', async () => {
  await containerd.detached('pod', ['sleep', '1000']);
  const files = [
    '/proc/sys/kernel/threads-max',
    '/proc/sys/kernel/pid_max',
    '/sys/fs/cgroup/bulkhead/pids.max',
  ];
  const words = ['guest', 'exec', 'pod', '--', 'cat', ...files];
  const result = await run(join(prefix, 'bin/bulkhead'), words, { env: containerd.env });
  const [threads = 0, pids = 0, limit = 0] = result.stdout.trim().split('\n').map(Number);
  expect(Math.min(threads, pids)).toBeGreaterThan(0);
  expect(limit).toBeGreaterThan(0);
  expect(limit).toBeLessThanOrEqual(Math.ceil((Math.min(threads, pids) * 7) / 8));
  await containerd.remove('pod');
});
