/** A guest kernel of five instructions: says so on the console, and halts, again and again. QEMU starts it by its PVH note. */
import { writeFileSync } from 'node:fs';

/** What it says: nothing that QEMU or the firmware would. */
export const HALTED = '\x06';
const LOAD = 0x100000;
const HEADERS = 52 + 2 * 32;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

export function writeHaltKernel(path: string): void {
  const note = Buffer.alloc(12 + 4 + 4);
  note.writeUInt32LE(4, 0);
  note.writeUInt32LE(4, 4);
  note.writeUInt32LE(XEN_ELFNOTE_PHYS32_ENTRY, 8);
  note.write('Xen\0', 12, 'latin1');
  const codeAt = HEADERS + note.length;
  note.writeUInt32LE(LOAD + codeAt, 16);
  const code = Buffer.from([
    ...[0xba, 0xf8, 0x03, 0x00, 0x00], // mov edx, 0x3f8 (COM1)
    ...[0xb0, HALTED.charCodeAt(0), 0xee], // mov al, HALTED; out dx, al
    ...[0xf4, 0xeb, 0xfd], // 1: hlt; jmp 1b
  ]);
  const size = codeAt + code.length;
  writeFileSync(
    path,
    Buffer.concat([
      elfHeader(LOAD + codeAt),
      segment(1, 0, size),
      segment(4, HEADERS, note.length),
      note,
      code,
    ]),
  );
}

/** ELF32, i386, executable; two program headers. */
function elfHeader(entry: number): Buffer {
  const header = Buffer.alloc(52);
  header.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(3, 18);
  header.writeUInt32LE(1, 20);
  header.writeUInt32LE(entry, 24);
  header.writeUInt32LE(52, 28);
  header.writeUInt16LE(52, 40);
  header.writeUInt16LE(32, 42);
  header.writeUInt16LE(2, 44);
  return header;
}

/** `type`: 1 load, 4 note. */
function segment(type: number, offset: number, size: number): Buffer {
  const header = Buffer.alloc(32);
  [type, offset, LOAD + offset, LOAD + offset, size, size, 7, 4].forEach((word, index) =>
    header.writeUInt32LE(word, 4 * index),
  );
  return header;
}
