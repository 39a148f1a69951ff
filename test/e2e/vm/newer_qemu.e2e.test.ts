/** The QEMU of Debian 13, of which nothing is installed here: programs of a directory that virtiofsd shares. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { peers } from '../lib/paths.ts';
import { vm } from './machines.ts';

const QEMU = join(peers, 'lab-qemu/usr/bin/qemu-system-x86_64');

let containerd: PrivateContainerd;
beforeAll(async () => {
  const vmConfig = `qemu = ${JSON.stringify(QEMU)}\ntemplate = false\n`;
  containerd = await PrivateContainerd.start({ runtime: vm, vmConfig });
});
afterAll(() => containerd?.stop());

// TCG ran what it had translated of a page's former content (command_line.ts): of these, all but the first crashed.
it('run on it, one after the other', async () => {
  const started = await containerd.run('pod', ['sleep', '10000'], { flags: ['-d'] });
  expect(started).toMatchObject({ code: 0, stderr: '' });
  const commands: [string, ...string[]][] = [
    ['true'],
    ['echo', 'a'],
    ['cat', '/proc/sys/kernel/ostype'],
    ['sh', '-c', 'echo $(echo b | cat)'],
    ['expr', '2', '+', '3'],
    ['sh', '-c', 'for i in 1 2 3; do ls -d /; done | wc -l'],
  ];
  const results = [];
  for (const [index, command] of commands.entries()) {
    const { code, stdout, stderr } = await containerd.exec('pod', `e${index}`, command);
    results.push([code, stdout, stderr]);
  }
  expect(results).toEqual(['', 'a\n', 'Linux\n', 'b\n', '5\n', '3\n'].map((output) => [0, output, '']));
  await containerd.remove('pod');
  expect(await containerd.leaks()).toEqual([]);
});
