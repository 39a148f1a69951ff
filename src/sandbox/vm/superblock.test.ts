import { describe, expect, it } from 'vitest';
import { readSuperblock } from './superblock.ts';

const head = (write: (bytes: Buffer) => void, length = 2048): Buffer => {
  const bytes = Buffer.alloc(length);
  write(bytes);
  return bytes;
};
const ext4 = (logBlock: number): Buffer =>
  head((bytes) => {
    bytes.writeUInt16LE(0xef53, 1024 + 0x38);
    bytes.writeUInt32LE(logBlock, 1024 + 0x18);
  });
const erofs = (bits: number): Buffer =>
  head((bytes) => {
    bytes.writeUInt32LE(0xe0f5e1e2, 1024);
    bytes.writeUInt8(bits, 1036);
  });

describe('the superblock of an image', () => {
  it.each([
    ['ext4 of 1 KiB blocks', ext4(0), { fstype: 'ext4', blockBytes: 1024 }],
    ['ext4 of 4 KiB blocks', ext4(2), { fstype: 'ext4', blockBytes: 4096 }],
    ['EROFS', erofs(12), { fstype: 'erofs', blockBytes: 4096 }],
    ['squashfs', head((bytes) => bytes.write('hsqs'), 4), { fstype: 'squashfs' }],
    ['nothing', Buffer.alloc(4096), undefined],
    ['too little', ext4(2).subarray(0, 2047), undefined],
    ['no byte', Buffer.alloc(0), undefined],
  ])('is told: %s', (_, bytes, expected) => {
    expect(readSuperblock(bytes)).toEqual(expected);
  });

  it('that is damaged gives a size that is none, and no exception', () => {
    expect(readSuperblock(ext4(0xffffffff))?.blockBytes).toBe(2 ** 26);
    expect(readSuperblock(erofs(255))?.blockBytes).toBe(2 ** 16);
  });
});
