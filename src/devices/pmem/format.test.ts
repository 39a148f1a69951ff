import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { FakeTree } from '../testing/fake_tree.ts';
import { formatPmem, type FormatRequest, type FormatTools } from './format.ts';
import { PFN_ALIGN, PFN_INFO_OFFSET, PFN_INFO_SIZE, readPfnInfo } from './pfn.ts';

const MIB = 1 << 20;
const dir = mkdtempSync(join(tmpdir(), 'bh-format-'));
afterAll(() => rmSync(dir, { recursive: true }));

let runs: string[][] = [];
/** A device-DAX of 8 MiB; nothing is at /dev/dax0.0 but this. */
const dax = Buffer.alloc(8 * MIB);
const daxTree = { '/sys/bus/dax/devices/dax0.0/size': String(dax.length) };
const tools = (changes: Partial<FormatTools> = {}): FormatTools => ({
  host: new FakeTree(daxTree),
  readMapped: (_path, offset, _align, length) => dax.subarray(offset, offset + length),
  writeMapped: (_path, offset, _align, data) => void dax.set(data, offset),
  mke2fs: (args) => void runs.push([...args]),
  uuid: () => Buffer.alloc(16, 7),
  ...changes,
});
const request = (name: string, changes: Partial<FormatRequest> = {}): FormatRequest => ({
  path: join(dir, name),
  mode: 'fsdax',
  fstype: 'ext4',
  force: false,
  ...changes,
});
const infoOf = (bytes: Uint8Array): ReturnType<typeof readPfnInfo> =>
  readPfnInfo(bytes.subarray(PFN_INFO_OFFSET, PFN_INFO_OFFSET + PFN_INFO_SIZE));

describe('a file', () => {
  it('begins as an NVDIMM does, with a file system behind that', () => {
    runs = [];
    expect(formatPmem(request('new', { size: 8 * MIB }), tools())).toEqual({
      size: 8 * MIB,
      dataOffset: PFN_ALIGN,
    });
    const path = join(dir, 'new');
    expect(infoOf(readFileSync(path))).toMatchObject({ mode: 'fsdax', dataOffset: PFN_ALIGN });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(runs).toEqual([['-q', '-F', '-t', 'ext4', '-b', '4096', '-E', 'offset=2097152', path, '6144k']]);
  });

  it('is erased only when that is asked for', () => {
    const path = join(dir, 'used');
    writeFileSync(path, Buffer.alloc(4 * MIB, 'x'));
    expect(() => formatPmem(request('used'), tools())).toThrow(
      `format: ${path}: there are data; give --force to erase them`,
    );
    expect(readFileSync(path).every((byte) => byte === 'x'.charCodeAt(0))).toBe(true);
    formatPmem(request('used', { force: true, fstype: 'none' }), tools());
    const bytes = readFileSync(path);
    expect(infoOf(bytes)).toBeDefined();
    expect(bytes.length).toBe(4 * MIB);
    expect(bytes.includes('x')).toBe(false);
  });

  it('is gone again when its file system could not be made, and not an NVDIMM when it was there', () => {
    const failing = tools({
      mke2fs: () => {
        throw new Error('mke2fs: no space');
      },
    });
    expect(() => formatPmem(request('failed', { size: 4 * MIB }), failing)).toThrow('no space');
    writeFileSync(join(dir, 'kept'), Buffer.alloc(4 * MIB));
    expect(() => formatPmem(request('kept'), failing)).toThrow('no space');
    expect(readdirSync(dir)).not.toContain('failed');
    expect(infoOf(readFileSync(join(dir, 'kept')))).toBeUndefined();
  });

  it.each<[string, Partial<FormatRequest>, string]>([
    ['no size', {}, 'no such file, and no size for a new one; give --size'],
    ['an odd size', { size: 5 * MIB }, '5242880 bytes: not a multiple of 2 MiB of at least 4 MiB'],
    ['too small a size', { size: 2 * MIB }, '2097152 bytes: not a multiple of 2 MiB of at least 4 MiB'],
    ['device-DAX', { mode: 'devdax', size: 4 * MIB }, 'a file is no node that a container could ask for'],
    ['a directory', { path: dir }, 'neither a file nor device-DAX'],
  ])('is refused with %s', (_what, changes, reason) => {
    expect(() => formatPmem(request('no', changes), tools())).toThrow(reason);
    expect(readdirSync(dir)).not.toContain('no');
  });
});

/** Any character device stands for the node: its bytes are reached by the tools alone. */
describe('device-DAX', () => {
  const path = '/dev/null';
  const tree = { '/sys/bus/dax/devices/null/size': String(dax.length) };
  const daxTools = (changes: Partial<FormatTools> = {}): FormatTools =>
    tools({ host: new FakeTree(tree), ...changes });

  it('is erased and prepared for either mode', () => {
    dax.fill('x');
    expect(() => formatPmem(request('', { path }), daxTools())).toThrow(`format: ${path}: there are data`);
    expect(dax.every((byte) => byte === 'x'.charCodeAt(0))).toBe(true);
    formatPmem(request('', { path, mode: 'devdax', force: true }), daxTools());
    expect(infoOf(dax)).toMatchObject({ mode: 'devdax', dataOffset: PFN_ALIGN });
    expect(dax.subarray(PFN_ALIGN).every((byte) => byte === 0)).toBe(true);
    const mke2fs = (args: readonly string[]): void => {
      const image = Buffer.alloc(dax.length);
      image.write('file system', PFN_ALIGN);
      writeFileSync(args.at(-2) ?? '', image);
    };
    formatPmem(request('', { path, force: true }), daxTools({ mke2fs }));
    expect(infoOf(dax)).toMatchObject({ mode: 'fsdax' });
    expect(dax.toString('latin1', PFN_ALIGN, PFN_ALIGN + 11)).toBe('file system');
  });

  it('leaves no file behind, and is no NVDIMM, when that fails', () => {
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith('bulkhead-pmem-'));
    dax.fill(0);
    const writeMapped = (): never => {
      throw new Error('poisoned');
    };
    expect(() => formatPmem(request('', { path }), daxTools({ writeMapped }))).toThrow('poisoned');
    expect(infoOf(dax)).toBeUndefined();
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith('bulkhead-pmem-'))).toEqual(before);
  });

  it.each<[string, Partial<FormatRequest>, Record<string, string | { link: string }>, string]>([
    ['another device', {}, {}, 'is no device-DAX; see what there is with: bulkhead devices'],
    ['a size', { size: 4 * MIB }, tree, 'a device has the size it has; leave --size out'],
    [
      'an odd size',
      {},
      { ...tree, '/sys/bus/dax/devices/null/align': String(16 * MIB) },
      'not a multiple of 16 MiB',
    ],
    ['a user', {}, { ...tree, '/proc/71/fd/4': { link: path } }, 'is in use by process 71 (?); end it first'],
  ])('is refused with %s', (_what, changes, files, reason) => {
    try {
      formatPmem(request('', { path, ...changes }), tools({ host: new FakeTree(files) }));
    } catch (error) {
      expect(error).toMatchObject({ code: ErrorCode.FailedPrecondition });
      expect((error as Error).message).toContain(reason);
      return;
    }
    throw new Error('not refused');
  });
});
