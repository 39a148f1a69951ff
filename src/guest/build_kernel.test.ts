import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
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
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { buildKernel } from './build_kernel.ts';
import { GuestCache } from './cache.ts';

/** What kbuild does, in as many lines: a source tree that "compiles" to a copy of a small program. */
const makefile = `
tinyconfig:
\t@echo CONFIG_TINY=y > .config
olddefconfig:
\t@grep -v UNKNOWN .config > .new; mv .new .config
vmlinux:
\t@cp /bin/true vmlinux; echo map > System.map
\t@mkdir -p include/config; echo 6.12.0-test > include/config/kernel.release
\t@echo built by $$KBUILD_BUILD_USER
BREAK
`;

let dir: string;
let said: string[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-kernel-'));
  said = [];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const cache = (): GuestCache => new GuestCache(join(dir, 'cache'));

function tarball(text: string): string {
  mkdirSync(join(dir, 'linux-6.12'), { recursive: true });
  writeFileSync(join(dir, 'linux-6.12', 'Makefile'), text);
  const path = join(dir, 'linux.tar');
  expect(spawnSync('tar', ['-C', dir, '-cf', path, 'linux-6.12']).status).toBe(0);
  return path;
}

function build(source: string, fragment = 'CONFIG_A=y\n'): ReturnType<typeof buildKernel> {
  const config = join(dir, 'fragment');
  writeFileSync(config, fragment);
  const say = (text: string): number => said.push(text);
  return buildKernel({ cache: cache(), config, source, jobs: 1, env: process.env, say });
}

const good = (): string => tarball(makefile.replace('BREAK', ''));

describe('build of a kernel', () => {
  it('keeps the stripped kernel, its configuration, symbols and log', async () => {
    const info = await build(good());
    expect(info).toMatchObject({ release: '6.12.0-test', origin: 'source linux.tar', modules: [] });
    const kept = cache().kernelDir(info.key);
    expect(readdirSync(kept).sort()).toEqual(['System.map', 'build.log', 'config', 'kernel.json', 'vmlinux']);
    expect(readFileSync(join(kept, 'config'), 'utf8')).toBe('CONFIG_TINY=y\nCONFIG_A=y\n');
    expect(readFileSync(join(kept, 'build.log'), 'utf8')).toContain('built by bulkhead');
    expect(readdirSync(join(dir, 'cache'))).toEqual(['kernels']);
  });

  it('is done once for the same source and configuration', async () => {
    const first = await build(good());
    said = [];
    expect(await build(join(dir, 'linux.tar'))).toEqual(first);
    expect(said).toEqual([`kernel ${first.key} is in the cache`]);
    expect((await build(join(dir, 'linux.tar'), 'CONFIG_B=y\n')).key).not.toBe(first.key);
    expect((await build(tarball(`${makefile.replace('BREAK', '')}# newer\n`))).key).not.toBe(first.key);
  });

  it.each([
    [
      'the source does not compile',
      makefile.replace('BREAK', '\t@echo no such header >&2; exit 3'),
      'make: exit status 2; see',
    ],
    ['there is no Makefile', '', 'make: exit status 2; see'],
  ])('fails with the log when %s', async (_, text, reason) => {
    await expect(build(tarball(text))).rejects.toThrow(
      `guest build: ${reason} ${join(dir, 'cache', 'kernel-build.log')}`,
    );
    expect(readdirSync(join(dir, 'cache'))).toEqual(['kernel-build.log']);
  });

  it('refuses an option that Kconfig does not take', async () => {
    await expect(build(good(), 'CONFIG_UNKNOWN=y\n')).rejects.toThrow(
      `guest build: ${join(dir, 'fragment')}: this kernel’s configuration does not take CONFIG_UNKNOWN=y; use`,
    );
    expect(existsSync(join(dir, 'cache', 'kernels'))).toBe(false);
  });

  it('refuses what is no tarball', async () => {
    copyFileSync('/bin/true', join(dir, 'linux.tar'));
    await expect(build(join(dir, 'linux.tar'))).rejects.toThrow(/^guest build: tar: exit status 2/);
    await expect(build(join(dir, 'none.tar'))).rejects.toThrow(
      `guest build: kernel source ${join(dir, 'none.tar')}: no such file`,
    );
    expect(existsSync(join(dir, 'cache', 'kernels'))).toBe(false);
  });

  it('names the fragment that is not there', async () => {
    const input = { cache: cache(), config: '/nonexistent', source: good(), jobs: 1, env: {}, say: () => {} };
    await expect(buildKernel(input)).rejects.toThrow('guest build: /nonexistent: no such file or directory');
  });
});
