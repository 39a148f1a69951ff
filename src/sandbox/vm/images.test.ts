import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { PFN_INFO_OFFSET, writePfnInfo } from '../../devices/pmem/pfn.ts';
import { hostDevice, hostImage, imagesFor, type ImageAddon } from './images.ts';

const MIB = 1 << 20;
const dir = mkdtempSync(join(tmpdir(), 'bh-image-'));
afterAll(() => rmSync(dir, { recursive: true }));

const grants = (sync: boolean): ImageAddon => ({
  mapSync: () => {
    if (!sync) throw Object.assign(new Error('mmap'), { code: 'EOPNOTSUPP' });
  },
  readMapped: () => Buffer.alloc(0),
});
const plain = grants(false);

function nvdimm(name: string): string {
  const path = join(dir, name);
  const whole = Buffer.alloc(4 * MIB);
  writePfnInfo(whole.length, Buffer.alloc(16)).copy(whole, PFN_INFO_OFFSET);
  writeFileSync(path, whole);
  return path;
}

describe('an image of the host', () => {
  it('is a file by its inode', () => {
    const path = join(dir, 'a');
    writeFileSync(path, '');
    truncateSync(path, 4096);
    expect(hostImage(path, plain)).toEqual({
      kind: 'file',
      size: 4096,
      identity: `file ${statSync(path).dev} ${statSync(path).ino}`,
      inUse: false,
    });
  });

  it('is nothing else', () => {
    for (const path of [dir, join(dir, 'missing'), '/dev/null']) {
      expect(hostImage(path, plain)).toBeUndefined();
    }
  });

  it('that begins as an NVDIMM is tried, and says why it does not last', () => {
    const path = nvdimm('n');
    expect(hostImage(path, grants(true))).toMatchObject({
      info: { mode: 'fsdax' },
      sync: true,
      needsFlush: true,
    });
    expect(hostImage(path, grants(true))).not.toHaveProperty('volatile');
    expect(hostImage(path, plain)).toMatchObject({
      sync: false,
      volatile: {
        reason: 'MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable',
      },
    });
  });

  it('may be allowed not to last', () => {
    const path = nvdimm('allowed');
    const annotations = { 'bulkhead.io/allow-nonpersistent': 'true' };
    const image = imagesFor(plain, annotations).image(path);
    expect(image).toMatchObject({ sync: false, needsFlush: false });
    expect(image?.volatile).toBeUndefined();
    for (const value of ['', 'yes', 'false'])
      expect(
        imagesFor(plain, { 'bulkhead.io/allow-nonpersistent': value }).image(path)?.volatile,
      ).toBeDefined();
    expect(imagesFor(plain).image(join(dir, 'missing'))).toBeUndefined();
  });
});

describe('a node of config.json', () => {
  it.each([
    ['a character device that is not DAX', { type: 'c', major: 1, minor: 3 }],
    ['numbers of no device', { type: 'b', major: 4095, minor: 9 }],
    ['a fifo', { type: 'p' }],
  ] as const)('is none that a guest could have: %s', (_what, node) => {
    expect(hostDevice(node, plain)).toBeUndefined();
    expect(imagesFor(plain).device({ path: '/dev/x', ...node })).toBeUndefined();
  });
});
