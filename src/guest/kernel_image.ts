/**
 * A kernel file as a distribution ships it. A bzImage costs a guest about half a second of unpacking under TCG, so
 * what is kept is the ELF file inside it (Documentation/arch/x86/boot.rst, fields of the setup header).
 */
import { gunzipSync } from 'node:zlib';
import { hasPvhEntry, isKernelElf } from './elf.ts';
import { refusedInput } from './input.ts';
import { run } from './run.ts';

const OP = 'guest build';
const SETUP_MAGIC = 0x53726448; // "HdrS"
/** The protocol version that has payload_offset and payload_length. */
const PAYLOAD_PROTOCOL = 0x0208;
const MAX_VMLINUX = 512 * 1024 * 1024;

/** Compressed payload: its first bytes, and what unpacks it. All but gzip are followed by four bytes of size. */
const compressions: readonly { magic: number[]; unpack: (payload: Buffer) => Promise<Buffer> }[] = [
  {
    magic: [0x1f, 0x8b],
    unpack: async (payload) => gunzipSync(payload, { maxOutputLength: MAX_VMLINUX }),
  },
  { magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], unpack: (payload) => through('xz', ['-dc'], payload) },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], unpack: (payload) => through('zstd', ['-dcq'], payload) },
  { magic: [0x02, 0x21, 0x4c, 0x18], unpack: (payload) => through('lz4', ['-dcq'], payload) },
];

function through(program: string, args: string[], payload: Buffer): Promise<Buffer> {
  return run(OP, program, args, { input: payload.subarray(0, -4), limit: MAX_VMLINUX });
}

/**
 * The bootable ELF file of a kernel: the file itself when it is a vmlinux, what is packed in it when it is a bzImage.
 * InvalidArgument when it is neither, or a kernel without the PVH entry that starting without a boot loader needs.
 */
export async function unpackKernel(path: string, image: Buffer): Promise<Buffer> {
  const vmlinux = isKernelElf(image) ? image : await unpackBzImage(path, image);
  if (!isKernelElf(vmlinux)) throw refusedInput(path, 'what is packed in it is not an x86-64 kernel');
  if (!hasPvhEntry(vmlinux)) {
    throw refusedInput(path, 'the kernel has no PVH entry', 'take one that is built with CONFIG_PVH=y');
  }
  return vmlinux;
}

async function unpackBzImage(path: string, image: Buffer): Promise<Buffer> {
  if (image.length < 0x260 || image.readUInt32LE(0x202) !== SETUP_MAGIC) {
    throw refusedInput(path, 'neither an x86-64 vmlinux nor a bzImage');
  }
  const version = image.readUInt16LE(0x206);
  if (version < PAYLOAD_PROTOCOL)
    throw refusedInput(path, `boot protocol ${version.toString(16)} is too old`);
  const sectors = image[0x1f1] || 4;
  const start = (sectors + 1) * 512 + image.readUInt32LE(0x248);
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c));
  const found = compressions.find(({ magic }) => magic.every((byte, index) => payload[index] === byte));
  if (found === undefined) throw refusedInput(path, 'its compression is none of gzip, xz, zstd, lz4');
  return found.unpack(payload);
}

/** "6.1.0-32-cloud-amd64" of a bzImage's header; undefined for a vmlinux, which does not say it in a fixed place. */
export function bzImageRelease(image: Buffer): string | undefined {
  if (image.length < 0x260 || image.readUInt32LE(0x202) !== SETUP_MAGIC) return undefined;
  const at = image.readUInt16LE(0x20e);
  if (at === 0) return undefined;
  const text = image.subarray(at + 0x200, at + 0x200 + 256).toString('latin1');
  return /^[\w.+~-]+/.exec(text)?.[0];
}
