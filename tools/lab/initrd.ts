/** The lab's initial file system: busybox, the modules that reach the host's tree, and init.sh. Kept by its content. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { contentKey } from '../../src/guest/cache.ts';
import { cpioArchive, type CpioEntry } from '../../src/guest/cpio.ts';
import { modulePaths } from '../../src/guest/modules.ts';
import type { LabAssets } from './assets.ts';

const BUSYBOX = '/usr/bin/busybox';
const MAX_MODULE = 64 << 20;
/** What a stock kernel has as modules between boot and the chroot; everything else comes by modprobe later. */
const EARLY = ['9pnet_virtio', '9p', 'overlay', 'virtio_pci'];

/** Path of the initrd in `dir`, made when there is none of this content yet. */
export function labInitrd(dir: string, { modules, release }: LabAssets): string {
  const entries = initrdEntries(
    modules === undefined ? [] : earlyModules(join(modules, 'lib/modules', release)),
  );
  const archive = cpioArchive(entries);
  const path = join(dir, `initrd-${contentKey([archive])}.cpio`);
  if (existsSync(path)) return path;
  mkdirSync(dir, { recursive: true });
  writeFileSync(`${path}.${process.pid}`, archive);
  renameSync(`${path}.${process.pid}`, path);
  return path;
}

interface ModuleFile {
  name: string;
  data: Buffer;
}

function initrdEntries(files: readonly ModuleFile[]): CpioEntry[] {
  return [
    ...['bin', 'dev', 'modules', 'proc', 'sys'].map((path): CpioEntry => ({ kind: 'directory', path })),
    { kind: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: readFileSync(BUSYBOX) },
    { kind: 'file', path: 'init', mode: 0o755, data: readFileSync(join(import.meta.dirname, 'init.sh')) },
    {
      kind: 'file',
      path: 'modules/order',
      data: Buffer.from(files.map(({ name }) => `${name}\n`).join('')),
    },
    ...files.map(({ name, data }): CpioEntry => ({ kind: 'file', path: `modules/${name}`, data })),
  ];
}

function earlyModules(dir: string): ModuleFile[] {
  const text = (name: string) => readFileSync(join(dir, name), 'utf8');
  const index = {
    dep: text('modules.dep'),
    builtin: text('modules.builtin'),
    softdep: text('modules.softdep'),
    alias: text('modules.alias'),
  };
  const { paths, absent } = modulePaths(index, EARLY);
  if (absent.length > 0) throw new Error(`lab: ${dir}: the kernel lacks ${absent.join(', ')}`);
  return paths.map((path) => ({
    name: basename(path).replace(/\.xz$/, ''),
    data: execFileSync('xz', ['-dc'], { input: readFileSync(join(dir, path)), maxBuffer: MAX_MODULE }),
  }));
}
