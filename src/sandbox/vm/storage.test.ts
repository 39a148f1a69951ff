import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import {
  bindOptions,
  canUnplug,
  imageVolume,
  volumeAt,
  volumeDevice,
  volumePath,
  writableTwin,
  type HostImage,
  type Volume,
} from './storage.ts';

const MIB = 2 ** 20;
const file = (size = 8 * MIB): HostImage => ({ kind: 'file', size, identity: 'file 1 2', inUse: false });
const ask = (type: string, options: string[] = [], image: HostImage | undefined = file()): Volume => {
  const found = imageVolume('c1', 'mount /data', { type, source: '/img', options }, () => image);
  if (found === undefined) throw new Error('no volume');
  return found;
};

describe('a mount of an image', () => {
  it.each([['bind'], ['tmpfs'], ['proc'], ['overlay'], ['']])('is not one of type "%s"', (type) => {
    const never = (): never => {
      throw new Error('looked at');
    };
    expect(imageVolume('c1', 'mount /data', { type, source: '/x' }, never)).toBeUndefined();
  });

  it('is a disk', () => {
    const volume = ask('ext4', ['rw', 'nosuid', 'loop', 'noload', 'sync']);
    expect(volume).toMatchObject({
      transport: 'block',
      readOnly: false,
      fstype: 'ext4',
      data: ['sync', 'noload'],
      target: volumePath(volume.device),
      size: 8 * MIB,
    });
    expect(volume.device).toMatch(/^bw[0-9a-f]{16}$/);
    expect(volume.device.length).toBeLessThanOrEqual(20);
    expect(volumeDevice(volume)).toEqual({
      kind: 'block',
      id: volume.device,
      path: '/img',
      readOnly: false,
      serial: volume.device,
    });
  });

  it.each([
    ['ext4', ['ro'], true],
    ['erofs', [], true],
    ['squashfs', ['rw'], true],
    ['ext3', [], false],
  ])('of type %s with %j is read-only: %s', (type, options, readOnly) => {
    expect(ask(type, options).readOnly).toBe(readOnly);
  });

  it.each([['dax'], ['dax=always'], ['dax=inode']])('is persistent memory with option %s', (option) => {
    const volume = ask('ext4', [option]);
    expect(volume.transport).toBe('pmem');
    expect(volume.data).toEqual([option]);
    expect(volumeDevice(volume)).toEqual({
      kind: 'pmem',
      id: volume.device,
      path: '/img',
      size: 8 * MIB,
      mode: 'shared',
    });
    expect(volumeDevice(ask('erofs', [option]))).toMatchObject({ mode: 'read-only' });
    expect(canUnplug(volume.device)).toBe(false);
    expect(ask('ext4', ['dax=never']).transport).toBe('block');
  });

  const info = { mode: 'fsdax' as const, dataOffset: 2 * MIB, pages: 1, align: 2 * MIB };
  const nvdimm = (changes: Partial<HostImage> = {}): HostImage => {
    return { ...file(), info, sync: true, needsFlush: true, ...changes };
  };

  it('is an NVDIMM when it begins as one', () => {
    const volume = ask('ext4', ['dax'], nvdimm());
    expect(volume).toMatchObject({ transport: 'nvdimm', needsFlush: true, holdable: false });
    expect(volumeDevice(volume)).toEqual({
      kind: 'nvdimm',
      id: volume.device,
      path: '/img',
      size: 8 * MIB,
      align: 2 * MIB,
      readOnly: false,
      sync: true,
    });
    expect(volume.device).toMatch(/^nw/);
    expect(canUnplug(volume.device)).toBe(false);
    // Nothing is stored to one that is read-only: how durable that would be does not matter.
    const lax = nvdimm({ sync: false, volatile: { reason: 'r', fix: 'f' } });
    expect(volumeDevice(ask('ext4', ['ro'], lax))).toMatchObject({ readOnly: true, sync: false });
    expect(ask('ext4', ['ro'], nvdimm()).needsFlush).toBe(false);
    const dax = nvdimm({ kind: 'dax' });
    expect(volumeDevice(ask('ext4', [], dax))).toMatchObject({ kind: 'nvdimm', sync: false });
    expect(ask('ext4', ['ro'], nvdimm()).conflicts).not.toContain(volume.device);
  });

  it('is named by what it holds', () => {
    const one = ask('ext4');
    expect(ask('ext4', ['nosuid']).device).toBe(one.device);
    expect(ask('ext4', [], { ...file(), identity: 'file 1 3' }).device).not.toBe(one.device);
    // What is there writable serves one that only reads; the other way round does not.
    const reads = ask('ext4', ['ro']);
    expect(writableTwin(reads)).toBe(one.device);
    expect(reads.conflicts).not.toContain(one.device);
    expect(one.conflicts).toContain(reads.device);
    for (const other of [ask('ext4', ['dax']), ask('ext4', ['dax', 'ro'])]) {
      expect(one.conflicts).toContain(other.device);
      expect(other.conflicts).toContain(one.device);
    }
  });

  it.each<[string, string, string[], string, HostImage | undefined, ErrorCode, string]>([
    [
      'a relative source',
      'ext4',
      [],
      'img',
      file(),
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: img: the source of an image must be an absolute path',
    ],
    [
      'nothing',
      'ext4',
      [],
      '/img',
      undefined,
      ErrorCode.NotFound,
      'create c1: mount /data: /img: no such block device or file',
    ],
    [
      'a disk that is mounted',
      'ext4',
      [],
      '/img',
      { ...file(), inUse: true },
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: /img: the host uses this block device; unmount it on the host',
    ],
    [
      'DAX without it',
      'squashfs',
      ['dax'],
      '/img',
      file(),
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: /img: file system squashfs has no DAX',
    ],
    [
      'an odd size',
      'ext4',
      ['dax'],
      '/img',
      file(3 * MIB),
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: /img: its size of 3145728 bytes is no multiple of 2 MiB, in which persistent memory is ' +
        'mapped; make it larger (truncate -s %2M), or leave the option dax out',
    ],
    [
      'an NVDIMM whose stores do not last',
      'ext4',
      ['dax'],
      '/img',
      nvdimm({ volatile: { reason: 'MAP_SYNC not supported (so); writes would not be durable', fix: 'do' } }),
      ErrorCode.FailedPrecondition,
      'create c1: PMEM volume /img: MAP_SYNC not supported (so); writes would not be durable; do, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    ],
    [
      'an NVDIMM of an odd size',
      'ext4',
      [],
      '/img',
      nvdimm({ size: 9 * MIB }),
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: /img: its size of 9437184 bytes is no multiple of 2 MiB, in which persistent memory is mapped; make it larger (truncate -s %2M)',
    ],
    [
      'an NVDIMM without a file system',
      'ext4',
      [],
      '/img',
      nvdimm({ info: { ...info, mode: 'devdax' } }),
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: /img: is device-DAX for a guest, and has no file system; prepare it with: bulkhead devices pmem format --mode fsdax /img (this erases it)',
    ],
    [
      'device-DAX as it is',
      'ext4',
      [],
      '/img',
      nvdimm({ kind: 'dax', info: undefined }),
      ErrorCode.FailedPrecondition,
      'create c1: mount /data: /img: does not begin as persistent memory with a file system does; prepare it with: bulkhead devices pmem format --mode fsdax /img (this erases it)',
    ],
  ])('is refused with %s', (_, type, options, source, image, code, message) => {
    try {
      imageVolume('c1', 'mount /data', { type, source, options }, () => image);
    } catch (error) {
      expect(error).toBeInstanceOf(RuntimeError);
      expect((error as RuntimeError).message).toBe(message);
      expect((error as RuntimeError).code).toBe(code);
      return;
    }
    throw new Error('not refused');
  });

  it('leaves to the container’s own mount what is not the superblock’s', () => {
    expect(bindOptions(['ro', 'nosuid', 'dax=always', 'rslave', 'noload', 'sync'])).toEqual([
      'bind',
      'ro',
      'nosuid',
      'rslave',
    ]);
    expect(bindOptions()).toEqual(['bind']);
  });

  it('knows its places in the guest', () => {
    expect(volumeAt(volumePath('bw01'))).toBe('bw01');
    expect(volumeAt('/run/bulkhead/share')).toBeUndefined();
  });
});
