import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../lib/exec.ts';
import { PrivateContainerd } from '../lib/containerd.ts';
import { vm } from './machines.ts';

/** Images of the host as volumes: the guest mounts them, the host's kernel never does. */
describe('volumes in images, behind the vm wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
  });
  afterAll(() => containerd?.stop());

  /** An ext4 image with a file "hello". */
  function image(name: string, mib = 16): string {
    const tree = join(containerd.dir, `${name}.d`);
    const path = join(containerd.dir, `${name}.img`);
    mkdirSync(tree);
    writeFileSync(join(tree, 'hello'), 'from the host\n');
    execFileSync('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', tree, path, `${mib}m`]);
    return path;
  }
  const volume = (type: string, source: string, options: string): string[] => [
    '--rm',
    '--mount',
    `type=${type},src=${source},dst=/data,options=${options}`,
  ];
  const contentOf = (path: string, file: string): string =>
    execFileSync('debugfs', ['-R', `cat ${file}`, path], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });

  it('are disks that keep what was written', async () => {
    const path = image('disk');
    const result = await containerd.run(
      'disk',
      ['sh', '-c', 'cat /data/hello; echo from the guest > /data/answer; grep " /data " /proc/mounts'],
      { flags: volume('ext4', path, 'rw:nosuid') },
    );
    expect(result.stderr).toBe('');
    expect(result.stdout).toMatch(/^from the host\n\/dev\/vd\w \/data ext4 rw,nosuid/);
    expect(contentOf(path, 'answer')).toBe('from the guest\n');
    // It was unmounted: a file system that was not says so.
    expect(execFileSync('dumpe2fs', ['-h', path], { encoding: 'utf8', stdio: 'pipe' })).toMatch(
      /Filesystem state:\s+clean/,
    );
  });

  it('are persistent memory with DAX, in which a write of the guest is one of the host’s file', async () => {
    const path = image('pmem');
    const flags = ['-d', ...volume('ext4', path, 'rw:dax').slice(1)];
    const script =
      'grep " /data " /proc/mounts > /data/mounts; echo from the guest > /data/answer; sync; echo done > /data/ready; sync; sleep 1000';
    expect((await containerd.run('pmem', ['sh', '-c', script], { flags })).stderr).toBe('');
    await eventually('what the guest writes', () => readFileSync(path).includes('from the guest\n'));
    await containerd.remove('pmem');
    expect(contentOf(path, 'mounts')).toMatch(/^\/dev\/pmem\d \/data ext4 rw,.*dax=always/);
    expect(contentOf(path, 'answer')).toBe('from the guest\n');
  });

  it('are read-only where that is asked for', async () => {
    const path = image('read-only');
    const before = readFileSync(path);
    const result = await containerd.run('read-only', ['sh', '-c', 'cat /data/hello; touch /data/x'], {
      flags: volume('ext4', path, 'ro'),
    });
    expect(result.stdout).toBe('from the host\n');
    expect(result.stderr).toContain('Read-only file system');
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('are refused with a sentence when they cannot be had', async () => {
    const missing = await containerd.run('missing', ['true'], {
      flags: volume('ext4', '/nonexistent.img', 'rw'),
    });
    expect(missing.stderr).toContain(
      'create missing: mount /data: /nonexistent.img: no such block device or file',
    );
    const path = image('odd', 9);
    const odd = await containerd.run('odd', ['true'], { flags: volume('ext4', path, 'dax') });
    expect(odd.stderr).toContain('is no multiple of 2 MiB, in which persistent memory is mapped');
    const noise = join(containerd.dir, 'noise.img');
    writeFileSync(noise, Buffer.alloc(1 << 20, 7));
    const bad = await containerd.run('noise', ['true'], { flags: volume('ext4', noise, 'rw') });
    expect(bad.stderr).toContain('create noise: guest mount /run/bulkhead/volumes/');
    expect(await containerd.leaks()).toEqual([]);
  });
});
