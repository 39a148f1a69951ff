/**
 * The guest cache: kernels and initrds by the hash of everything that shapes them, and which kernel is in use.
 *
 *   CACHE/guest.json               the kernel in use: {"version": 1, "kernel": KEY}
 *   CACHE/kernels/KEY/vmlinux      stripped; System.map and config beside it, when it was built here
 *   CACHE/kernels/KEY/kernel.json  what it is (KernelInfo)
 *   CACHE/kernels/KEY/modules/     distribution kernels only: 000-name.ko …, in the order of loading
 *   CACHE/initrds/KEY.cpio
 *   CACHE/sources/                 kernel sources that apt fetched
 *   CACHE/templates/               saved machines (src/sandbox/vm)
 *
 * Whatever is below a key is complete and never changes: it is made beside and renamed.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

const VERSION = 1;

/** What is known about a kernel of the cache. */
export interface KernelInfo {
  version: typeof VERSION;
  key: string;
  /** "6.12.117-bulkhead"; empty when a vmlinux was given, which does not say. */
  release: string;
  /** "source linux-source-6.12.tar.xz" or "/boot/vmlinuz-…": for people. */
  origin: string;
  /** File names below modules/, in the order of loading. */
  modules: string[];
}

/** SHA-256 over the parts, each with its length, so that no two lists of parts meet. 32 hexadecimal digits. */
export function contentKey(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : part;
    hash.update(`${bytes.byteLength}:`).update(bytes);
  }
  return hash.digest('hex').slice(0, 32);
}

export class GuestCache {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  kernelDir(key: string): string {
    return join(this.dir, 'kernels', key);
  }

  kernelPath(key: string): string {
    return join(this.kernelDir(key), 'vmlinux');
  }

  initrdPath(key: string): string {
    return join(this.dir, 'initrds', `${key}.cpio`);
  }

  /** A directory to work in, on the cache's file system. Its maker removes it. */
  workDir(): string {
    mkdirSync(this.dir, { recursive: true, mode: 0o755 });
    return mkdtempSync(join(this.dir, 'build-'));
  }

  /** Gives a complete directory its place. When somebody else was faster, theirs stays: it is the same. */
  keepKernel(made: string, info: KernelInfo): void {
    writeFileSync(join(made, 'kernel.json'), `${JSON.stringify(info, null, 2)}\n`);
    mkdirSync(join(this.dir, 'kernels'), { recursive: true });
    try {
      renameSync(made, this.kernelDir(info.key));
    } catch (error) {
      if (!this.hasKernel(info.key)) throw error;
      rmSync(made, { recursive: true, force: true });
    }
  }

  hasKernel(key: string): boolean {
    return existsSync(join(this.kernelDir(key), 'kernel.json'));
  }

  /** Makes this kernel the one that new guests boot. */
  select(key: string): void {
    mkdirSync(this.dir, { recursive: true });
    const path = join(this.dir, 'guest.json');
    writeFileSync(`${path}.${process.pid}`, `${JSON.stringify({ version: VERSION, kernel: key })}\n`);
    renameSync(`${path}.${process.pid}`, path);
  }

  /** The kernel in use. FailedPrecondition when none was built, Internal when the cache is damaged. */
  selected(op: string, id?: string): KernelInfo {
    const path = join(this.dir, 'guest.json');
    const choice = this.#read(op, id, path, isChoice);
    if (choice === undefined) {
      throw new RuntimeError({
        code: ErrorCode.FailedPrecondition,
        op,
        id,
        object: 'guest kernel',
        reason: `none in ${this.dir}`,
        remedy: 'make one with: bulkhead guest build',
        path,
      });
    }
    const info = this.#read(op, id, join(this.kernelDir(choice.kernel), 'kernel.json'), isKernelInfo);
    if (info === undefined || !existsSync(this.kernelPath(info.key))) {
      throw damaged(op, id, this.kernelDir(choice.kernel), 'the kernel that guest.json names is not there');
    }
    return info;
  }

  #read<T>(
    op: string,
    id: string | undefined,
    path: string,
    check: (value: unknown) => value is T,
  ): T | undefined {
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw damaged(op, id, path, (error as Error).message);
    }
    try {
      const value: unknown = JSON.parse(text);
      if (check(value)) return value;
    } catch {
      // Falls through: not JSON is as good as the wrong JSON.
    }
    throw damaged(op, id, path, 'not what this version writes there');
  }
}

function damaged(op: string, id: string | undefined, path: string, reason: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.Internal,
    op,
    id,
    object: `guest cache: ${path}`,
    reason,
    remedy: 'make it anew with: bulkhead guest build',
    path,
  });
}

const isKey = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{32}$/.test(value);

function isChoice(value: unknown): value is { kernel: string } {
  const choice = value as { version?: unknown; kernel?: unknown } | null;
  return choice?.version === VERSION && isKey(choice.kernel);
}

function isKernelInfo(value: unknown): value is KernelInfo {
  const info = value as Partial<KernelInfo> | null;
  return (
    info?.version === VERSION &&
    isKey(info.key) &&
    typeof info.release === 'string' &&
    typeof info.origin === 'string' &&
    Array.isArray(info.modules) &&
    info.modules.every((name) => typeof name === 'string' && /^[\w.+-]+$/.test(name))
  );
}
