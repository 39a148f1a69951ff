/** What can be read off a kernel's ELF file: whether a hypervisor can start it without a boot loader. */

const PT_NOTE = 4;
/** XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h): the entry that QEMU and others use for PVH boot. */
const PHYS32_ENTRY = 18;
const EM_X86_64 = 62;

/** True for a 64-bit little-endian x86 ELF file. */
export function isKernelElf(image: Buffer): boolean {
  return (
    image.length >= 64 &&
    image.readUInt32BE(0) === 0x7f454c46 &&
    image[4] === 2 &&
    image[5] === 1 &&
    image.readUInt16LE(18) === EM_X86_64
  );
}

/** True when the kernel has the note with its 32-bit entry, which CONFIG_PVH puts there. */
export function hasPvhEntry(image: Buffer): boolean {
  if (!isKernelElf(image)) return false;
  const offset = Number(image.readBigUInt64LE(32));
  const size = image.readUInt16LE(54);
  const count = image.readUInt16LE(56);
  for (let index = 0; index < count; index++) {
    const at = offset + index * size;
    if (at + 56 > image.length) return false;
    if (image.readUInt32LE(at) !== PT_NOTE) continue;
    const start = Number(image.readBigUInt64LE(at + 8));
    const length = Number(image.readBigUInt64LE(at + 32));
    if (hasNote(image.subarray(start, start + length))) return true;
  }
  return false;
}

function hasNote(notes: Buffer): boolean {
  for (let at = 0; at + 12 <= notes.length;) {
    const nameSize = notes.readUInt32LE(at);
    const dataSize = notes.readUInt32LE(at + 4);
    const name = notes.subarray(at + 12, at + 12 + nameSize).toString('latin1');
    if (name === 'Xen\0' && notes.readUInt32LE(at + 8) === PHYS32_ENTRY) return true;
    at += 12 + align4(nameSize) + align4(dataSize);
  }
  return false;
}

const align4 = (size: number): number => Math.ceil(size / 4) * 4;
