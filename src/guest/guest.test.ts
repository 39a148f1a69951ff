import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { contentKey, GuestCache } from './cache.ts';
import { findGuest } from './guest.ts';
import type { Guest } from './guest.ts';

const KEY = 'a'.repeat(32);
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-guest-'));
  for (const name of ['bulkhead-agent', 'bulkhead-init']) writeFileSync(join(dir, name), `program ${name}`);
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const cacheDir = (): string => join(dir, 'cache');
const find = (): Guest =>
  findGuest({ cache: cacheDir(), program: (name) => join(dir, name) }, 'create', 'web');

function keep(key: string, modules: string[] = []): void {
  const cache = new GuestCache(cacheDir());
  const made = join(cache.workDir(), 'made');
  mkdirSync(join(made, 'modules'), { recursive: true });
  writeFileSync(join(made, 'vmlinux'), 'kernel');
  for (const name of modules) writeFileSync(join(made, 'modules', name), `module ${name}`);
  cache.keepKernel(made, { version: 1, key, release: '6.12', origin: 'a test', modules });
  cache.select(key);
}

describe('guest', () => {
  it('is the selected kernel and an initrd of the installed programs', () => {
    keep(KEY);
    const guest = find();
    expect(guest).toMatchObject({
      kernel: join(cacheDir(), 'kernels', KEY, 'vmlinux'),
      release: '6.12',
      origin: 'a test',
    });
    const archive = readFileSync(guest.initrd, 'latin1');
    expect(archive).toContain('program bulkhead-agent');
    expect(archive).toContain('program bulkhead-init');
    expect(archive).not.toContain('modules');
    expect(find()).toEqual(guest);
  });

  it('changes when the agent does, and not when it is installed again', () => {
    keep(KEY);
    const first = find();
    writeFileSync(join(dir, 'bulkhead-agent'), 'program bulkhead-agent');
    expect(find().key).toBe(first.key);
    writeFileSync(join(dir, 'bulkhead-agent'), 'another agent');
    const second = find();
    expect(second.key).not.toBe(first.key);
    expect(readdirSync(join(cacheDir(), 'initrds'))).toHaveLength(2);
    rmSync(second.initrd);
    expect(readFileSync(find().initrd, 'latin1')).toContain('another agent');
  });

  it('changes with the kernel', () => {
    keep(KEY);
    const first = find();
    keep('b'.repeat(32));
    expect(find().key).not.toBe(first.key);
    expect(find().initrd).toBe(first.initrd);
  });

  it('has a distribution kernel’s modules and their order', () => {
    keep(KEY, ['000-virtio.ko', '001-overlay.ko']);
    const archive = readFileSync(find().initrd, 'latin1');
    expect(archive).toContain('/modules/000-virtio.ko\n/modules/001-overlay.ko\n');
    expect(archive).toContain('module 001-overlay.ko');
  });

  it.each([
    ['nothing was built', () => {}, `guest kernel: none in CACHE; make one with: bulkhead guest build`],
    [
      'the agent is not installed',
      () => rmSync(join(dir, 'bulkhead-agent')),
      'DIR/bulkhead-agent: no such file',
    ],
    [
      'the kernel is gone',
      () => rmSync(join(cacheDir(), 'kernels'), { recursive: true }),
      `guest cache: CACHE/kernels/${KEY}: the kernel that guest.json names is not there`,
    ],
    [
      'guest.json is cut',
      () => writeFileSync(join(cacheDir(), 'guest.json'), '{"version":1'),
      'guest.json: not what this',
    ],
    [
      'guest.json leads elsewhere',
      () => writeFileSync(join(cacheDir(), 'guest.json'), '{"version":1,"kernel":"../../x"}'),
      'guest.json: not what this version writes there; make it anew with: bulkhead guest build',
    ],
    [
      'kernel.json is another’s',
      () => writeFileSync(join(cacheDir(), 'kernels', KEY, 'kernel.json'), '{"version":2}'),
      'kernel.json: not what this version writes there',
    ],
  ])('says so when %s', (what, spoil, reason) => {
    if (what !== 'nothing was built') keep(KEY);
    spoil();
    const text = reason.replaceAll('CACHE', cacheDir()).replaceAll('DIR', dir);
    expect(find).toThrow(text);
    expect(find).toThrow(/^create web: /);
  });
});

describe('content key', () => {
  it('tells parts apart', () => {
    expect(contentKey(['ab', 'c'])).not.toBe(contentKey(['a', 'bc']));
    expect(contentKey(['a', 'b'])).toBe(contentKey([Buffer.from('a'), 'b']));
    expect(contentKey([])).toMatch(/^[0-9a-f]{32}$/);
  });
});
