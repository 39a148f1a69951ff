import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { hypervisors, machineDirectories, shareDaemons, vm } from './machines.ts';

/** A snapshotter that hands over images: containerd's blockfile, there since 1.7. */
describe('a root file system in an image, behind the vm wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm, version: '1.7', blockfile: true });
  });
  afterAll(() => containerd?.stop());

  it('is a disk of the guest, which needs no directory of the host', async () => {
    const script = 'grep " / " /proc/mounts; echo kept > /file; cat /file; exec sleep 1000';
    await containerd.detached('root', ['sh', '-c', script]);
    const mounts = await containerd.exec('root', 'mounts', ['grep', ' / ', '/proc/mounts']);
    expect(mounts.stdout).toMatch(/^\/dev\/vd\w \/ ext4 rw/);
    expect(shareDaemons(containerd)).toEqual([]);
    const [pid] = hypervisors(containerd);
    // The template's memory, mapped privately: clones have in common what none of them has written to.
    const maps = readFileSync(`/proc/${pid ?? 0}/maps`, 'utf8');
    expect(maps).toMatch(/rw-p .*memfd:bulkhead template/);
    expect(maps).not.toMatch(/rw-s .*memfd:/);
    await containerd.remove('root');
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });

  it('goes with a directory of the host when there is something to share', async () => {
    const flags = ['--rm', '--mount', 'type=bind,src=/etc/hostname,dst=/given,options=rbind:ro'];
    const result = await containerd.run('shared', ['cat', '/given'], { flags });
    expect(result).toMatchObject({ code: 0, stdout: readFileSync('/etc/hostname', 'utf8'), stderr: '' });
  });

  it('has its limits enforced in private memory as well', async () => {
    const result = await containerd.run('limited', ['tail', '/dev/zero'], {
      flags: ['--rm', '--memory-limit', String(32 << 20)],
      timeout: 60_000,
    });
    expect(result.code).toBe(137);
    expect(await containerd.leaks()).toEqual([]);
  });
});
