import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually, run } from '../lib/exec.ts';
import { machineDirectories, vm } from './machines.ts';

/** One directory of the host in several containers of a pod, as an emptyDir is. */
describe('a volume of two containers, behind the vm wall', () => {
  let containerd: PrivateContainerd;
  let volume: string;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
    volume = join(containerd.dir, 'volume');
    mkdirSync(volume);
    await mount('--bind', volume, volume);
    await mount('--make-shared', volume);
    await containerd.detached('one', ['sleep', '1000'], inPod('rw'));
    await containerd.detached('two', ['sleep', '1000'], inPod('ro'));
  });
  afterAll(async () => {
    await run('umount', ['--recursive', volume]);
    await containerd?.stop();
  });

  const mount = async (...args: string[]): Promise<void> => {
    expect(await run('mount', args)).toMatchObject({ code: 0, stderr: '' });
  };
  const inPod = (options: string): string[] => [
    ...['--annotation', 'io.containerd.runc.v2.group=pod'],
    ...['--mount', `type=bind,src=${volume},dst=/volume,options=rbind:${options}`],
  ];
  let execs = 0;
  const sh = async (container: string, script: string): Promise<string> => {
    const command = ['timeout', '60', 'sh', '-c', script];
    const { stdout, stderr } = await containerd.exec(container, `e${++execs}`, command);
    return stdout + stderr;
  };

  it('connects them by fifos, also who may only read', async () => {
    await sh('one', 'mkfifo /volume/fifo');
    const [, read] = await Promise.all([
      sh('one', 'echo through the fifo > /volume/fifo'),
      sh('two', 'cat /volume/fifo'),
    ]);
    expect(read).toBe('through the fifo\n');
  });

  it('connects them by sockets and locks', async () => {
    const program = join(volume, 'common');
    execFileSync('gcc', ['-static', '-O1', '-o', program, join(import.meta.dirname, 'common.c')]);
    await sh('one', '/volume/common serve /volume/socket > /dev/null 2>&1 &');
    await eventually('the server', async () => (await sh('two', 'ls /volume')).includes('socket\n'));
    expect(await sh('two', '/volume/common lock /volume/socket')).toBe('taken\n');
    // It begins to listen a moment after its socket is there.
    await eventually(
      'the answer',
      async () => (await sh('two', '/volume/common ask /volume/socket hello')) === 'hello',
    );
    // It answers once and ends.
    await eventually(
      'the lock',
      async () => (await sh('two', '/volume/common lock /volume/socket')) === 'free\n',
    );
  });

  it('shows one at once what the other has written, and to nobody who may only read it is writable', async () => {
    for (const text of ['first', 'second', 'third']) {
      await sh('one', `echo ${text} > /volume/file`);
      expect(await sh('two', 'cat /volume/file')).toBe(`${text}\n`);
    }
    expect(await sh('two', 'echo x > /volume/file')).toContain('Read-only file system');
    expect(readFileSync(join(volume, 'file'), 'utf8')).toBe('third\n');
  });

  it('stays when the first of them goes', async () => {
    await containerd.detached('three', ['sleep', '1000'], inPod('rw'));
    await containerd.remove('one');
    expect(await sh('three', 'cat /volume/file; echo fourth > /volume/file')).toBe('third\n');
    expect(await sh('two', 'cat /volume/file')).toBe('fourth\n');
    await containerd.remove('two');
  });

  it('has what the host mounts in it later only where that is asked for', async () => {
    await containerd.detached('follower', ['sleep', '1000'], inPod('rslave:rw'));
    const later = join(volume, 'later');
    mkdirSync(later);
    await mount('-t', 'tmpfs', 'tmpfs', later);
    writeFileSync(join(later, 'word'), 'from below\n');
    expect(await sh('follower', 'cat /volume/later/word')).toBe('from below\n');
    expect(await sh('three', 'ls -A /volume/later')).toBe('');
    await containerd.remove('follower');
  });

  it('leaves nothing behind', async () => {
    await containerd.remove('three');
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});
