import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestCache } from './cache.ts';
import { hasPvhEntry, isKernelElf } from './elf.ts';
import { importKernel } from './import_kernel.ts';
import { bzImageRelease } from './kernel_image.ts';
import { fakeBzImage, fakeVmlinux } from './testing/kernels.ts';

let dir: string;
let said: string[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-import-'));
  said = [];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const cache = (): GuestCache => new GuestCache(join(dir, 'cache'));
const take = (image: Buffer, modules?: string): ReturnType<typeof importKernel> => {
  const kernel = join(dir, 'kernel');
  writeFileSync(kernel, image);
  return importKernel({ cache: cache(), kernel, modules, say: (text) => said.push(text) });
};

/** What kbuild puts behind a payload that does not say its own size. */
const withSize = (packed: Buffer, size: number): Buffer => {
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(size);
  return Buffer.concat([packed, tail]);
};
const packedBy = (program: string, args: string[], data: Buffer): Buffer =>
  withSize(spawnSync(program, args, { input: data }).stdout, data.length);

describe('import of a kernel', () => {
  const vmlinux = fakeVmlinux({ fill: 'x'.repeat(5000) });

  it.each([
    ['plain', (): Buffer => vmlinux],
    ['gzip', (): Buffer => fakeBzImage(gzipSync(vmlinux))],
    ['xz', (): Buffer => fakeBzImage(packedBy('xz', ['--check=crc32'], vmlinux))],
    ['zstd', (): Buffer => fakeBzImage(packedBy('zstd', ['-q'], vmlinux))],
    ['lz4', (): Buffer => fakeBzImage(packedBy('lz4', ['-lq'], vmlinux))],
  ])('keeps the ELF file of a %s kernel', async (_, image) => {
    const info = await take(image());
    expect(readFileSync(cache().kernelPath(info.key)).equals(vmlinux)).toBe(true);
    expect(readdirSync(join(dir, 'cache'))).toEqual(['kernels']);
    expect((await take(image())).key).toBe(info.key);
  });

  it('reads the release of a bzImage only', () => {
    expect(bzImageRelease(fakeBzImage(gzipSync(vmlinux)))).toBe('6.1.0-test');
    expect(bzImageRelease(vmlinux)).toBeUndefined();
  });

  it.each([
    ['an empty file', Buffer.alloc(0), 'neither an x86-64 vmlinux nor a bzImage'],
    ['text', Buffer.from('text '.repeat(500)), 'neither an x86-64 vmlinux nor a bzImage'],
    ['an old bzImage', fakeBzImage(gzipSync(vmlinux), { protocol: 0x0207 }), 'boot protocol 207 is too old'],
    [
      'an unknown payload',
      fakeBzImage(Buffer.from('BZh9')),
      'its compression is none of gzip, xz, zstd, lz4',
    ],
    ['something else packed', fakeBzImage(gzipSync('text')), 'what is packed in it is not an x86-64 kernel'],
    [
      'a kernel without PVH',
      fakeVmlinux({ pvh: false }),
      'the kernel has no PVH entry; take one that is built',
    ],
  ])('refuses %s, and leaves nothing', async (_, image, reason) => {
    await expect(take(image)).rejects.toThrow(`guest build: ${join(dir, 'kernel')}: ${reason}`);
    expect(existsSync(join(dir, 'cache'))).toBe(false);
  });

  it('refuses a payload that is cut short', async () => {
    const cut = packedBy('xz', ['--check=crc32'], vmlinux).subarray(0, 80);
    await expect(take(fakeBzImage(cut))).rejects.toThrow(/^guest build: xz: exit status 1: /);
  });

  it('refuses what is not there', async () => {
    const missing = { cache: cache(), kernel: '/nonexistent/kernel', modules: undefined, say: () => {} };
    await expect(importKernel(missing)).rejects.toThrow(
      'guest build: /nonexistent/kernel: no such file or directory',
    );
  });

  it.each([0, 7, 18, 63, 64, 100, 130, 175])('survives an ELF file cut at byte %d', (length) => {
    expect(hasPvhEntry(vmlinux.subarray(0, length))).toBe(false);
    expect(isKernelElf(vmlinux.subarray(0, length))).toBe(length >= 64);
  });
});

describe('modules of a kernel', () => {
  const vmlinux = fakeVmlinux();
  const modulesDir = (): string => join(dir, 'modules');
  const files = (contents: Record<string, string | Buffer>): string => {
    for (const [path, content] of Object.entries(contents)) {
      mkdirSync(join(modulesDir(), path, '..'), { recursive: true });
      writeFileSync(join(modulesDir(), path), content);
    }
    return modulesDir();
  };
  const dep = 'k/overlay.ko:\nk/virtio_console.ko.xz: k/virtio.ko.gz\nk/virtio.ko.gz:\n';
  const xz = (text: string): Buffer => spawnSync('xz', [], { input: text }).stdout;

  it('come unpacked and numbered in their order', async () => {
    const info = await take(
      vmlinux,
      files({
        'modules.dep': dep,
        'modules.builtin': 'k/virtio_pci.ko\n',
        'k/overlay.ko': 'overlay',
        'k/virtio_console.ko.xz': xz('console'),
        'k/virtio.ko.gz': gzipSync('virtio'),
      }),
    );
    expect(info.modules).toEqual(['000-virtio.ko', '001-virtio_console.ko', '002-overlay.ko']);
    const kept = join(cache().kernelDir(info.key), 'modules');
    expect(info.modules.map((name) => readFileSync(join(kept, name), 'utf8'))).toEqual([
      'virtio',
      'console',
      'overlay',
    ]);
    expect(said.join()).toContain('this kernel lacks virtio_rng');
  });

  it.each([
    ['depmod has not run', {}, 'modules.dep: no such file or directory; make it with depmod'],
    [
      'a module is missing',
      { 'modules.dep': dep, 'modules.builtin': 'virtio_pci.ko' },
      'modules/k/virtio.ko.gz: no such file or directory',
    ],
    [
      'a compression is unknown',
      {
        'modules.dep': dep.replaceAll('.gz', '.zz'),
        'modules.builtin': 'virtio_pci.ko',
        'k/virtio.ko.zz': '',
      },
      'k/virtio.ko.zz: unknown compression .zz',
    ],
  ])('are refused when %s', async (_, contents, reason) => {
    await expect(take(vmlinux, files(contents as Record<string, string>))).rejects.toThrow(reason);
    expect(existsSync(join(dir, 'cache'))).toBe(false);
  });
});
