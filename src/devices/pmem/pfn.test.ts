import { describe, expect, it } from 'vitest';
import { PFN_ALIGN, PFN_INFO_SIZE, readPfnInfo, writePfnInfo } from './pfn.ts';

const uuid = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

describe('the info block of persistent memory', () => {
  it('has the kernel’s layout', () => {
    const block = writePfnInfo(16 * 2 ** 20, uuid);
    expect(block).toHaveLength(PFN_INFO_SIZE);
    expect(block.toString('latin1', 0, 16)).toBe('NVDIMM_PFN_INFO\0');
    expect(block.subarray(16, 32)).toEqual(uuid);
    expect(block.subarray(32, 52).every((byte) => byte === 0)).toBe(true);
    expect([block.readUInt16LE(52), block.readUInt16LE(54)]).toEqual([1, 4]);
    expect(block.readBigUInt64LE(56)).toBe(2n << 20n);
    expect(block.readBigUInt64LE(64)).toBe(14n * 256n);
    expect(block.readUInt32LE(72)).toBe(1);
    expect([block.readUInt32LE(84), block.readUInt32LE(88), block.readUInt16LE(92)]).toEqual([
      2 << 20,
      4096,
      64,
    ]);
  });

  it('has a checksum over both halves of every word', () => {
    // Words w0, w1, …: low is their sum, high the sum of all partial sums, each modulo 2^32.
    const block = writePfnInfo(8 * 2 ** 20, uuid);
    const words = Array.from({ length: 1022 }, (_, index) => BigInt(block.readUInt32LE(index * 4)));
    let [low, high] = [0n, 0n];
    for (const word of [...words, 0n, 0n]) {
      low = (low + word) % 2n ** 32n;
      high = (high + low) % 2n ** 32n;
    }
    expect(block.readBigUInt64LE(4088)).toBe((high << 32n) + low);
  });

  it('is read back, and not when it is damaged', () => {
    const block = writePfnInfo(32 * 2 ** 20, uuid);
    const info = { mode: 'fsdax', dataOffset: PFN_ALIGN, pages: 30 * 256, align: PFN_ALIGN };
    expect(readPfnInfo(block)).toEqual(info);
    const dax = writePfnInfo(32 * 2 ** 20, uuid, 'devdax');
    expect(dax.toString('latin1', 0, 16)).toBe('NVDIMM_DAX_INFO\0');
    expect(readPfnInfo(dax)).toEqual({ ...info, mode: 'devdax' });
    for (const at of [0, 20, 64, 4000, 4090]) {
      const damaged = Buffer.from(block);
      damaged.writeUInt8((damaged[at] ?? 0) ^ 1, at);
      expect(readPfnInfo(damaged)).toBeUndefined();
    }
    expect(readPfnInfo(block.subarray(1))).toBeUndefined();
    expect(readPfnInfo(Buffer.alloc(PFN_INFO_SIZE))).toBeUndefined();
  });

  it.each([[0], [2 ** 21], [5 * 2 ** 20], [2 ** 22 + 1], [Number.NaN]])('is refused for %d bytes', (size) => {
    expect(() => writePfnInfo(size, uuid)).toThrow(RangeError);
  });
  it('is refused without a uuid', () => {
    expect(() => writePfnInfo(2 ** 23, uuid.subarray(1))).toThrow('uuid: expected 16 bytes');
  });
});
