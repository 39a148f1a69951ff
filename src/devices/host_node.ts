/** Device nodes of this machine. */
import { lstatSync } from 'node:fs';
import type { HostNode } from './cdi/edits.ts';

const S_IFMT = 0o170000;
const types: Readonly<Record<number, HostNode['type']>> = { 0o060000: 'b', 0o020000: 'c', 0o010000: 'p' };

/** lstat(2) of a path; undefined when it is absent, or neither a device nor a fifo. */
export function hostNode(path: string): HostNode | undefined {
  const info = lstatSync(path, { throwIfNoEntry: false });
  const type = info === undefined ? undefined : types[info.mode & S_IFMT];
  if (info === undefined || type === undefined) return undefined;
  return { type, ...deviceNumbers(info.rdev), mode: info.mode & 0o7777, gid: info.gid };
}

/** Major and minor of a dev_t (gnu_dev_major(3)): 12 and 20 bits in Linux, interleaved. */
export function deviceNumbers(rdev: number): { major: number; minor: number } {
  const low = rdev % 2 ** 32;
  return { major: (low >>> 8) & 0xfff, minor: (low & 0xff) | ((low >>> 12) & 0xfff00) };
}
