import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { bind, program } from './programs.ts';

const mounts = ['--annotation', 'io.bulkhead.sentry.mounts=true'];

describe('mounts behind the sentry wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: 'io.containerd.bulkhead-sentry.v2' });
  });
  afterAll(() => containerd?.stop());

  it.each(['kernel', 'strict'])(
    'are made where nothing of the host comes in, under %s',
    async (profile) => {
      const flags = ['--rm', ...mounts, ...bind(await program('mounts'), '/mounts')];
      flags.push('--annotation', `io.bulkhead.sentry.profile=${profile}`);
      const result = await containerd.run(`mounts-${profile}`, ['/mounts'], { flags, timeout: 60_000 });
      const lines = result.stdout.trim().split('\n');
      expect(lines.filter((line) => !line.endsWith(' ok'))).toEqual([]);
      expect(lines.at(-1)).toBe('races over the target ok');
      expect(result).toMatchObject({ code: 0, stderr: '' });
    },
    600_000,
  );

  it('are seen by an exec, and by nobody on the host', async () => {
    await containerd.detached('mounter', ['sleep', '1000'], mounts);
    const script =
      'mkdir /m && mount -t tmpfs -o size=1m tmpfs /m && echo kept > /m/file && grep -c " /m " /proc/mounts';
    const made = await containerd.exec('mounter', 'make', ['sh', '-c', script]);
    expect(made).toMatchObject({ code: 0, stdout: '1\n', stderr: '' });
    const seen = await containerd.exec('mounter', 'see', ['cat', '/m/file']);
    expect(seen).toMatchObject({ code: 0, stdout: 'kept\n' });
    expect(readFileSync('/proc/mounts', 'utf8')).not.toContain(' /m ');
    const undone = await containerd.exec('mounter', 'undo', ['sh', '-c', 'umount /m && ls /m']);
    expect(undone).toMatchObject({ code: 0, stdout: '', stderr: '' });
    await containerd.remove('mounter');
  });

  it('are refused unless the annotation asks for them', async () => {
    const result = await containerd.run('unasked', ['mount', '-t', 'tmpfs', 'tmpfs', '/tmp'], {
      flags: ['--rm'],
    });
    expect(result.code).not.toBe(0);
    expect(result.stderr).toMatch(/permission denied|Operation not permitted/i);
  });

  it('leave nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
