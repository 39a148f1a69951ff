/**
 * The dynamic loader's cache, /etc/ld.so.cache, as glibc has it since 2.2 (sysdeps/generic/dl-cache.h): libraries are
 * added to that of an image without running anything of the image, nor reading anything of it but this one file.
 *
 *   header 48 bytes ── entries of 24 bytes, sorted descending ── strings, by their offset from the start
 */

const OLD_MAGIC = 'ld.so-1.7.0';
const MAGIC = 'glibc-ld.so.cache1.1';
const HEADER_SIZE = 48;
const ENTRY_SIZE = 24;
/** Where the older format has the number of its entries, and how large they are. */
const OLD_HEADER_SIZE = 16;
const OLD_COUNT_AT = 12;
const OLD_ENTRY_SIZE = 12;
const LITTLE_ENDIAN = 2;
/** FLAG_ELF_LIBC6 and the processor's own. */
const FLAGS: Readonly<Record<string, number>> = { x64: 0x0303, arm64: 0x0a03 };

export interface CachedLibrary {
  /** "libcuda.so.1". */
  name: string;
  /** In the container. */
  path: string;
  flags: number;
}

/** For a library of this machine's processor; undefined: it is one without a known number. */
export function libraryFlags(arch: string = process.arch): number | undefined {
  return FLAGS[arch];
}

/**
 * The libraries of a cache. Those for particular processors (glibc-hwcaps) are left out: each has a plain sibling.
 * @returns undefined when the bytes are no cache, or a damaged one: the loader would not use it either
 */
export function readCache(bytes: Uint8Array): CachedLibrary[] | undefined {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = newFormatStart(file);
  if (start === undefined || file.length < start + HEADER_SIZE) return undefined;
  if (file.toString('latin1', start, start + MAGIC.length) !== MAGIC) return undefined;
  const count = file.readUInt32LE(start + 20);
  if (file.length < start + HEADER_SIZE + count * ENTRY_SIZE) return undefined;
  const text = (offset: number): string | undefined => {
    const from = start + offset;
    const end = from < file.length ? file.indexOf(0, from) : -1;
    return end < 0 ? undefined : file.toString('latin1', from, end);
  };
  const libraries: CachedLibrary[] = [];
  for (let at = start + HEADER_SIZE; libraries.length < count; at += ENTRY_SIZE) {
    if (at >= start + HEADER_SIZE + count * ENTRY_SIZE) break;
    if (file.readBigUInt64LE(at + 16) !== 0n) continue;
    const name = text(file.readUInt32LE(at + 4));
    const path = text(file.readUInt32LE(at + 8));
    if (name === undefined || path === undefined) return undefined;
    libraries.push({ name, path, flags: file.readInt32LE(at) });
  }
  return libraries;
}

/** An old cache has the new one behind it, at a multiple of 8. */
function newFormatStart(file: Buffer): number | undefined {
  if (file.toString('latin1', 0, OLD_MAGIC.length) !== OLD_MAGIC) return 0;
  if (file.length < OLD_HEADER_SIZE) return undefined;
  const end = OLD_HEADER_SIZE + file.readUInt32LE(OLD_COUNT_AT) * OLD_ENTRY_SIZE;
  return Math.ceil(end / 8) * 8;
}

/** `added` come before what the cache has under the same names. */
export function mergeCache(
  present: readonly CachedLibrary[],
  added: readonly CachedLibrary[],
): CachedLibrary[] {
  const replaced = new Set(added.map(({ name, flags }) => `${flags} ${name}`));
  return [...added, ...present.filter(({ name, flags }) => !replaced.has(`${flags} ${name}`))];
}

/** The file. Libraries of one name stay in their order: the loader takes the first that fits. */
export function writeCache(libraries: readonly CachedLibrary[]): Buffer {
  const sorted = libraries.toSorted((a, b) => compareNames(b.name, a.name));
  const stringsAt = HEADER_SIZE + sorted.length * ENTRY_SIZE;
  const offsets = new Map<string, number>();
  const strings: Buffer[] = [];
  let length = 0;
  const offsetOf = (text: string): number => {
    const known = offsets.get(text);
    if (known !== undefined) return known;
    const bytes = Buffer.from(`${text}\0`, 'latin1');
    const offset = stringsAt + length;
    offsets.set(text, offset);
    strings.push(bytes);
    length += bytes.length;
    return offset;
  };
  const head = Buffer.alloc(stringsAt);
  head.write(MAGIC, 'latin1');
  head.writeUInt32LE(sorted.length, 20);
  head.writeUInt8(LITTLE_ENDIAN, 28);
  sorted.forEach(({ name, path, flags }, index) => {
    const at = HEADER_SIZE + index * ENTRY_SIZE;
    head.writeInt32LE(flags, at);
    head.writeUInt32LE(offsetOf(name), at + 4);
    head.writeUInt32LE(offsetOf(path), at + 8);
  });
  head.writeUInt32LE(length, 24);
  return Buffer.concat([head, ...strings]);
}

/** As the loader's binary search compares (_dl_cache_libcmp): runs of digits by their number, digits behind the rest. */
export function compareNames(a: string, b: string): number {
  const isDigit = (code: number): boolean => code >= 48 && code <= 57;
  let i = 0;
  let j = 0;
  while (i < a.length) {
    const x = a.charCodeAt(i);
    const y = j < b.length ? b.charCodeAt(j) : 0;
    if (isDigit(x) && isDigit(y)) {
      const [left = '0'] = /^\d+/.exec(a.slice(i)) ?? [];
      const [right = '0'] = /^\d+/.exec(b.slice(j)) ?? [];
      if (Number(left) !== Number(right)) return Number(left) - Number(right);
      i += left.length;
      j += right.length;
    } else if (isDigit(x)) return 1;
    else if (isDigit(y)) return -1;
    else if (x !== y) return x - y;
    else {
      i++;
      j++;
    }
  }
  return j < b.length ? -1 : 0;
}
