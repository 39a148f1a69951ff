import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { bind, program } from './programs.ts';

const strict = ['--annotation', 'io.bulkhead.sentry.profile=strict'];

describe('the profile strict of the sentry wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: 'io.containerd.bulkhead-sentry.v2' });
  });
  afterAll(() => containerd?.stop());

  it('answers every call with a path as the kernel does', async () => {
    const tmpfs = ['--mount', 'type=tmpfs,src=tmpfs,dst=/w,options=rw:mode=777'];
    const flags = ['--rm', ...bind(await program('paths'), '/paths'), ...tmpfs];
    const kernel = await containerd.run('paths-kernel', ['/paths'], { flags, timeout: 150_000 });
    const own = await containerd.run('paths-strict', ['/paths'], {
      flags: [...flags, ...strict],
      timeout: 150_000,
    });
    expect([kernel.stderr, own.stderr]).toEqual(['', '']);
    const expected = kernel.stdout.trim().split('\n');
    expect(expected.length).toBeGreaterThan(4000);
    expect(own.stdout.trim().split('\n')).toEqual(expected);
  });
});
