/**
 * Persistent memory (emulated NVDIMMs, the kernel's own drivers) in its three modes through the namespace wall and the vm
 * wall. Everything is looked at from inside and on the host.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Cli, program, type Config } from '../cli/lib/cli.ts';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { run } from '../e2e/lib/exec.ts';
import { scratch } from '../e2e/lib/paths.ts';
import { vm } from '../e2e/vm/machines.ts';
import { ON_KVM, runInMachine } from './machines.ts';

const MIB = 1 << 20;
const MINUTE = 60_000;
const LENGTH = String(2 * MIB);
const MOUNT = '/mnt/pmem';

const dir = join(scratch(), 'pmem');
const probe = join(dir, 'dax_probe');
const specDir = join(dir, 'cdi');

const sh = (script: string): string => execFileSync('bash', ['-euc', script], { encoding: 'utf8' });
const onHost = (...words: string[]): Promise<{ code: number | null; stdout: string }> => run(probe, words);

beforeAll(() => {
  mkdirSync(dir);
  mkdirSync(specDir);
  sh(`gcc -O1 -static -o ${probe} ${join(import.meta.dirname, 'dax_probe.c')}`);
  sh(`ndctl create-namespace -f -e namespace0.0 --mode=fsdax --map=mem >&2
      ndctl create-namespace -f -e namespace1.0 --mode=devdax --map=mem --align=2M >&2
      ndctl create-namespace -f -e namespace2.0 --mode=sector >&2
      mkfs.ext4 -q -b 4096 /dev/pmem0
      mkdir -p ${MOUNT} && mount -o dax=always /dev/pmem0 ${MOUNT}`);
});
afterAll(() => {
  sh(`umount ${MOUNT}`);
});

/** The walls that it can be passed to. */
const verdict = (walls: Config): string =>
  Object.keys(walls)
    .filter((wall) => walls[wall].ok)
    .join(' ');

/** Rows of `bulkhead devices --json` that are persistent memory, by id. */
async function report(): Promise<Map<string, Config>> {
  const result = await run(program, ['devices', '--json']);
  expect(result).toMatchObject({ code: 0, stderr: '' });
  const rows: Config[] = JSON.parse(result.stdout).devices;
  return new Map(rows.filter(({ kind }) => kind === 'pmem').map((row) => [row.id, row]));
}

describe('this machine', () => {
  it('has persistent memory in three modes, which the command recognises', async () => {
    const rows = await report();
    expect(
      Object.fromEntries([...rows].map(([id, { name, walls }]) => [id, [name, verdict(walls)]])),
    ).toEqual({
      'namespace0.0': [expect.stringMatching(/^fsdax \d+ MiB \/dev\/pmem0$/), 'namespace vm'],
      'namespace1.0': [expect.stringMatching(/^devdax \d+ MiB \/dev\/dax1\.0$/), 'namespace vm'],
      'namespace2.0': [expect.stringMatching(/^sector \d+ MiB \/dev\/pmem2s$/), 'namespace vm'],
    });
  });

  it('grants MAP_SYNC with DAX, and nowhere else', async () => {
    const file = join(MOUNT, 'host');
    writeFileSync(file, Buffer.alloc(2 * MIB));
    expect(await onHost('write', file, LENGTH, 'host')).toMatchObject({ code: 0, stdout: 'MAP_SYNC\n' });
    const plain = join(dir, 'plain');
    writeFileSync(plain, Buffer.alloc(2 * MIB));
    expect(await onHost('write', plain, LENGTH, 'x')).toMatchObject({ code: 1, stdout: 'EOPNOTSUPP\n' });
  });
});

describe('the namespace wall', () => {
  const cli = new Cli();
  beforeAll(async () => {
    await cli.prepare();
    cli.configure((config) => {
      config.mounts.push({ destination: '/probe', type: 'bind', source: probe, options: ['bind', 'ro'] });
    });
    const spec = join(specDir, 'pmem.json');
    const made = await cli.run(['devices', 'cdi', 'generate', '--kind', 'bulkhead.io/pmem', '-o', spec]);
    expect(made).toMatchObject({ code: 0, stderr: '' });
  });
  afterAll(() => cli.destroy());

  const withDevice = (device: string, script: string): ReturnType<Cli['run']> => {
    cli.configure((config) => (config.process.args = ['sh', '-c', script]));
    const flags = ['--cdi-spec-dir', specDir, '--device', `bulkhead.io/pmem=${device}`];
    return cli.run(['run', ...flags, cli.id()], { timeout: MINUTE });
  };

  it('gives a file system with DAX: stores are durable and are the host’s', async () => {
    const at = '/pmem/namespace0.0';
    const script = `head -c ${LENGTH} /dev/zero > ${at}/inside; /probe write ${at}/inside ${LENGTH} 'from the container'; /probe read ${at}/host ${LENGTH}`;
    const result = await withDevice('namespace0.0', script);
    expect(result).toMatchObject({ code: 0, stderr: '', stdout: 'MAP_SYNC\nMAP_SYNC\nhost\n' });
    expect(readFileSync(join(MOUNT, 'inside'), 'latin1')).toMatch(/^from the container\0/);
  });

  it('never has MAP_SYNC in the container’s own root', async () => {
    const script = `head -c ${LENGTH} /dev/zero > /dev/shm/x; /probe write /dev/shm/x ${LENGTH} x`;
    expect(await withDevice('namespace0.0', script)).toMatchObject({ code: 1, stdout: 'EOPNOTSUPP\n' });
  });

  it('gives a device-DAX node', async () => {
    const script = `ls -l /dev/dax1.0 | cut -c1; /probe write /dev/dax1.0 ${LENGTH} 'from the container'`;
    expect(await withDevice('namespace1.0', script)).toMatchObject({
      code: 0,
      stderr: '',
      stdout: 'c\nMAP_SYNC\n',
    });
    expect(await onHost('read', '/dev/dax1.0', LENGTH)).toMatchObject({
      stdout: 'MAP_SYNC\nfrom the container\n',
    });
  });

  it('gives a sector device, which has no DAX', async () => {
    const script = `echo 'from the container' | dd of=/dev/pmem2s conv=fsync bs=4096 2>/dev/null; /probe write /dev/pmem2s ${LENGTH} x`;
    expect(await withDevice('namespace2.0', script)).toMatchObject({ code: 1, stdout: 'EOPNOTSUPP\n' });
    expect(sh('head -c 18 /dev/pmem2s')).toBe('from the container');
  });

  it('gives nothing that was not asked for', async () => {
    const script = `/probe read /dev/pmem2s ${LENGTH}`;
    const result = await withDevice('namespace1.0', script);
    expect(result).toMatchObject({ code: 2, stderr: 'open: ENOENT\n' });
    expect(cli.leftovers()).toEqual([]);
  });
});

describe('the vm wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    const bulkheadConfig = `[engine]\ncdi_spec_dirs = [${JSON.stringify(specDir)}]\n`;
    containerd = await PrivateContainerd.start({ runtime: vm, bulkheadConfig, vmConfig: ON_KVM });
  });
  afterAll(() => containerd?.stop());

  const withTools = ['--rm', '--mount', `type=bind,src=${dir},dst=/tools,options=rbind:ro`];
  const volume = (source: string, options: string): string[] => [
    ...withTools,
    ...['--mount', `type=ext4,src=${source},dst=/data,options=${options}`],
  ];
  const inside = (id: string, script: string, flags: string[]): ReturnType<PrivateContainerd['run']> =>
    runInMachine(containerd, id, ['sh', '-c', script], { flags, timeout: 4 * MINUTE });
  /** `bulkhead devices pmem format`: what a guest takes for an NVDIMM, with its data at 2 MiB. */
  const format = async (...words: string[]): Promise<void> => {
    const made = await run(program, ['devices', 'pmem', 'format', ...words]);
    expect(made).toMatchObject({ code: 0, stderr: '' });
  };
  /** An ext4 image with a file that programs inside may map. */
  const image = (path: string): void => {
    const tree = join(dir, 'tree');
    mkdirSync(tree, { recursive: true });
    writeFileSync(join(tree, 'file'), Buffer.alloc(2 * MIB));
    sh(`mke2fs -q -t ext4 -b 4096 -O ^has_journal -d ${tree} ${path} 16m`);
  };

  it('gives an image on a DAX file system as memory: what the guest syncs is in the host’s persistent memory', async () => {
    const path = join(MOUNT, 'volume.img');
    image(path);
    const script = `grep ' /data ' /proc/mounts; /tools/dax_probe plain /data/file ${LENGTH} 'from the guest'; /tools/dax_probe write /data/file ${LENGTH} x`;
    const result = await runInMachine(containerd, 'fsdax', ['sh', '-c', script], {
      flags: volume(path, 'rw:dax'),
      timeout: 4 * MINUTE,
    });
    expect(result.stderr).toBe('');
    // virtio-pmem is flushed by request: the guest's kernel refuses MAP_SYNC there (Linux, virtio_pmem).
    expect(result.stdout).toMatch(/^\/dev\/pmem\d \/data ext4 rw\S*dax=always\S* .*\nfsync\nEOPNOTSUPP\n$/);
    expect(sh(`debugfs -R 'cat file' ${path} 2>/dev/null | head -c 14`)).toBe('from the guest');
  });

  it('gives a volume on a DAX file system as an NVDIMM: MAP_SYNC inside, and stores are in the host’s persistent memory', async () => {
    const path = join(MOUNT, 'nvdimm.img');
    await format('--size', '32M', path);
    const script = `grep ' /data ' /proc/mounts; head -c ${LENGTH} /dev/zero > /data/file; sync; /tools/dax_probe write /data/file ${LENGTH} 'by MAP_SYNC'`;
    const result = await inside('nvdimm', script, volume(path, 'rw:dax'));
    expect(result.stderr).toBe('');
    expect(result.stdout).toMatch(/^\/dev\/pmem\d \/data ext4 rw\S*dax=always\S* .*\nMAP_SYNC\n$/);
    expect(sh(`debugfs -R 'cat file' '${path}?offset=${2 * MIB}' 2>/dev/null | head -c 11`)).toBe(
      'by MAP_SYNC',
    );
    sh(`dumpe2fs -h '${path}?offset=${2 * MIB}' 2>/dev/null | grep -q 'state: *clean'`);
  });

  it('gives no directory as persistent memory, and no volume of a file system without DAX', async () => {
    const annotation = ['--annotation', 'cdi.k8s.io/pmem=bulkhead.io/pmem=namespace0.0'];
    const directory = await inside('directory', 'true', [...withTools, ...annotation]);
    expect(directory.stderr).toContain(
      `PMEM volume ${MOUNT}: MAP_SYNC not supported (a guest has a directory over virtio-fs, without DAX); writes would not be durable`,
    );
    const path = join(dir, 'volatile.img');
    await format('--size', '4M', path);
    const plain = await inside('plain', 'true', volume(path, 'rw:dax'));
    expect(plain.stderr).toContain(
      `PMEM volume ${path}: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable`,
    );
  });

  it('gives device-DAX that was prepared as a node, by its name and by its CDI name', async () => {
    const flags = [...withTools, '--device', '/dev/dax1.0'];
    const script = `ls -l /dev/dax1.0 | cut -c1; /tools/dax_probe write /dev/dax1.0 ${LENGTH} 'by the guest'`;
    const refused = await inside('unprepared', script, flags);
    expect(refused.stderr).toContain(
      'device /dev/dax1.0: does not begin as device-DAX of a guest does, and would be memory without DAX there; prepare it with: bulkhead devices pmem format --mode devdax /dev/dax1.0 (this erases it)',
    );
    await format('--mode', 'devdax', '--force', '/dev/dax1.0');
    expect(await inside('devdax', script, flags)).toMatchObject({
      code: 0,
      stderr: '',
      stdout: 'c\nMAP_SYNC\n',
    });
    const read = await onHost('read', '/dev/dax1.0', LENGTH, String(2 * MIB));
    expect(read.stdout).toBe('MAP_SYNC\nby the guest\n');
    const annotation = ['--annotation', 'cdi.k8s.io/pmem=bulkhead.io/pmem=namespace1.0'];
    const named = await inside('named', `/tools/dax_probe read /dev/dax1.0 ${LENGTH}`, [
      ...withTools,
      ...annotation,
    ]);
    expect(named).toMatchObject({ code: 0, stderr: '', stdout: 'MAP_SYNC\nby the guest\n' });
  });

  it('gives device-DAX that was prepared for a file system as one', async () => {
    await format('--mode', 'fsdax', '--force', '/dev/dax1.0');
    const flags = volume('/dev/dax1.0', 'rw:dax');
    const store = `head -c ${LENGTH} /dev/zero > /data/file; sync; /tools/dax_probe write /data/file ${LENGTH} 'kept'`;
    expect(await inside('store', store, flags)).toMatchObject({
      code: 0,
      stderr: '',
      stdout: 'MAP_SYNC\n',
    });
    const read = `/tools/dax_probe read /data/file ${LENGTH}`;
    expect(await inside('kept', read, flags)).toMatchObject({ code: 0, stdout: 'MAP_SYNC\nkept\n' });
  });

  it('gives a sector device as a node, which has no DAX', async () => {
    const script = `echo 'from the guest' | dd of=/dev/pmem2s conv=fsync bs=4096 2>/dev/null; ls -l /dev/pmem2s | cut -c1; /tools/dax_probe write /dev/pmem2s ${LENGTH} x`;
    const result = await inside('node', script, [...withTools, '--device', '/dev/pmem2s']);
    expect(result).toMatchObject({ code: 1, stderr: '', stdout: 'b\nEOPNOTSUPP\n' });
    expect(sh('head -c 14 /dev/pmem2s')).toBe('from the guest');
  });

  it('gives a sector device as a disk', async () => {
    sh(`ndctl create-namespace -f -e namespace2.0 --mode=sector >&2`);
    image('/dev/pmem2s');
    const script = `grep -o '^/dev/vd. /data ext4 rw' /proc/mounts; echo 'from the guest' > /data/answer`;
    const result = await runInMachine(containerd, 'sector', ['sh', '-c', script], {
      flags: volume('/dev/pmem2s', 'rw'),
      timeout: 4 * MINUTE,
    });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(/^\/dev\/vd\w \/data ext4 rw\n$/);
    expect(sh(`debugfs -R 'cat answer' /dev/pmem2s 2>/dev/null`)).toBe('from the guest\n');
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
