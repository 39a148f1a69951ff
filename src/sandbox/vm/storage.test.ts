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
