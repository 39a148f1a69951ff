/**
 * Builds the guest kernel: `make tinyconfig`, our fragment, `make vmlinux`. About seven minutes on two processors, once for each
 * content key: source, fragment, compiler.
 */
import {
  appendFileSync,
  copyFileSync,
  createReadStream,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { createHash } from 'node:crypto';
import { basename, join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { contentKey } from './cache.ts';
import type { GuestCache, KernelInfo } from './cache.ts';
import { readInput } from './input.ts';
import { missingOptions } from './kconfig.ts';
import { run } from './run.ts';
import { findSource } from './source.ts';

const OP = 'guest build';
/** Raised when the way of building changes what comes out. */
const RECIPE = 1;

/** Left packed: a quarter of the tree, and nothing of it is read for an x86 guest. */
const notUnpacked = ['*/Documentation/*/*', '*/drivers/gpu/drm/amd/include/*', '*/tools/testing/*'];

/** Who built it, where and when would make every build another file. */
const reproducible = {
  KBUILD_BUILD_TIMESTAMP: 'Thu Jan  1 00:00:00 UTC 1970',
  KBUILD_BUILD_USER: 'bulkhead',
  KBUILD_BUILD_HOST: 'guest',
};

export interface BuildInput {
  cache: GuestCache;
  /** Path of the configuration fragment. */
  config: string;
  /** Kernel source tarball; undefined: Debian's package. */
  source: string | undefined;
  /** Compilers at once. */
  jobs: number;
  env: NodeJS.ProcessEnv;
  /** Told what is being done, in a few words. */
  say: (text: string) => void;
}

/** The kernel of these inputs, out of the cache when it is there. A failed build leaves its log, `CACHE/kernel-build.log`. */
export async function buildKernel(input: BuildInput): Promise<KernelInfo> {
  const { cache, say } = input;
  const fragment = readInput(input.config).toString();
  const source = await findSource(cache, input.source);
  const tools = await Promise.all(
    [['gcc', '--version'] as const, ['ld', '--version'] as const].map(([program, flag]) =>
      run(OP, program, [flag]),
    ),
  );
  const key = contentKey([`kernel ${RECIPE}`, fragment, await fileHash(source), ...tools]);
  if (cache.hasKernel(key)) {
    say(`kernel ${key} is in the cache`);
    return { ...readInfo(cache, key) };
  }
  const work = cache.workDir();
  try {
    return await buildIn(work, input, { fragment, source, key });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function readInfo(cache: GuestCache, key: string): KernelInfo {
  return JSON.parse(readFileSync(join(cache.kernelDir(key), 'kernel.json'), 'utf8')) as KernelInfo;
}

interface Build {
  fragment: string;
  source: string;
  key: string;
}

async function buildIn(
  work: string,
  input: BuildInput,
  { fragment, source, key }: Build,
): Promise<KernelInfo> {
  const tree = join(work, 'linux');
  const logFile = join(input.cache.dir, 'kernel-build.log');
  rmSync(logFile, { force: true });
  const env = { ...withoutMake(input.env), ...reproducible };
  const make = (...args: string[]): Promise<Buffer> => run(OP, 'make', args, { cwd: tree, logFile, env });

  input.say(`unpacking ${basename(source)}`);
  mkdirSync(tree);
  const excluded = notUnpacked.map((pattern) => `--exclude=${pattern}`);
  await run(OP, 'tar', ['-x', '--strip-components=1', ...excluded, '-f', source, '-C', tree], { logFile });
  await make('tinyconfig');
  appendFileSync(join(tree, '.config'), fragment);
  await make('olddefconfig');
  checkConfig(input.config, fragment, readFileSync(join(tree, '.config'), 'utf8'));
  input.say(`compiling with ${input.jobs} at once; the log is ${logFile}`);
  await make(`-j${input.jobs}`, 'vmlinux');

  const made = join(work, 'made');
  mkdirSync(made);
  await run(OP, 'strip', ['--strip-all', '-o', join(made, 'vmlinux'), join(tree, 'vmlinux')]);
  copyFileSync(join(tree, 'System.map'), join(made, 'System.map'));
  copyFileSync(join(tree, '.config'), join(made, 'config'));
  const release = readFileSync(join(tree, 'include/config/kernel.release'), 'utf8').trim();
  const info: KernelInfo = { version: 1, key, release, origin: `source ${basename(source)}`, modules: [] };
  input.cache.keepKernel(made, info);
  renameSync(logFile, join(input.cache.kernelDir(key), 'build.log'));
  return info;
}

/** A make that runs us must not hand its job server and its variables to the kernel's. */
function withoutMake(env: NodeJS.ProcessEnv): Record<string, string> {
  const ours = [
    'MAKEFLAGS',
    'MFLAGS',
    'MAKELEVEL',
    'MAKEOVERRIDES',
    'CFLAGS',
    'LDFLAGS',
    'ARCH',
    'CROSS_COMPILE',
  ];
  return Object.fromEntries(
    Object.entries(env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && !ours.includes(entry[0]),
    ),
  );
}

/** FailedPrecondition names what Kconfig did not take: nobody boots a kernel without overlayfs by accident. */
export function checkConfig(path: string, fragment: string, config: string): void {
  const missing = missingOptions(fragment, config);
  if (missing.length === 0) return;
  const more = missing.length > 8 ? ` and ${missing.length - 8} more` : '';
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: OP,
    object: path,
    reason: `this kernel’s configuration does not take ${missing.slice(0, 8).join(' ')}${more}`,
    remedy: 'use the kernel series that the fragment names, or another fragment: --config FILE',
    path,
  });
}

async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
