/** Disks and persistent memory of a guest: images of the host, mounted inside, and what is left on the host after. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  PFN_ALIGN,
  PFN_INFO_OFFSET,
  readPfnInfo,
  writePfnInfo,
  type PfnMode,
} from '../../src/devices/pmem/pfn.ts';
import { addon } from '../../src/native/index.ts';
import { imageVolume, nodeVolume, type Volume } from '../../src/sandbox/vm/storage.ts';
import { imagesFor } from '../../src/sandbox/vm/images.ts';
import { Volumes } from '../../src/sandbox/vm/volumes.ts';
import { ext4Image, VmRig } from './rig.ts';

let rig: VmRig;
let volumes: Volumes;
let tree: string;
const at = (name: string): string => join(rig.dir, name);

beforeAll(async () => {
  rig = await VmRig.boot();
  volumes = new Volumes({
    plug: (device) => rig.machine.plug(device),
    unplug: (device) => rig.machine.unplug(device),
    agent: {
      mount: async (_, mount) => void (await rig.call({ mount })),
      unmount: async (_, target) => void (await rig.call({ unmount: { target } })),
      readFiles: async (_op, _id, paths) => {
        const { files } = await rig.call({ readFiles: { paths: [...paths] } });
        return new Map(files.map(({ path, data }) => [path ?? '', Buffer.from(data ?? []).toString()]));
      },
      call: (_op, _id, call) => rig.call(call),
    },
  });
  tree = at('tree');
  mkdirSync(tree);
  writeFileSync(join(tree, 'hello'), 'from the host\n');
  writeFileSync(join(tree, 'file'), Buffer.alloc(DAX_PAGE));
  const probe = join(import.meta.dirname, '../lab/dax_probe.c');
  execFileSync('gcc', ['-O1', '-static', '-o', join(tree, 'dax_probe'), probe]);
});
afterAll(() => rig?.dispose());

/** Files of this machine's are no persistent memory: what would not be durable is allowed. */
const { image } = imagesFor(addon(), { 'bulkhead.io/allow-nonpersistent': 'true' });

function volume(type: string, name: string, options: string[] = []): Volume {
  const found = imageVolume('c1', 'mount /data', { type, source: at(name), options }, image);
  if (found === undefined) throw new Error('no volume');
  return found;
}
/** Pages of this size are mapped for DAX. */
const DAX_PAGE = 2 << 20;

/** A file that begins as an NVDIMM does; the data lie behind that. */
function nvdimmFile(name: string, mode: PfnMode, data?: string): void {
  const size = 16 << 20;
  const whole = Buffer.alloc(size);
  writePfnInfo(size, randomBytes(16), mode).copy(whole, PFN_INFO_OFFSET);
  if (data !== undefined) readFileSync(data).copy(whole, PFN_ALIGN);
  writeFileSync(at(name), whole);
}

const attach = (wanted: Volume): Promise<string> => volumes.attach('c1', wanted, () => {});

/** A file of an ext4 image, read without mounting it. */
function readImage(image: string, path: string, offset = 0): string {
  const name = offset === 0 ? image : `${image}.part`;
  if (offset > 0) writeFileSync(name, readFileSync(image).subarray(offset));
  const text = execFileSync('debugfs', ['-R', `cat ${path}`, name], {
    encoding: 'utf8',
    maxBuffer: 2 * DAX_PAGE,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  if (offset > 0) rmSync(name);
  return text;
}

describe('a disk', () => {
  it('is mounted in the guest, and what is written there stays in the image', async () => {
    ext4Image(at('disk.img'), tree, 8);
    const wanted = volume('ext4', 'disk.img');
    const device = await attach(wanted);
    const { out } = await rig.run(
      `cat ${wanted.target}/hello; echo from the guest > ${wanted.target}/answer`,
    );
    expect(out).toBe('from the host\n');
    await volumes.detach('c1', [device]);
    expect(readImage(at('disk.img'), 'answer')).toBe('from the guest\n');
    expect((await rig.run('cat /proc/mounts')).out).not.toContain(wanted.target);
  });

  it('is read-only where that is asked for', async () => {
    const wanted = volume('ext4', 'disk.img', ['ro']);
    const device = await attach(wanted);
    const { out } = await rig.run(
      `cat ${wanted.target}/hello; echo x 2>/dev/null > ${wanted.target}/y || echo refused; cat /sys/block/vd*/ro | tail -1`,
    );
    expect(out).toBe('from the host\nrefused\n1\n');
    await volumes.detach('c1', [device]);
  });

  it.each([
    ['erofs', () => execFileSync('mkfs.erofs', [at('erofs.img'), tree], { stdio: 'ignore' })],
    ['squashfs', () => execFileSync('mksquashfs', [tree, at('squashfs.img'), '-quiet'], { stdio: 'ignore' })],
  ])('may hold %s', async (type, make) => {
    make();
    const wanted = volume(type, `${type}.img`);
    const device = await attach(wanted);
    expect((await rig.run(`cat ${wanted.target}/hello`)).out).toBe('from the host\n');
    await volumes.detach('c1', [device]);
  });

  it('is found among others, whatever the order in which they came', async () => {
    const names = ['one', 'two', 'three'];
    for (const name of names) {
      mkdirSync(at(name));
      writeFileSync(join(at(name), 'hello'), `${name}\n`);
      ext4Image(at(`${name}.img`), at(name), 4);
    }
    const wanted = names.map((name) => volume('ext4', `${name}.img`));
    const devices = await Promise.all(wanted.map((each) => attach(each)));
    const { out } = await rig.run(wanted.map(({ target }) => `cat ${target}/hello`).join(';'));
    expect(out).toBe('one\ntwo\nthree\n');
    // One that is there already is not plugged again, and cannot be had in another way at the same time.
    expect(await attach(wanted[0] as Volume)).toBe(devices[0]);
    expect(await attach(volume('ext4', 'one.img', ['ro']))).toBe(devices[0]);
    await expect(attach(volume('ext4', 'one.img', ['dax']))).rejects.toThrow(
      `create c1: volume ${at('one.img')}: the pod has it already, but read-only, or with DAX and without`,
    );
    await volumes.detach('c1', devices);
  });

  it('leaves nothing behind when its file system is not what was said', async () => {
    writeFileSync(at('noise.img'), Buffer.alloc(1 << 20, 7));
    const wanted = volume('ext4', 'noise.img');
    await expect(attach(wanted)).rejects.toThrow(/mount/);
    expect((await rig.run('ls /sys/block')).out.match(/vd/g)).toHaveLength(1); // the tools'
    // Its port is free again.
    await expect(attach(wanted)).rejects.toThrow(/mount/);
  });
});

describe('a block device as a node', () => {
  it('is a disk of the guest, which two containers may have', async () => {
    writeFileSync(at('raw.img'), Buffer.alloc(1 << 20));
    const raw = { kind: 'block' as const, size: 1 << 20, identity: 'raw', inUse: false };
    const wanted = nodeVolume('c1', '/dev/data', at('raw.img'), raw);
    const noted: string[] = [];
    const node = await volumes.attachNode('c1', wanted, (device) => noted.push(device));
    expect(node.path).toMatch(/^\/dev\/vd\w$/);
    expect(await volumes.attachNode('c2', wanted, () => {})).toEqual(node);
    await rig.run(`echo from the guest | dd of=${node.path} conv=fsync`);
    expect(readFileSync(at('raw.img')).toString('latin1', 0, 15)).toBe('from the guest\n');
    await volumes.detach('c1', noted);
    expect((await rig.run(`ls ${node.path} 2>&1`)).out).toContain('No such file');
  });
});

describe('persistent memory', () => {
  it('is an NVDIMM when it begins as one: with DAX, and with MAP_SYNC', async () => {
    ext4Image(at('inner.img'), tree, 14);
    nvdimmFile('nvdimm.img', 'fsdax', at('inner.img'));
    const wanted = volume('ext4', 'nvdimm.img', ['dax']);
    expect(wanted.transport).toBe('nvdimm');
    const device = await attach(wanted);
    const { out } = await rig.run(
      `grep ${wanted.target} /proc/mounts; cat ${wanted.target}/hello; echo behind the block > ${wanted.target}/answer; sync;
       ${wanted.target}/dax_probe write ${wanted.target}/file ${DAX_PAGE} 'stored and flushed'`,
    );
    expect(out).toMatch(/ext4 rw,.*dax=always/);
    expect(out).toContain('from the host\n');
    expect(out).toMatch(/\nMAP_SYNC\n$/);
    // Nobody has synced it, or unmounted it.
    expect(readImage(at('nvdimm.img'), 'file', PFN_ALIGN)).toMatch(/^stored and flushed\0/);
    expect(readImage(at('nvdimm.img'), 'answer', PFN_ALIGN)).toBe('behind the block\n');
    await volumes.detach('c1', [device]);
    expect(await attach(wanted)).toBe(device);
  });

  it('is an NVDIMM that takes no stores when it is read-only', async () => {
    nvdimmFile('armed.img', 'fsdax', at('inner.img'));
    const wanted = volume('ext4', 'armed.img', ['ro', 'dax']);
    await attach(wanted);
    const { out } = await rig.run(
      `cat ${wanted.target}/hello; disk=$(grep ${wanted.target} /proc/mounts | cut -d' ' -f1); cat /sys/block/$(basename $disk)/ro;
       mount -o remount,rw ${wanted.target} 2>/dev/null || echo refused`,
    );
    expect(out).toBe('from the host\n1\nrefused\n');
  });

  it('is device-DAX of the guest, found by its address and not by its number', async () => {
    const names = ['one.dax', 'two.dax'];
    const nodes: string[] = [];
    for (const name of names) {
      nvdimmFile(name, 'devdax');
      const info = readPfnInfo(readFileSync(at(name)).subarray(PFN_INFO_OFFSET));
      const found = { kind: 'dax' as const, size: 16 << 20, identity: name, inUse: false, info };
      const wanted = nodeVolume('c1', '/dev/dax', at(name), found);
      const node = await volumes.attachNode('c1', wanted, () => {});
      expect(node.path).toMatch(/^\/dev\/dax\d\.\d$/);
      expect(node.major).toBeGreaterThan(0);
      // Whoever else asks for it has the same.
      expect(await volumes.attachNode('c2', wanted, () => {})).toEqual(node);
      nodes.push(node.path ?? '');
    }
    const probe = `${volume('ext4', 'nvdimm.img', ['dax']).target}/dax_probe`;
    const store = nodes.map((node, index) => `${probe} write ${node} ${DAX_PAGE} 'in ${names[index]}'`);
    expect((await rig.run(store.join(';'))).out).toBe('MAP_SYNC\nMAP_SYNC\n');
    for (const name of names)
      expect(readFileSync(at(name)).toString('latin1', PFN_ALIGN, PFN_ALIGN + 11)).toBe(`in ${name}\0`);
  });

  it('is mounted with DAX, and a write in the guest is a write of the host’s file', async () => {
    ext4Image(at('pmem.img'), tree, 16);
    const wanted = volume('ext4', 'pmem.img', ['dax=always']);
    expect(wanted.transport).toBe('pmem');
    const device = await attach(wanted);
    const { out } = await rig.run(
      `grep ${wanted.target} /proc/mounts; cat ${wanted.target}/hello; echo from the guest > ${wanted.target}/answer; sync`,
    );
    expect(out).toContain('dax=always');
    expect(out).toContain('from the host\n');
    // Without unmounting: there is no second page cache.
    expect(readFileSync(at('pmem.img')).includes('from the guest\n')).toBe(true);
    await volumes.detach('c1', [device]);
    // It stays, for the next container.
    expect(await attach(wanted)).toBe(device);
    expect(readImage(at('pmem.img'), 'answer')).toBe('from the guest\n');
  });

  it('may be an EROFS image that nobody can write to', async () => {
    execFileSync('mkfs.erofs', [at('shared.img'), tree], { stdio: 'ignore' });
    truncateSync(at('shared.img'), 4 << 20);
    copyFileSync(at('shared.img'), at('before.img'));
    const wanted = volume('erofs', 'shared.img', ['dax']);
    const device = await attach(wanted);
    const { out } = await rig.run(`grep ${wanted.target} /proc/mounts; cat ${wanted.target}/hello`);
    expect(out).toContain('dax=always');
    expect(out).toContain('from the host\n');
    await volumes.detach('c1', [device]);
    expect(readFileSync(at('shared.img')).equals(readFileSync(at('before.img')))).toBe(true);
  });
});
