import { describe, expect, it } from 'vitest';
import { podSpec } from '../../../test/fakes/sandbox.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { RootfsMount } from '../backend.ts';
import { rootVolume, type RootDevice } from './roots.ts';
import type { HostImage, Volume } from './storage.ts';

const MIB = 2 ** 20;
const images: Record<string, Partial<HostImage>> = {
  '/img/ext4': { fstype: 'ext4', blockBytes: 4096 },
  '/img/small-blocks': { fstype: 'ext4', blockBytes: 1024 },
  '/img/erofs': { fstype: 'erofs', blockBytes: 4096 },
  '/img/squashfs': { fstype: 'squashfs' },
  '/img/noise': {},
  '/img/odd': { fstype: 'erofs', blockBytes: 4096, size: 3 * MIB },
};
const image = (path: string): HostImage | undefined =>
  images[path] && { kind: 'file', size: 4 * MIB, identity: path, inUse: false, ...images[path] };
const mount = (type: string, source: string, ...options: string[]): RootfsMount => ({
  type,
  source,
  options,
});

interface Asked {
  path?: string;
  device?: RootDevice;
  mounts?: RootfsMount[];
  readonly?: boolean;
}
const root = ({
  path = '/b/rootfs',
  device = 'block',
  mounts = [],
  readonly = false,
}: Asked): Volume | undefined =>
  rootVolume(
    'c1',
    { rootfsMounts: mounts, spec: podSpec({ root: { path, readonly } }) },
    path,
    { image },
    device,
  );

function refusal(asked: Asked): RuntimeError {
  try {
    root(asked);
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('not refused');
}

describe('a root file system', () => {
  it.each([
    ['a directory', {}],
    ['an overlay', { mounts: [mount('overlay', 'overlay', 'lowerdir=/a')] }],
    ['of several mounts', { mounts: [mount('erofs', '/img/erofs'), mount('overlay', 'overlay')] }],
  ])('is no image: %s', (_, asked) => {
    expect(root(asked)).toBeUndefined();
    expect(root({ ...asked, device: 'pmem' })).toBeUndefined();
  });

  it('is a disk, or memory when that is configured', () => {
    const mounts = [mount('ext4', '/img/ext4', 'loop', 'noatime')];
    expect(root({ mounts })).toMatchObject({ transport: 'block', readOnly: false, data: [] });
    expect(root({ mounts, device: 'pmem' })).toMatchObject({
      transport: 'pmem',
      readOnly: false,
      fstype: 'ext4',
      data: ['dax=always'],
    });
  });

  it('that says what it is itself comes by its path, and cannot be written to when it says so', () => {
    expect(root({ path: '/img/ext4' })).toMatchObject({
      transport: 'block',
      readOnly: false,
      source: '/img/ext4',
    });
    expect(root({ path: '/img/ext4', readonly: true, device: 'pmem' })).toMatchObject({
      transport: 'pmem',
      readOnly: true,
    });
    expect(root({ path: '/img/erofs', device: 'pmem' })).toMatchObject({ readOnly: true, fstype: 'erofs' });
    expect(root({ path: '/img/squashfs' })).toMatchObject({ transport: 'block', fstype: 'squashfs' });
  });

  it('whose mount says how it is to be read keeps that', () => {
    const mounts = [mount('ext4', '/img/ext4', 'dax=never')];
    expect(root({ mounts, device: 'pmem' })).toMatchObject({ transport: 'block', data: ['dax=never'] });
  });

  it.each<[string, Asked, string]>([
    [
      'a file of something else',
      { path: '/img/noise' },
      'rootfs: /img/noise: is neither a directory nor an image of a file system (ext4, EROFS, squashfs)',
    ],
    [
      'memory without DAX',
      { path: '/img/squashfs', device: 'pmem' },
      'rootfs: /img/squashfs: file system squashfs has no DAX; set vm.root_device to "block"',
    ],
    [
      'blocks that are no pages',
      { path: '/img/small-blocks', device: 'pmem' },
      'rootfs: /img/small-blocks: its file system has blocks of 1024 bytes, and DAX needs those of a page, 4096; make it anew (mkfs.ext4 -b 4096), or leave the option dax out',
    ],
    [
      'a size that cannot be mapped',
      { path: '/img/odd', device: 'pmem' },
      `rootfs: /img/odd: its size of ${3 * MIB} bytes is no multiple of 2 MiB, in which persistent memory is mapped; make it larger (truncate -s %2M), or leave the option dax out`,
    ],
  ])('is refused: %s', (_, asked, reason) => {
    const error = refusal(asked);
    expect(error.code).toBe(ErrorCode.FailedPrecondition);
    expect(error.message).toBe(`create c1: ${reason}`);
  });
});
