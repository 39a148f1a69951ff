import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually } from '../lib/exec.ts';
import { hypervisors, machineDirectories, shareDaemons, vm } from './machines.ts';

const PODS = ['one', 'two', 'three'];

/** Of "7f00-7f40", which has at most 48 bits. */
const sizeOf = (range: string): number => {
  const [from = 0, to = 0] = range.split('-').map((address) => Number.parseInt(address, 16));
  return to - from;
};

describe('a root file system in persistent memory', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    const vmConfig = 'root_device = "pmem"\n';
    containerd = await PrivateContainerd.start({ runtime: vm, version: '1.7', blockfile: true, vmConfig });
  });
  afterAll(() => containerd?.stop());

  /** An ext4 image whose root has a shell. */
  function image(name: string, ...options: string[]): string {
    const tree = join(containerd.dir, `${name}.d`);
    const path = join(containerd.dir, name);
    for (const each of ['bin', 'proc', 'dev', 'sys', 'run', 'etc'])
      mkdirSync(join(tree, each), { recursive: true });
    copyFileSync('/bin/busybox', join(tree, 'bin/busybox'));
    for (const each of ['sh', 'cat', 'grep', 'sleep', 'touch'])
      symlinkSync('busybox', join(tree, 'bin', each));
    execFileSync('mke2fs', ['-q', '-t', 'ext4', ...options, '-d', tree, path, '16m']);
    return path;
  }
  const run = (
    id: string,
    path: string,
    flags: string[],
    script: string,
  ): ReturnType<typeof containerd.ctr> =>
    containerd.ctr(['run', ...flags, '--runtime', vm, '--rootfs', path, id, 'sh', '-c', script], {
      timeout: 60_000,
    });
  /** How a hypervisor maps a file of that size: "r--s DEVICE INODE". Below an overlay stat(2) would name another one. */
  const mappings = (pid: number, bytes: number): string[] =>
    readFileSync(`/proc/${pid}/maps`, 'utf8')
      .split('\n')
      .map((line) => line.split(/\s+/))
      .filter(([range = '', , , , inode]) => sizeOf(range) === bytes && inode !== '0')
      .map(([, flags, , device, inode]) => `${flags} ${device} ${inode}`);

  it('is the snapshotter’s image, mounted with DAX, and keeps what is written', async () => {
    const script = 'grep " / " /proc/mounts; echo kept > /file; cat /file';
    const result = await containerd.run('own', ['sh', '-c', script], { flags: ['--rm'] });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(/^\/dev\/pmem\d+ \/ ext4 rw,.*\bdax=always\b.*\nkept\n$/);
    expect(await containerd.leaks()).toEqual([]);
  });

  it('is one file of the host, whose pages all clones map', async () => {
    const path = image('root.img', '-b', '4096');
    const before = readFileSync(path);
    const flags = ['-d', '--null-io', '--read-only'];
    for (const id of PODS) {
      const started = await run(id, path, flags, 'exec sleep 1000');
      expect(started).toMatchObject({ code: 0, stderr: '' });
    }
    expect(shareDaemons(containerd)).toEqual([]);
    const machines = hypervisors(containerd);
    expect(machines).toHaveLength(PODS.length);
    const mapped = machines.flatMap((pid) => mappings(pid, statSync(path).size));
    expect(mapped).toHaveLength(PODS.length);
    expect(new Set(mapped).size).toBe(1);
    expect(mapped[0]).toMatch(/^r--s /);
    for (const pid of machines) {
      expect(readFileSync(`/proc/${pid}/maps`, 'utf8')).toMatch(/rw-p .*memfd:bulkhead template/);
    }
    for (const id of PODS) {
      const mount = await containerd.exec(id, 'mounts', ['sh', '-c', 'grep " / " /proc/mounts; touch /x']);
      expect(mount.stdout).toMatch(/^\/dev\/pmem\d+ \/ ext4 ro,.*\bdax=always\b/);
      expect(mount.stderr).toContain('Read-only file system');
    }
    await Promise.all(PODS.map((id) => containerd.remove(id)));
    await eventually('the machines to be gone', () => machineDirectories(containerd).length === 0);
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(await containerd.leaks()).toEqual([]);
  });

  it('is refused when its blocks are no pages, and when the file is no image', async () => {
    const odd = await run('odd', image('odd.img', '-b', '1024'), ['--rm'], 'true');
    expect(odd.code).not.toBe(0);
    expect(odd.stderr).toContain(
      'its file system has blocks of 1024 bytes, and DAX needs those of a page, 4096',
    );
    const none = await run('none', '/bin/busybox', ['--rm'], 'true');
    expect(none.code).not.toBe(0);
    expect(none.stderr).toContain(
      'create none: rootfs: /bin/busybox: is neither a directory nor an image of a file system',
    );
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});
