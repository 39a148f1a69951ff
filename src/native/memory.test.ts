import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { addon } from './index.ts';

const { memfd, sealMemfd, copySparse, connectUnix, lendDevice, lendFile } = addon();
const MIB = 2 ** 20;
const PAGE = 4096;

let dir: string;
const open: number[] = [];
const owned = (fd: number): number => {
  open.push(fd);
  return fd;
};
const code = (run: () => unknown): string | undefined => {
  try {
    run();
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
};

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bulkhead-memory-'));
});

afterEach(() => {
  for (const fd of open.splice(0)) closeSync(fd);
  rmSync(dir, { recursive: true, force: true });
});

describe('memory files', () => {
  it('have a size, and nothing in them', () => {
    const { size, blocks } = fstatSync(owned(memfd('test', 64 * MIB)));
    expect([size, blocks]).toEqual([64 * MIB, 0]);
  });

  it('keep their size once that is sealed, and with it their content', () => {
    const fd = owned(memfd('test', PAGE));
    sealMemfd(fd, false);
    expect(writeSync(fd, 'x', 0)).toBe(1);
    expect(code(() => ftruncateSync(fd, 2 * PAGE))).toBe('EPERM');
    expect(code(() => sealMemfd(fd, true))).toBe('EPERM');
    const sealed = owned(memfd('test', PAGE));
    sealMemfd(sealed, true);
    expect(code(() => writeSync(sealed, 'x', 0))).toBe('EPERM');
    const again = owned(openSync(`/proc/self/fd/${sealed}`, constants.O_RDWR));
    expect(code(() => writeSync(again, 'x', 0))).toBe('EPERM');
  });

  it('are refused with bad arguments', () => {
    expect(() => memfd('test', -1)).toThrow(TypeError);
    expect(() => sealMemfd(-1, true)).toThrow(TypeError);
    expect(() => copySparse(-1, 0, false)).toThrow(TypeError);
  });
});

describe('copySparse', () => {
  const source = (): number => {
    const fd = owned(openSync(join(dir, 'source'), 'w+'));
    ftruncateSync(fd, 16 * MIB);
    writeSync(fd, Buffer.alloc(3 * PAGE, 1), 0, 3 * PAGE, 5 * PAGE);
    writeSync(fd, Buffer.alloc(2 * PAGE), 0, 2 * PAGE, MIB);
    writeSync(fd, 'end', 16 * MIB - 3);
    return fd;
  };

  it('copies data to its place, and neither holes nor zeros', async () => {
    const from = source();
    const to = owned(memfd('copy', 16 * MIB));
    await copySparse(from, to, false);
    const read = (at: number, size: number): Buffer => {
      const bytes = Buffer.alloc(size);
      readSync(to, bytes, 0, size, at);
      return bytes;
    };
    expect(read(5 * PAGE - 1, 3 * PAGE + 2)).toEqual(
      Buffer.concat([Buffer.alloc(1), Buffer.alloc(3 * PAGE, 1), Buffer.alloc(1)]),
    );
    expect(read(16 * MIB - 4, 4).toString()).toBe('\0end');
    expect(fstatSync(to).blocks * 512).toBe(4 * PAGE);
  });

  it('leaves pages of padding out when told to', async () => {
    const from = owned(openSync(join(dir, 'padded'), 'w+'));
    ftruncateSync(from, MIB);
    writeSync(from, Buffer.alloc(2 * PAGE, 0xcc), 0, 2 * PAGE, 4 * PAGE);
    writeSync(from, Buffer.alloc(PAGE, 0xcc).fill(1, 0, 1), 0, PAGE, 8 * PAGE);
    const blocks = async (padding: boolean): Promise<number> => {
      const to = owned(memfd('padded', MIB));
      await copySparse(from, to, false, padding);
      return (fstatSync(to).blocks * 512) / PAGE;
    };
    expect(await blocks(false)).toBe(3);
    expect(await blocks(true)).toBe(1);
  });

  it('has a checksum that knows places and not holes', async () => {
    const from = source();
    const sum = await copySparse(from, owned(memfd('one', 16 * MIB)), true);
    expect(sum).not.toBe(0n);
    // The same data with its holes filled.
    writeSync(from, Buffer.alloc(MIB), 0, MIB, 8 * MIB);
    expect(await copySparse(from, owned(memfd('two', 16 * MIB)), true)).toBe(sum);
    writeSync(from, Buffer.from([1]), 0, 1, 8 * MIB);
    const other = await copySparse(from, owned(memfd('three', 16 * MIB)), true);
    expect(other).not.toBe(sum);
    writeSync(from, Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 1]), 0, 9, 8 * MIB);
    expect(await copySparse(from, owned(memfd('four', 16 * MIB)), true)).not.toBe(other);
  });

  it('says why it cannot', async () => {
    const full = owned(memfd('full', PAGE));
    sealMemfd(full, true);
    await expect(copySparse(source(), full, false)).rejects.toMatchObject({ code: 'EPERM' });
    const writeOnly = owned(openSync(join(dir, 'source'), 'a'));
    await expect(copySparse(writeOnly, full, false)).rejects.toMatchObject({ code: 'EBADF' });
  });
});

describe('connectUnix', () => {
  it('connects by paths that are too long for an address', async () => {
    const long = join(dir, 'd'.repeat(120));
    mkdirSync(long);
    const path = join(long, 's');
    const server = createServer((socket) => socket.end('hello'));
    const before = process.cwd();
    process.chdir(long);
    await new Promise<void>((resolve) => server.listen('s', resolve));
    process.chdir(before);
    const socket = new Socket({ fd: connectUnix(path), readable: true, writable: true });
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    expect(text).toBe('hello');
    await new Promise((resolve) => server.close(resolve));
  });

  it('says that nobody listens', () => {
    expect(code(() => connectUnix(join(dir, 'none')))).toBe('ENOENT');
    writeFileSync(join(dir, 'file'), '');
    expect(code(() => connectUnix(join(dir, 'file')))).toBe('ECONNREFUSED');
  });
});

describe('lending', () => {
  it('tells files from devices', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(code(() => lendDevice(join(dir, 'file'), 1, 1, false))).toBe('ENOTBLK');
    expect(code(() => lendDevice(join(dir, 'none'), 1, 1, false))).toBe('ENOENT');
    expect(code(() => lendFile(join(dir, 'none'), 0, false))).toBe('ENOENT');
    expect(() => lendFile(join(dir, 'file'), -1, false)).toThrow(TypeError);
  });

  it.skipIf(process.getuid?.() !== 0)('gives a device a node that has another owner', () => {
    const fd = owned(lendDevice('/dev/zero', 1234, 5678, true));
    const { uid, gid, mode, rdev } = fstatSync(fd);
    expect([uid, gid, mode & 0o7777]).toEqual([1234, 5678, 0o400]);
    const zero = owned(openSync('/dev/zero', 'r'));
    expect(rdev).toBe(fstatSync(zero).rdev);
    const opened = owned(openSync(`/proc/self/fd/${fd}`, 'r'));
    expect(readSync(opened, Buffer.alloc(8, 1))).toBe(8);
  });
});
