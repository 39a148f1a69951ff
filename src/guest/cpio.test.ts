import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cpioArchive } from './cpio.ts';
import type { CpioEntry } from './cpio.ts';

/** busybox's cpio, which is installed for the tests' containers anyway. */
const cpio = (args: string[], input: Buffer): string => {
  const { status, stdout, stderr } = spawnSync('busybox', ['cpio', ...args], { input });
  expect(status, stderr.toString()).toBe(0);
  return stdout.toString();
};

/** A reader that follows the format's text, field by field. */
function read(archive: Buffer): { name: string; mode: number; data: Buffer; rdev: [number, number] }[] {
  const found = [];
  for (let at = 0; ;) {
    expect(archive.subarray(at, at + 6).toString()).toBe('070701');
    const field = (n: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + n * 8, at + 14 + n * 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    const start = Math.ceil((at + 110 + nameSize) / 4) * 4;
    if (name === 'TRAILER!!!') {
      expect(start).toBe(archive.length);
      return found;
    }
    found.push({
      name,
      mode,
      data: archive.subarray(start, start + size),
      rdev: [field(9), field(10)] as [number, number],
    });
    at = Math.ceil((start + size) / 4) * 4;
  }
}

const entries: CpioEntry[] = [
  { kind: 'directory', path: 'bin' },
  { kind: 'directory', path: 'dev', mode: 0o700 },
  { kind: 'file', path: 'bin/odd', mode: 0o755, data: Buffer.from('hello') },
  { kind: 'file', path: 'bin/empty', data: Buffer.alloc(0) },
  { kind: 'symlink', path: 'bin/sh', target: '/bin/odd' },
  { kind: 'character', path: 'dev/console', major: 5, minor: 1 },
];

describe('cpio archive', () => {
  it('is listed by cpio with modes, sizes, devices and link targets', () => {
    const listed = cpio(['-itv'], cpioArchive(entries))
      .trim()
      .split('\n')
      .map((line) => line.replace(/\s+/g, ' '));
    expect(listed.map((line) => line.split(' ')[0])).toEqual([
      'drwxr-xr-x',
      'drwx------',
      '-rwxr-xr-x',
      '-rw-r--r--',
      'lrwxrwxrwx',
      'crw-------',
    ]);
    expect(listed[2]).toMatch(/ 5 .* bin\/odd$/);
    expect(listed[3]).toMatch(/ 0 .* bin\/empty$/);
    expect(listed[4]).toMatch(/ bin\/sh -> \/bin\/odd$/);
  });

  it('gives the content back through cpio', () => {
    expect(cpio(['-i', '--to-stdout', 'bin/odd'], cpioArchive(entries))).toBe('hello');
  });

  it('keeps any content under any name', () => {
    const name = fc.stringMatching(/^[a-z0-9_é-]{1,40}$/);
    const files = fc.uniqueArray(fc.record({ name, data: fc.uint8Array({ maxLength: 99 }) }), {
      selector: ({ name: own }) => own,
      maxLength: 8,
    });
    fc.assert(
      fc.property(files, (all) => {
        const archive = cpioArchive(all.map(({ name: path, data }) => ({ kind: 'file', path, data })));
        expect(read(archive).map(({ name: own, data }) => [own, [...data]])).toEqual(
          all.map(({ name: own, data }) => [own, [...data]]),
        );
      }),
    );
  });

  it('carries device numbers', () => {
    expect(read(cpioArchive(entries)).at(-1)).toMatchObject({
      name: 'dev/console',
      mode: 0o020600,
      rdev: [5, 1],
    });
  });

  it('is the same for the same entries', () => {
    expect(cpioArchive(entries).equals(cpioArchive(entries))).toBe(true);
  });

  it.each([
    ['/etc', 'not a plain relative path'],
    ['', 'not a plain relative path'],
    ['a/../b', 'not a plain relative path'],
    ['./a', 'not a plain relative path'],
    ['a\0b', 'not a plain relative path'],
    ['no/such', 'its directory no is not in the archive before it'],
    ['bin', 'given twice'],
    ['x'.repeat(4096), 'name too long'],
  ])('refuses the path %j', (path, reason) => {
    const bad: CpioEntry = { kind: 'directory', path };
    expect(() => cpioArchive([...entries, bad])).toThrow(
      expect.objectContaining({ op: 'write initrd', reason }) as Error,
    );
  });

  it('refuses a file below a file', () => {
    const below: CpioEntry = { kind: 'file', path: 'bin/odd/x', data: Buffer.alloc(0) };
    expect(() => cpioArchive([...entries, below])).toThrow(
      'write initrd: "bin/odd/x": its directory bin/odd is not in the archive before it',
    );
  });
});
