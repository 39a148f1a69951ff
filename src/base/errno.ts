/** Error numbers of this machine: number ↔ name ↔ the kernel's text. */
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

const byName = new Map<string, number>(Object.entries(constants.errno));

/** Node lists what libuv knows; these are the others that the kernel's mount, namespace and seccomp calls answer. */
const more: readonly (readonly [number, string, string])[] = [
  [42, 'ENOMSG', 'no message of desired type'],
  [61, 'ENODATA', 'no data available'],
  [87, 'EUSERS', 'too many users'],
  [112, 'EHOSTDOWN', 'host is down'],
  [113, 'EHOSTUNREACH', 'no route to host'],
  [116, 'ESTALE', 'stale file handle'],
  [123, 'ENOMEDIUM', 'no medium found'],
  [126, 'ENOKEY', 'required key not available'],
  [127, 'EKEYEXPIRED', 'key has expired'],
  [128, 'EKEYREVOKED', 'key has been revoked'],
  [129, 'EKEYREJECTED', 'key was rejected by service'],
  [524, 'ENOTSUPP', 'operation not supported'],
];

/** libuv's wording where it is its own, in the kernel's (strerror(3), lower case). */
const texts: Readonly<Record<string, string>> = {
  EAGAIN: 'resource temporarily unavailable',
  EBUSY: 'device or resource busy',
  EFAULT: 'bad address',
  EINVAL: 'invalid argument',
  EIO: 'input/output error',
  ELOOP: 'too many levels of symbolic links',
  EMFILE: 'too many open files',
  ENAMETOOLONG: 'file name too long',
  ENFILE: 'too many open files in system',
  ENODEV: 'no such device',
  ENOMEM: 'cannot allocate memory',
  ENOSPC: 'no space left on device',
  ENOSYS: 'function not implemented',
  ENOTDIR: 'not a directory',
  ENOTEMPTY: 'directory not empty',
  ENOTSUP: 'operation not supported',
  EOPNOTSUPP: 'operation not supported',
  EPERM: 'operation not permitted',
  EACCES: 'permission denied',
  EROFS: 'read-only file system',
  ESRCH: 'no such process',
  E2BIG: 'argument list too long',
  ENOEXEC: 'exec format error',
  EDOM: 'numerical argument out of domain',
  ECHILD: 'no child processes',
  EXDEV: 'invalid cross-device link',
  ETXTBSY: 'text file busy',
  EPROTO: 'protocol error',
  EBADMSG: 'bad message',
  EDQUOT: 'disk quota exceeded',
};

interface Entry {
  name: string;
  text: string;
}

function build(): Map<number, Entry> {
  const entries = new Map<number, Entry>();
  for (const [name, number] of byName) {
    // Two names, one number: EWOULDBLOCK, EOPNOTSUPP (ENOTSUP). The first listed by the kernel wins.
    if (name === 'EWOULDBLOCK' || name === 'ENOTSUP') continue;
    entries.set(number, { name, text: texts[name] ?? name });
  }
  for (const [number, [name, text]] of getSystemErrorMap()) {
    // libuv has codes of its own below -3000 (EAI_*, EOF).
    if (number > -3000 && !(name in texts)) entries.set(-number, { name, text });
  }
  for (const [number, name, text] of more) {
    entries.set(number, { name, text });
    byName.set(name, number);
  }
  return entries;
}

let table: Map<number, Entry> | undefined;

function entry(errno: number): Entry | undefined {
  table ??= build();
  return table.get(errno);
}

/** "ENOENT" of 2; "errno 4711" of a number that has no name. */
export function errnoName(errno: number): string {
  return entry(errno)?.name ?? `errno ${errno}`;
}

/** "no such file or directory" of 2: strerror(3), lower case. */
export function errnoText(errno: number): string {
  return entry(errno)?.text ?? `errno ${errno}`;
}

/** 2 of "ENOENT", undefined of a name that this machine does not have. */
export function errnoNumber(name: string): number | undefined {
  table ??= build();
  return byName.get(name);
}
