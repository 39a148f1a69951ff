import {
  chmodSync,
  chownSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LinuxSeccomp } from '../oci/types.ts';
import { readProgram, writeProgram } from './seccomp_cache.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bulkhead-seccomp-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const program = Uint8Array.from({ length: 16 }, (_, index) => index);
const only = (): string => join(dir, readdirSync(dir)[0] ?? '');

describe('a stored program', () => {
  it('comes back under its key', () => {
    const inside = join(dir, 'made/on/demand');
    writeProgram(inside, 'a', { program, warnings: ['w'] });
    const found = readProgram(inside, 'a');
    expect(found?.warnings).toEqual(['w']);
    expect([...(found?.program ?? [])]).toEqual([...program]);
    expect(readProgram(inside, 'b')).toBeUndefined();
    expect(statSync(inside).mode & 0o777).toBe(0o700);
  });

  it.each<[string, (bytes: Buffer) => Buffer]>([
    ['cut short', (bytes) => bytes.subarray(0, bytes.length - 8)],
    ['longer', (bytes) => Buffer.concat([bytes, Buffer.alloc(8)])],
    [
      'changed',
      (bytes) => Buffer.from(bytes.map((byte, index) => (index === bytes.length - 1 ? byte ^ 1 : byte))),
    ],
    ['empty', () => Buffer.alloc(0)],
    ['no JSON', () => Buffer.from('what\n12345678')],
    ['without a header’s end', () => Buffer.from('{}')],
    ['of another shape', () => Buffer.from('null\n12345678')],
  ])('that is %s is not used', (_, damage) => {
    writeProgram(dir, 'a', { program, warnings: [] });
    expect(readProgram(dir, 'a')).toBeDefined();
    writeFileSync(only(), damage(readFileSync(only())));
    expect(readProgram(dir, 'a')).toBeUndefined();
  });

  it('is not stored where it cannot be', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(() => writeProgram(join(dir, 'file'), 'a', { program, warnings: [] })).not.toThrow();
    expect(readdirSync(dir)).toEqual(['file']);
  });

  it('is not taken from where others can write', () => {
    writeProgram(dir, 'a', { program, warnings: [] });
    chmodSync(dir, 0o777);
    expect(readProgram(dir, 'a')).toBeUndefined();
    writeProgram(dir, 'b', { program, warnings: [] });
    expect(readdirSync(dir)).toEqual(['a']);
    chmodSync(dir, 0o755);
    chownSync(dir, 65534, 65534);
    expect(readProgram(dir, 'a')).toBeUndefined();
    chownSync(dir, 0, 0);
    expect(readProgram(dir, 'a')).toBeDefined();
  });

  it('gives way to newer ones', () => {
    for (let index = 0; index < 140; index += 1) writeProgram(dir, `key ${index}`, { program, warnings: [] });
    expect(readdirSync(dir)).toHaveLength(128);
    expect(readProgram(dir, 'key 139')).toBeDefined();
  });
});

describe('compileSeccomp with a directory', () => {
  it('compiles once for several processes', async () => {
    const profile: LinuxSeccomp = {
      defaultAction: 'SCMP_ACT_ERRNO',
      syscalls: [{ names: ['read', 'no_such_call'], action: 'SCMP_ACT_ALLOW' }],
    };
    // A fresh copy of the module is what a new process has.
    const compile = async () => {
      vi.resetModules();
      const { compileSeccomp } = await import('./seccomp.ts');
      return compileSeccomp(profile, dir);
    };
    const first = await compile();
    expect(readdirSync(dir)).toHaveLength(1);
    const { mtimeMs } = statSync(only());
    const second = await compile();
    expect(second).not.toBe(first);
    expect(second).toEqual({ ...first, program: Buffer.from(first.program) });
    expect(second.warnings).toHaveLength(1);
    expect(statSync(only()).mtimeMs).toBe(mtimeMs);
    // And again when the file was damaged.
    writeFileSync(only(), 'x');
    expect([...(await compile()).program]).toEqual([...first.program]);
    expect(statSync(only()).size).toBeGreaterThan(first.program.length);
  });
});
