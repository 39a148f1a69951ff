/** Where the kernel's source comes from: a tarball that is given, or Debian's linux-source package. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { GuestCache } from './cache.ts';
import { run } from './run.ts';

const OP = 'guest build';
/** The series that guest/kernel.config is written for. */
export const KERNEL_SERIES = '6.12';
const PACKAGE = `linux-source-${KERNEL_SERIES}`;

/** Where Debian's package puts its tarball. */
const INSTALLED = `/usr/src/${PACKAGE}.tar.xz`;

/**
 * Path of a kernel source tarball: the one given, the installed package's, or that of the package which apt fetches
 * into the cache, once a version. No package is installed. FailedPrecondition when there is none to be had.
 */
export async function findSource(cache: GuestCache, given: string | undefined): Promise<string> {
  if (given !== undefined) {
    if (statSync(given, { throwIfNoEntry: false })?.isFile()) return given;
    throw noSource(given, 'no such file');
  }
  if (existsSync(INSTALLED)) return INSTALLED;
  const dir = join(cache.dir, 'sources');
  mkdirSync(dir, { recursive: true });
  const name = await packageFile();
  const kept = readdirSync(dir).filter((file) => file.startsWith(PACKAGE) && file.endsWith('.tar.xz'));
  if (name === undefined) {
    const newest = kept.sort().at(-1);
    if (newest !== undefined) return join(dir, newest);
    throw noSource(
      PACKAGE,
      'apt knows no such package',
      'run apt-get update, or give the kernel’s source: --source TARBALL',
    );
  }
  const tarball = join(dir, `${name.replace(/\.deb$/, '')}.tar.xz`);
  if (!existsSync(tarball)) await fetchPackage(cache, tarball);
  return tarball;
}

/** File name of the package that apt would fetch now; undefined when apt has none, or there is no apt. */
async function packageFile(): Promise<string | undefined> {
  try {
    const text = await run(OP, 'apt-get', ['--print-uris', 'download', PACKAGE]);
    return /^'[^']+' (\S+\.deb) /m.exec(text.toString())?.[1]?.replaceAll('%3a', ':');
  } catch {
    return undefined;
  }
}

async function fetchPackage(cache: GuestCache, tarball: string): Promise<void> {
  const work = cache.workDir();
  try {
    await run(OP, 'apt-get', ['-qq', '-o', 'APT::Sandbox::User=root', 'download', PACKAGE], { cwd: work });
    const deb = readdirSync(work).find((file) => file.endsWith('.deb'));
    if (deb === undefined) throw noSource(PACKAGE, 'apt fetched no package');
    await run(OP, 'dpkg-deb', ['-x', join(work, deb), work]);
    renameSync(join(work, 'usr/src', basename(INSTALLED)), tarball);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function noSource(object: string, reason: string, remedy?: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: OP,
    object: `kernel source ${object}`,
    reason,
    remedy,
  });
}
