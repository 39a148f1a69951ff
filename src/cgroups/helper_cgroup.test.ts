import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeHelperCgroup } from './helper_cgroup.ts';
import type { CgroupLayout } from './host.ts';

describe('makeHelperCgroup', () => {
  let root: string;
  let layout: CgroupLayout;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'bh-helper-'));
    const hierarchy = (name: string) => ({
      names: [name],
      mountPoint: join(root, name),
      root: '/',
      ownPath: '/',
    });
    layout = { mode: 'v1', hierarchies: [hierarchy('memory'), hierarchy('pids')] };
    for (const { mountPoint } of layout.hierarchies) mkdirSync(mountPoint);
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  it('makes the directory in every hierarchy, and again', () => {
    const expected = [join(root, 'memory/shims/one'), join(root, 'pids/shims/one')];
    expect(makeHelperCgroup('start', 'web', 'shims/one', layout)).toEqual(expected);
    expect(makeHelperCgroup('start', 'web', '/shims/one', layout)).toEqual(expected);
  });

  it('gives a cpuset what its parent has, as the kernel wants before a process joins', () => {
    layout.hierarchies.push({ names: ['cpuset'], mountPoint: join(root, 'cpuset'), root: '/', ownPath: '/' });
    const directories = [join(root, 'cpuset'), join(root, 'cpuset/shims'), join(root, 'cpuset/shims/one')];
    for (const [depth, directory] of directories.entries()) {
      mkdirSync(directory);
      writeFileSync(join(directory, 'cpuset.cpus'), depth === 0 ? '0-1\n' : '\n');
      writeFileSync(join(directory, 'cpuset.mems'), depth === 0 ? '0\n' : '\n');
    }
    makeHelperCgroup('start', 'web', 'shims/one', layout);
    expect(readFileSync(join(root, 'cpuset/shims/one/cpuset.cpus'), 'utf8')).toBe('0-1\n');
    expect(readFileSync(join(root, 'cpuset/shims/one/cpuset.mems'), 'utf8')).toBe('0\n');
  });

  it('names the directory that cannot be made', () => {
    writeFileSync(join(root, 'pids/shims'), '');
    expect(() => makeHelperCgroup('start', 'web', 'shims/one', layout)).toThrow(
      new RegExp(`^start web: cgroup ${root}/pids/shims/one: `),
    );
  });

  it('refuses the path of a systemd slice', () => {
    expect(() => makeHelperCgroup('start', 'web', 'system.slice:bulkhead:web', layout)).toThrow(
      /systemd cgroup driver/,
    );
  });
});
