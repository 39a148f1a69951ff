/**
 * Writer of cpio archives in the `newc` format, which is what the kernel unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Owner is root and times are zero, so that the same
 * content gives the same bytes.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';

export type CpioEntry =
  | { kind: 'directory'; path: string; mode?: number }
  | { kind: 'file'; path: string; mode?: number; data: Uint8Array }
  | { kind: 'symlink'; path: string; target: string }
  | { kind: 'character'; path: string; mode?: number; major: number; minor: number };

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
/** A size is eight hexadecimal digits. */
const MAX_SIZE = 0xffffffff;
/** The kernel refuses longer names (PATH_MAX, init/initramfs.c). */
const MAX_NAME = 4096;

/**
 * The archive of these entries, in their order. The kernel passes over an entry whose directory does not exist yet
 * without a word, so a missing directory is refused here, as are a path that is not plain and a path given twice
 * (InvalidArgument).
 */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const directories = new Set(['']);
  const seen = new Set<string>();
  const parts: Buffer[] = [];
  for (const [index, entry] of entries.entries()) {
    checkPath(entry.path, seen, directories);
    if (entry.kind === 'directory') directories.add(entry.path);
    parts.push(...record(index + 1, entry));
  }
  parts.push(header({ ino: 0, mode: 0, nlink: 1, size: 0, name: 'TRAILER!!!' }));
  return Buffer.concat(parts);
}

function checkPath(path: string, seen: Set<string>, directories: ReadonlySet<string>): void {
  const names = path.split('/');
  if (names.some((name) => name === '' || name === '.' || name === '..') || path.includes('\0')) {
    throw refused(path, 'not a plain relative path');
  }
  if (Buffer.byteLength(path) >= MAX_NAME) throw refused(path.slice(0, 64), 'name too long');
  if (seen.has(path)) throw refused(path, 'given twice');
  const parent = names.slice(0, -1).join('/');
  if (!directories.has(parent))
    throw refused(path, `its directory ${parent} is not in the archive before it`);
  seen.add(path);
}

function refused(path: string, reason: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'write initrd',
    object: JSON.stringify(path),
    reason,
  });
}

function record(ino: number, entry: CpioEntry): Buffer[] {
  const name = entry.path;
  switch (entry.kind) {
    case 'directory':
      return [header({ ino, mode: S_IFDIR | (entry.mode ?? 0o755), nlink: 2, size: 0, name })];
    case 'file':
      return withData({ ino, mode: S_IFREG | (entry.mode ?? 0o644), nlink: 1, name }, entry.data);
    case 'symlink':
      return withData({ ino, mode: S_IFLNK | 0o777, nlink: 1, name }, Buffer.from(entry.target));
    case 'character': {
      const { major, minor } = entry;
      return [header({ ino, mode: S_IFCHR | (entry.mode ?? 0o600), nlink: 1, size: 0, major, minor, name })];
    }
  }
}

interface Header {
  ino: number;
  mode: number;
  nlink: number;
  size: number;
  major?: number;
  minor?: number;
  name: string;
}

function withData(fields: Omit<Header, 'size'>, data: Uint8Array): Buffer[] {
  if (data.byteLength > MAX_SIZE) throw refused(fields.name, 'larger than 4 GiB');
  return [header({ ...fields, size: data.byteLength }), Buffer.from(data), padding(data.byteLength)];
}

/** "070701", thirteen fields of eight hexadecimal digits, the name with its NUL, padded to four bytes. */
function header(fields: Header): Buffer {
  const name = Buffer.from(`${fields.name}\0`);
  const numbers = [
    fields.ino,
    fields.mode,
    0, // uid
    0, // gid
    fields.nlink,
    0, // mtime
    fields.size,
    0, // device of the archive, major
    0, // minor
    fields.major ?? 0,
    fields.minor ?? 0,
    name.length,
    0, // checksum: not in this format
  ];
  const text = Buffer.from(`070701${numbers.map((n) => n.toString(16).padStart(8, '0')).join('')}`);
  return Buffer.concat([text, name, padding(text.length + name.length)]);
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
