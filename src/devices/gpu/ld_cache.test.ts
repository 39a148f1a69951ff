import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  compareNames,
  libraryFlags,
  mergeCache,
  readCache,
  writeCache,
  type CachedLibrary,
} from './ld_cache.ts';

const dir = mkdtempSync(join(tmpdir(), 'bh-ldcache-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const flags = libraryFlags('x64') ?? 0;
const library = (name: string, path = `/lib/${name}`): CachedLibrary => ({ name, path, flags });

describe('the cache of the loader', () => {
  it('is read as it was written, sorted as the loader searches', () => {
    const written = writeCache([library('libb.so.1'), library('liba.so.10'), library('liba.so.9')]);
    expect(readCache(written)?.map(({ name }) => name)).toEqual(['libb.so.1', 'liba.so.10', 'liba.so.9']);
  });

  it('gives added libraries precedence over those of their name', () => {
    const present = [library('libcuda.so.1', '/old/libcuda.so.1'), library('libc.so.6')];
    const merged = mergeCache(present, [library('libcuda.so.1', '/new/libcuda.so.1')]);
    expect(readCache(writeCache(merged))).toEqual([
      library('libcuda.so.1', '/new/libcuda.so.1'),
      library('libc.so.6'),
    ]);
  });

  it('is found behind one of the older format', () => {
    const old = Buffer.alloc(16 + 12 + 4);
    old.write('ld.so-1.7.0', 'latin1');
    old.writeUInt32LE(1, 12);
    expect(readCache(Buffer.concat([old, writeCache([library('libx.so.1')])]))).toEqual([
      library('libx.so.1'),
    ]);
  });

  const good = writeCache([library('libx.so.1'), library('liby.so.1')]);
  const changed = (at: number, value: number): Buffer => {
    const copy = Buffer.from(good);
    copy.writeUInt32LE(value, at);
    return copy;
  };
  it.each<[string, Uint8Array]>([
    ['empty', Buffer.alloc(0)],
    ['other bytes', Buffer.alloc(4096, 0xff)],
    ['cut in its header', good.subarray(0, 40)],
    ['cut in its entries', good.subarray(0, 60)],
    ['cut in its strings', good.subarray(0, good.length - 1)],
    ['more entries than bytes', changed(20, 0xffffffff)],
    ['a name outside', changed(48 + 4, 0xfffffff0)],
    [
      'an old one that claims too much',
      Buffer.from('ld.so-1.7.0\0\xff\xff\xff\x7f'.padEnd(64, '\0'), 'latin1'),
    ],
  ])('is no cache: %s', (_, bytes) => {
    expect(readCache(bytes)).toBeUndefined();
  });

  it.each<[string, string, number]>([
    ['liba.so.10', 'liba.so.9', 1],
    ['liba.so', 'liba.so.1', -1],
    ['lib1.so', 'libx.so', 1],
    ['libx.so', 'lib1.so', -1],
    ['liba.so', 'libb.so', -1],
    ['liba.so.01', 'liba.so.1', 0],
  ])('%s compared with %s', (a, b, sign) => {
    expect(Math.sign(compareNames(a, b))).toBe(sign);
  });
});

/** The machine's own tools are the oracle; a machine without glibc's has none. */
const ldconfig = ['/sbin/ldconfig', '/usr/sbin/ldconfig'].find(existsSync);
const host = '/etc/ld.so.cache';
describe.skipIf(ldconfig === undefined || !existsSync(host))('agreement with glibc', () => {
  const listed = (path: string): string[] =>
    execFileSync(ldconfig ?? '', ['-p', '-C', path], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line.startsWith('\t'));

  it('on what this machine’s cache holds, and in which order', () => {
    const read = readCache(readFileSync(host)) ?? [];
    const plain = listed(host).filter((line) => !line.includes('hwcap'));
    expect(read.map(({ name }) => name)).toEqual(plain.map((line) => line.trim().split(' ')[0]));
    writeFileSync(join(dir, 'same'), writeCache(read));
    expect(listed(join(dir, 'same'))).toEqual(plain);
  });

  it('on what was added', () => {
    const own = libraryFlags();
    const added = { name: 'libcuda.so.1', path: '/usr/lib/nv/libcuda.so.1', flags: own ?? 0 };
    const merged = mergeCache(readCache(readFileSync(host)) ?? [], [added]);
    writeFileSync(join(dir, 'more'), writeCache(merged));
    expect(listed(join(dir, 'more')).filter((line) => line.includes('libcuda.so.1 '))).toEqual([
      expect.stringMatching(/^\tlibcuda\.so\.1 \(libc6.*\) => \/usr\/lib\/nv\/libcuda\.so\.1$/),
    ]);
  });
});
