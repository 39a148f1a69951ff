/** Files that look like kernels to whoever reads their headers. */

/** An x86-64 ELF file with one PT_NOTE segment, which holds the PVH entry or another note of Xen's. */
export function fakeVmlinux({ pvh = true, fill = 'kernel' } = {}): Buffer {
  const note = Buffer.alloc(24);
  note.writeUInt32LE(4, 0);
  note.writeUInt32LE(8, 4);
  note.writeUInt32LE(pvh ? 18 : 19, 8);
  note.write('Xen\0', 12);
  const image = Buffer.alloc(64 + 56 * 2);
  image.write('\x7fELF', 0, 'latin1');
  image[4] = 2;
  image[5] = 1;
  image.writeUInt16LE(62, 18);
  image.writeBigUInt64LE(64n, 32);
  image.writeUInt16LE(56, 54);
  image.writeUInt16LE(2, 56);
  image.writeUInt32LE(1, 64); // PT_LOAD
  image.writeUInt32LE(4, 120); // PT_NOTE
  image.writeBigUInt64LE(BigInt(image.length), 128);
  image.writeBigUInt64LE(BigInt(note.length), 152);
  return Buffer.concat([image, note, Buffer.from(fill)]);
}

/** A bzImage around a payload (Documentation/arch/x86/boot.rst). */
export function fakeBzImage(payload: Buffer, { release = '6.1.0-test', protocol = 0x020f } = {}): Buffer {
  const setup = Buffer.alloc(3 * 512);
  setup[0x1f1] = 2;
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt16LE(protocol, 0x206);
  setup.writeUInt16LE(0x200, 0x20e);
  setup.write(`${release} (builder@host) #1\0`, 0x400, 'latin1');
  setup.writeUInt32LE(64, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(64), payload, Buffer.alloc(32)]);
}
