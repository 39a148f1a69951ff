import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { run } from '../lib/exec.ts';
import { prefix } from '../lib/paths.ts';
import { machineDirectories, vm } from './machines.ts';

/** Volumes that are NVDIMMs of the guest. Here a file stands for persistent memory; the lab has the kernel's own. */
describe('NVDIMMs behind the vm wall', () => {
  let containerd: PrivateContainerd;
  let tools: string;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
    tools = join(containerd.dir, 'tools');
    mkdirSync(tools);
    const source = join(import.meta.dirname, '../../lab/dax_probe.c');
    execFileSync('gcc', ['-O1', '-static', '-o', join(tools, 'dax_probe'), source]);
  });
  afterAll(() => containerd?.stop());

  const LENGTH = String(2 << 20);
  /** Where the data begin in a volume. */
  const DATA = 2 << 20;
  const allow = ['--annotation', 'bulkhead.io/allow-nonpersistent=true'];

  async function volume(name: string): Promise<string> {
    const path = join(containerd.dir, name);
    const words = ['devices', 'pmem', 'format', '--size', '24M', path];
    const made = await run(join(prefix, 'bin/bulkhead'), words);
    expect(made).toMatchObject({ code: 0, stderr: '', stdout: `${path}: 24 MiB\n` });
    return path;
  }
  const mounts = (path: string, options = 'rw:dax'): string[] => [
    ...['--mount', `type=ext4,src=${path},dst=/data,options=${options}`],
    ...['--mount', `type=bind,src=${tools},dst=/tools,options=rbind:ro`],
  ];
  const contentOf = (path: string, file: string): string =>
    execFileSync('debugfs', ['-R', `cat ${file}`, `${path}?offset=${DATA}`], {
      encoding: 'utf8',
      maxBuffer: 8 << 20,
      stdio: ['ignore', 'pipe', 'ignore'],
    });

  it('have MAP_SYNC inside, and stores reach the host’s file without a flush', async () => {
    const path = await volume('nvdimm.img');
    const script = `grep ' /data ' /proc/mounts; head -c ${LENGTH} /dev/zero > /data/file; sync; /tools/dax_probe write /data/file ${LENGTH} 'from the guest'`;
    const flags = [...allow, ...mounts(path)];
    await containerd.detached('nvdimm', ['sleep', '1000'], flags);
    const told = await containerd.exec('nvdimm', 'store', ['sh', '-c', script]);
    expect(told.stderr).toBe('');
    expect(told.stdout).toMatch(/^\/dev\/pmem\d \/data ext4 rw\S*dax=always\S* .*\nMAP_SYNC\n$/);
    // The machine runs, nothing was unmounted.
    expect(contentOf(path, 'file')).toMatch(/^from the guest\0/);
    await containerd.remove('nvdimm');
    expect(
      execFileSync('dumpe2fs', ['-h', `${path}?offset=${DATA}`], { encoding: 'utf8', stdio: 'pipe' }),
    ).toMatch(/Filesystem state:\s+clean/);
    // What was stored is there for the next machine.
    const again = await containerd.run('again', ['/tools/dax_probe', 'read', '/data/file', LENGTH], {
      flags: ['--rm', ...flags],
    });
    expect(again).toMatchObject({ code: 0, stdout: 'MAP_SYNC\nfrom the guest\n' });
  });

  it('take no stores when they are read-only', async () => {
    const path = await volume('read-only.img');
    const flags = ['--rm', ...mounts(path, 'ro:dax')];
    const result = await containerd.run('read-only', ['sh', '-c', 'ls /data; touch /data/x'], { flags });
    expect(result.stdout).toBe('lost+found\n');
    expect(result.stderr).toContain('Read-only file system');
  });

  it('are refused where stores would not last, and where they are none', async () => {
    const path = await volume('volatile.img');
    const refused = await containerd.run('volatile', ['true'], { flags: ['--rm', ...mounts(path)] });
    expect(refused.stderr).toContain(
      `create volatile: PMEM volume ${path}: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable; ` +
        'put it on a file system that is mounted with dax, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    );
    const odd = join(containerd.dir, 'odd.img');
    writeFileSync(odd, '');
    const words = ['devices', 'pmem', 'format', '--size', '5M', odd];
    expect((await run(join(prefix, 'bin/bulkhead'), words)).stderr).toContain(
      `format: ${odd}: 5242880 bytes: not a multiple of 2 MiB of at least 4 MiB; give --size in whole units of that`,
    );
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});
