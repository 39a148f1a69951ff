/** What file system an image holds, by its first bytes. Pure. */

/** Offsets and numbers of fs/ext4/ext4.h, fs/erofs/erofs_fs.h and fs/squashfs/squashfs_fs.h of the kernel. */
const SUPERBLOCK = 1024;
const EXT = { magic: 0xef53, magicAt: SUPERBLOCK + 0x38, logBlockAt: SUPERBLOCK + 0x18, smallest: 1024 };
const EROFS = { magic: 0xe0f5e1e2, magicAt: SUPERBLOCK, blockBitsAt: SUPERBLOCK + 12 };
const SQUASHFS = 0x73717368;
/** Of any of them. */
const LARGEST_SHIFT = 16;

export interface Superblock {
  /** As mount(2) has it; ext2 and ext3 are read by the driver of ext4. */
  fstype: string;
  /** Absent: it does not matter, for the file system has no DAX. */
  blockBytes?: number;
}

/** @param head the first 2 KiB of an image, or less of one that is smaller; undefined: none of those known here */
export function readSuperblock(head: Buffer): Superblock | undefined {
  if (head.length >= 4 && head.readUInt32LE(0) === SQUASHFS) return { fstype: 'squashfs' };
  if (head.length < 2 * SUPERBLOCK) return undefined;
  if (head.readUInt16LE(EXT.magicAt) === EXT.magic) {
    return { fstype: 'ext4', blockBytes: EXT.smallest * 2 ** shift(head.readUInt32LE(EXT.logBlockAt)) };
  }
  if (head.readUInt32LE(EROFS.magicAt) === EROFS.magic) {
    return { fstype: 'erofs', blockBytes: 2 ** shift(head.readUInt8(EROFS.blockBitsAt)) };
  }
  return undefined;
}

/** A damaged superblock says anything; the guest's kernel will refuse it. */
function shift(bits: number): number {
  return Math.min(bits, LARGEST_SHIFT);
}
