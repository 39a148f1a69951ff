import { describe, expect, it } from 'vitest';
import {
  MOUNT_ATTR__ATIME,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  MOUNT_ATTR_STRICTATIME,
} from '../base/constants.ts';
import { knownMountOptions, parseMountOptions } from './mount_options.ts';

describe('mount options', () => {
  it.each<[string[], { set: number; clear: number }]>([
    [['ro'], { set: MOUNT_ATTR_RDONLY, clear: 0 }],
    [['ro', 'rw'], { set: 0, clear: MOUNT_ATTR_RDONLY }],
    [['rw', 'ro', 'nosuid'], { set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, clear: 0 }],
    [['noatime'], { set: MOUNT_ATTR_NOATIME, clear: MOUNT_ATTR__ATIME }],
    [['noatime', 'strictatime'], { set: MOUNT_ATTR_STRICTATIME, clear: MOUNT_ATTR__ATIME }],
    [['noatime', 'atime'], { set: 0, clear: MOUNT_ATTR__ATIME }],
    [['noatime', 'norelatime'], { set: MOUNT_ATTR_NOATIME, clear: MOUNT_ATTR__ATIME }],
    [['defaults', 'silent', ''], { set: 0, clear: 0 }],
  ])('%j', (options, attributes) => {
    expect(parseMountOptions(options)).toMatchObject({ attributes, data: [] });
  });

  it('tells a recursive attribute from a recursive bind, a propagation and "remount"', () => {
    const parsed = parseMountOptions(['rbind', 'rro', 'rnodev', 'rdev', 'rslave', 'remount', 'ridmap']);
    expect(parsed).toMatchObject({
      bind: true,
      recursiveBind: true,
      remount: true,
      idmap: 'recursive',
      recursiveAttributes: { set: MOUNT_ATTR_RDONLY, clear: MOUNT_ATTR_NODEV },
      attributes: { set: 0, clear: 0 },
      propagation: [{ kind: 'slave', recursive: true }],
      data: [],
    });
  });

  it('hands superblock flags and the rest on', () => {
    const parsed = parseMountOptions(['sync', 'lazytime', 'async', 'size=1m', 'nr_inodes=5', 'toString']);
    expect(parsed.superblock).toEqual(['lazytime']);
    expect(parsed.data).toEqual(['size=1m', 'nr_inodes=5', 'toString']);
  });

  it('lists each option once', () => {
    const known = knownMountOptions();
    expect(new Set(known).size).toBe(known.length);
    expect(known).toContain('rro');
    expect(known).toContain('rprivate');
  });
});
