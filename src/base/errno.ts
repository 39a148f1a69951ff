/** errno: number, name and the C library's text. */
import { getSystemErrorMap } from 'node:util';

const byNumber = getSystemErrorMap();
const numbers = new Map([...byNumber].map(([number, [name]]) => [name, -number]));

/** Names that libuv does not map but the executor reports. */
const extra: Record<number, [string, string]> = {
  8: ['ENOEXEC', 'exec format error'],
  10: ['ECHILD', 'no child processes'],
  15: ['ENOTBLK', 'block device required'],
  37: ['ENOLCK', 'no locks available'],
  62: ['ETIME', 'timer expired'],
  126: ['ENOKEY', 'required key not available'],
};

/** "ENOENT" for 2; "errno 999" for a number nobody knows. */
export function errnoName(errno: number): string {
  return byNumber.get(-errno)?.[0] ?? extra[errno]?.[0] ?? `errno ${errno}`;
}

/** "no such file or directory" for 2. */
export function errnoText(errno: number): string {
  return byNumber.get(-errno)?.[1] ?? extra[errno]?.[1] ?? `errno ${errno}`;
}

/** 2 for "ENOENT"; undefined for an unknown name. */
export function errnoNumber(name: string): number | undefined {
  return numbers.get(name);
}
