/**
 * The info block by which the kernel takes a raw namespace of persistent memory for one with page structures ("fsdax") or
 * for device-DAX ("devdax"): struct nd_pfn_sb of drivers/nvdimm/pfn.h, 4 KiB at offset 4 KiB. What begins with it is an
 * NVDIMM with DAX in any guest, without labels; its data start at `dataOffset`. Images prepared for Kata have it too.
 */

/** What the guest's kernel makes of an NVDIMM: a block device for a file system with DAX, or a node for mmap(2). */
export type PfnMode = 'fsdax' | 'devdax';
const SIGNATURES: Readonly<Record<PfnMode, Buffer>> = {
  fsdax: Buffer.from('NVDIMM_PFN_INFO\0', 'latin1'),
  devdax: Buffer.from('NVDIMM_DAX_INFO\0', 'latin1'),
};
const SIGNATURE_SIZE = 16;
/** Where the block is. */
export const PFN_INFO_OFFSET = 4096;
export const PFN_INFO_SIZE = 4096;
const CHECKSUM_AT = PFN_INFO_SIZE - 8;

const PAGE_SIZE = 4096;
/** sizeof(struct page) on 64-bit machines. */
const PAGE_STRUCT_SIZE = 64;
/** Page structures in the guest's ordinary memory (PFN_MODE_RAM); 2 would be in the device itself. */
const MODE_RAM = 1;
const VERSION = { major: 1, minor: 4 };

/** Where the data start, and what a namespace is mapped in: a huge page. */
export const PFN_ALIGN = 2 * 2 ** 20;

export interface PfnInfo {
  mode: PfnMode;
  /** Bytes from the start of the file to the data. */
  dataOffset: number;
  /** Pages of 4 KiB that hold data. */
  pages: number;
  align: number;
}

/**
 * The block for a file of `size` bytes.
 * @param uuid 16 bytes of the namespace's own
 * @throws RangeError when nothing would be left for data
 */
export function writePfnInfo(size: number, uuid: Uint8Array, mode: PfnMode = 'fsdax'): Buffer {
  if (!Number.isSafeInteger(size) || size % PFN_ALIGN !== 0 || size < 2 * PFN_ALIGN)
    throw new RangeError(`size ${size}: not a multiple of ${PFN_ALIGN} of at least ${2 * PFN_ALIGN}`);
  if (uuid.length !== 16) throw new RangeError('uuid: expected 16 bytes');
  const block = Buffer.alloc(PFN_INFO_SIZE);
  SIGNATURES[mode].copy(block);
  block.set(uuid, 16);
  // 32: uuid of the parent, none without labels; 48: flags.
  block.writeUInt16LE(VERSION.major, 52);
  block.writeUInt16LE(VERSION.minor, 54);
  block.writeBigUInt64LE(BigInt(PFN_ALIGN), 56);
  block.writeBigUInt64LE(BigInt((size - PFN_ALIGN) / PAGE_SIZE), 64);
  block.writeUInt32LE(MODE_RAM, 72);
  // 76: padding at the start; 80: truncation at the end.
  block.writeUInt32LE(PFN_ALIGN, 84);
  block.writeUInt32LE(PAGE_SIZE, 88);
  block.writeUInt16LE(PAGE_STRUCT_SIZE, 92);
  block.writeBigUInt64LE(fletcher64(block), CHECKSUM_AT);
  return block;
}

/** @param block what lies at PFN_INFO_OFFSET; undefined when that is no info block, or a damaged one */
export function readPfnInfo(block: Uint8Array): PfnInfo | undefined {
  if (block.length < PFN_INFO_SIZE) return undefined;
  const copy = Buffer.from(block.subarray(0, PFN_INFO_SIZE));
  const signature = copy.subarray(0, SIGNATURE_SIZE);
  const mode = (['fsdax', 'devdax'] as const).find((each) => SIGNATURES[each].equals(signature));
  if (mode === undefined) return undefined;
  const checksum = copy.readBigUInt64LE(CHECKSUM_AT);
  copy.writeBigUInt64LE(0n, CHECKSUM_AT);
  if (checksum !== fletcher64(copy)) return undefined;
  return {
    mode,
    dataOffset: Number(copy.readBigUInt64LE(56)),
    pages: Number(copy.readBigUInt64LE(64)),
    align: copy.readUInt32LE(84),
  };
}

/** As nd_fletcher64() of drivers/nvdimm/core.c, over little-endian words; the checksum's own field is 0. */
function fletcher64(block: Buffer): bigint {
  let low = 0;
  let high = 0n;
  for (let at = 0; at < block.length; at += 4) {
    low = (low + block.readUInt32LE(at)) >>> 0;
    high += BigInt(low);
  }
  return ((high & 0xffffffffn) << 32n) | BigInt(low);
}
