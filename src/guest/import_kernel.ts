/** Takes a kernel as it is, usually a distribution's, with the modules that its guest needs, into the cache. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { contentKey } from './cache.ts';
import type { GuestCache, KernelInfo } from './cache.ts';
import { bzImageRelease, unpackKernel } from './kernel_image.ts';
import { readInput, refusedInput } from './input.ts';
import { moduleOrder } from './modules.ts';
import { run } from './run.ts';

const OP = 'guest build';
const MAX_MODULE = 64 * 1024 * 1024;

export interface ImportInput {
  cache: GuestCache;
  /** A bzImage or a vmlinux. */
  kernel: string;
  /** `/lib/modules/RELEASE`; undefined: that of the kernel's release, or none when there is no such directory. */
  modules: string | undefined;
  /** Told what is being done, in a few words. */
  say: (text: string) => void;
}

/** The kernel in the cache. InvalidArgument and FailedPrecondition name the file or the module that stands in the way. */
export async function importKernel(input: ImportInput): Promise<KernelInfo> {
  const image = readInput(input.kernel);
  const vmlinux = await unpackKernel(input.kernel, image);
  const release = bzImageRelease(image) ?? '';
  const modules = await readModules(input, release);
  const key = contentKey(['import 1', vmlinux, ...modules.flatMap(({ name, data }) => [name, data])]);
  const names = modules.map(({ name }) => name);
  const info: KernelInfo = { version: 1, key, release, origin: input.kernel, modules: names };
  if (input.cache.hasKernel(key)) return info;
  const work = input.cache.workDir();
  try {
    const made = join(work, 'made');
    mkdirSync(join(made, 'modules'), { recursive: true });
    writeFileSync(join(made, 'vmlinux'), vmlinux);
    for (const { name, data } of modules) writeFileSync(join(made, 'modules', name), data);
    input.cache.keepKernel(made, info);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return info;
}

interface Module {
  name: string;
  data: Buffer;
}

async function readModules(input: ImportInput, release: string): Promise<Module[]> {
  const dir = input.modules ?? defaultModules(release);
  if (dir === undefined) {
    input.say('no modules: the kernel must have built in what a guest needs');
    return [];
  }
  const index = {
    dep: readInput(join(dir, 'modules.dep'), 'make it with depmod').toString(),
    builtin: readOptional(join(dir, 'modules.builtin')),
    softdep: readOptional(join(dir, 'modules.softdep')),
    alias: readOptional(join(dir, 'modules.alias')),
  };
  const { paths, absent } = moduleOrder(index);
  if (absent.length > 0) input.say(`this kernel lacks ${absent.join(', ')}`);
  const modules: Module[] = [];
  for (const [number, path] of paths.entries()) {
    const name = basename(path).replace(/\.ko\.\w+$/, '.ko');
    const data = await unpackModule(path, readInput(join(dir, path)));
    modules.push({ name: `${String(number).padStart(3, '0')}-${name}`, data });
  }
  return modules;
}

function defaultModules(release: string): string | undefined {
  const dir = `/lib/modules/${release}`;
  return release !== '' && existsSync(join(dir, 'modules.dep')) ? dir : undefined;
}

/** In the archive a module is as it is: a guest's kernel may not be able to unpack one. */
function unpackModule(path: string, data: Buffer): Promise<Buffer> {
  const [, suffix] = /\.ko\.(\w+)$/.exec(path) ?? [];
  if (suffix === undefined) return Promise.resolve(data);
  const programs: Record<string, string> = { xz: 'xz', zst: 'zstd', gz: 'gzip' };
  const program = programs[suffix];
  if (program === undefined) throw refusedInput(path, `unknown compression .${suffix}`);
  return run(OP, program, ['-dcq'], { input: data, limit: MAX_MODULE });
}

function readOptional(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}
