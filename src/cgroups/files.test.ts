/** What works on files alone: update, freeze and the watch for kills, over a tree of plain files. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { freezeCgroup, isFrozen, thawCgroup } from './freeze.ts';
import { readText } from './files.ts';
import { killCgroup } from './kill.ts';
import { checkUnoccupied } from './occupied.ts';
import { watchOom, type OomAddon } from './oom.ts';
import type { CgroupView } from './path.ts';
import { containerPids } from './pids.ts';
import { v2Layout } from './testing/layouts.ts';
import { applyResources } from './update.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bh-files-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
}
const read = (name: string): string => readFileSync(join(root, name), 'utf8');

const v2View = (): CgroupView => ({
  mode: 'v2',
  hierarchies: [],
  unified: { mountPoint: root, path: join(root, 'c') },
});
const v1View = (...names: string[]): CgroupView => ({
  mode: 'v1',
  hierarchies: names.map((name) => ({ names: [name], mountPoint: root, path: join(root, name) })),
});

describe('readText', () => {
  it('reads files longer than its buffer', () => {
    const text = 'x'.repeat(100_000);
    write({ long: text, short: 'y' });
    expect(readText(join(root, 'long'))).toBe(text);
    expect(readText(join(root, 'short'))).toBe('y');
    expect(readText(join(root, 'none'))).toBeUndefined();
  });
});

describe('applyResources on v2', () => {
  it('writes converted values, and does not miss swap', () => {
    write({ 'c/memory.max': '', 'c/cpu.max': '', 'c/cpu.weight': '', 'c/pids.max': '' });
    applyResources(
      v2View(),
      v2Layout,
      { memory: { limit: -1 }, cpu: { quota: 5000, shares: 1024 }, pids: { limit: 5 } },
      { id: 'web-1' },
    );
    expect(['memory.max', 'cpu.max', 'cpu.weight', 'pids.max'].map((name) => read(`c/${name}`))).toEqual([
      'max',
      '5000 100000',
      '100',
      '5',
    ]);
  });

  it('names the file that is missing', () => {
    write({ 'c/memory.max': '' });
    expect(() => applyResources(v2View(), v2Layout, { cpu: { shares: 1024 } }, { id: 'web-1' })).toThrowError(
      expect.objectContaining({
        code: ErrorCode.NotFound,
        message: `update web-1: write "100" to ${root}/c/cpu.weight (linux.resources.cpu.shares): no such file or directory`,
      }),
    );
  });

  it('refuses a limit below the usage when told to check', () => {
    write({ 'c/memory.current': '1000\n', 'c/memory.max': 'max', 'c/memory.swap.max': 'max' });
    const update = (memory: object): void => applyResources(v2View(), v2Layout, { memory }, { id: 'web-1' });
    expect(() => update({ limit: 1000, checkBeforeUpdate: true })).toThrowError(
      '1000 is not above the present usage of 1000 bytes',
    );
    expect(read('c/memory.max')).toBe('max');
    update({ limit: 1001, checkBeforeUpdate: true });
    expect(read('c/memory.max')).toBe('1001');
    write({ 'c/memory.max': '' });
    update({ limit: 10 });
    expect(read('c/memory.max')).toBe('10');
  });
});

describe('freezeCgroup', () => {
  it('takes a freeze back that does not come about', async () => {
    write({ 'c/cgroup.freeze': '0', 'c/cgroup.events': 'populated 1\nfrozen 0\n' });
    await expect(freezeCgroup(v2View(), 'web-1', 30)).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: `pause web-1: ${root}/c/cgroup.freeze: the processes did not stand still in time`,
    });
    expect(isFrozen(v2View())).toBe(false);
  });

  it('waits until all stand still', async () => {
    write({ 'c/cgroup.freeze': '0', 'c/cgroup.events': 'populated 1\nfrozen 0\n' });
    const frozen = freezeCgroup(v2View(), 'web-1');
    setTimeout(() => write({ 'c/cgroup.events': 'populated 1\nfrozen 1\n' }), 20);
    await frozen;
    expect(isFrozen(v2View())).toBe(true);
    thawCgroup(v2View(), 'web-1');
    expect(isFrozen(v2View())).toBe(false);
  });

  it('says so when there is no freezer, or no cgroup', async () => {
    await expect(freezeCgroup(v1View('cpu'), 'web-1')).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: 'pause web-1: this host has no cgroup controller "freezer"',
    });
    await expect(freezeCgroup(v1View('freezer'), 'web-1')).rejects.toMatchObject({
      code: ErrorCode.NotFound,
      message: `pause web-1: ${root}/freezer/freezer.state: no such file or directory`,
    });
    expect(() => thawCgroup(v2View(), 'web-1')).toThrowError(
      expect.objectContaining({ code: ErrorCode.NotFound }),
    );
  });
});

describe('killCgroup', () => {
  it('names the processes that will not die', async () => {
    // This process stands for one that no signal reaches.
    write({ 'freezer/freezer.state': 'THAWED', 'devices/cgroup.procs': `${process.pid}\n` });
    const killed: number[] = [];
    const kill = (pid: number): void => void killed.push(pid);
    await expect(
      killCgroup(v1View('freezer', 'devices'), { id: 'web-1', deadlineMs: 500, kill }),
    ).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: `kill web-1: processes did not die in time: pid ${process.pid}`,
    });
    expect(killed.length).toBeGreaterThan(1);
    expect(new Set(killed)).toEqual(new Set([process.pid]));
    expect(read('freezer/freezer.state')).toBe('THAWED');
  });

  it('passes over a process that is gone before its signal, and thaws when another fails', async () => {
    write({ 'freezer/freezer.state': 'THAWED', 'devices/cgroup.procs': `${process.pid}\n` });
    const gone = (): never => {
      write({ 'devices/cgroup.procs': '' });
      throw Object.assign(new Error('kill ESRCH'), { code: 'ESRCH' });
    };
    await killCgroup(v1View('freezer', 'devices'), { id: 'web-1', kill: gone });
    write({ 'devices/cgroup.procs': `${process.pid}\n` });
    const refused = (): never => {
      throw Object.assign(new Error('kill EPERM'), { code: 'EPERM' });
    };
    await expect(
      killCgroup(v1View('freezer', 'devices'), { id: 'web-1', kill: refused }),
    ).rejects.toMatchObject({
      code: ErrorCode.PermissionDenied,
      message: 'kill web-1: cgroup: operation not permitted',
    });
    expect(read('freezer/freezer.state')).toBe('THAWED');
  });

  it('has nothing to do without cgroups', async () => {
    await killCgroup(v2View(), { id: 'web-1' });
  });
});

describe('containerPids', () => {
  it('counts each process once, sub-cgroups included, in order', () => {
    write({
      'devices/cgroup.procs': '30\n7\n0\n',
      'devices/a/cgroup.procs': '',
      'devices/a/b/cgroup.procs': '8\n7\n',
    });
    expect(containerPids(v1View('cpu', 'devices'))).toEqual([7, 8, 30]);
  });
});

describe('checkUnoccupied', () => {
  it('takes a cgroup that does not exist or is empty', () => {
    checkUnoccupied(v2View(), 'web-1');
    write({ 'c/cgroup.procs': '', 'c/cgroup.freeze': '0\n' });
    checkUnoccupied(v2View(), 'web-1');
  });

  it('refuses one in use, below too, and one that is frozen', () => {
    write({ 'c/cgroup.procs': '', 'c/a/cgroup.procs': '7\n', 'c/cgroup.freeze': '1\n' });
    expect(() => checkUnoccupied(v2View(), 'web-1')).toThrowError(
      expect.objectContaining({
        code: ErrorCode.FailedPrecondition,
        message: `create web-1: cgroup ${root}/c: has processes already (pid 7); give the container a cgroupsPath of its own`,
      }),
    );
    write({ 'c/a/cgroup.procs': '' });
    expect(() => checkUnoccupied(v2View(), 'web-1')).toThrowError(
      `create web-1: cgroup ${root}/c: is frozen; thaw or remove it`,
    );
  });
});

describe('watchOom on v1', () => {
  /** Notices as the kernel's eventfd gives them. */
  function fakeAddon() {
    const state = { notice: () => {}, closed: 0 };
    const addon: OomAddon = {
      watchCgroupV1Event(path, file, onEvent) {
        expect([path, file]).toEqual([join(root, 'memory'), 'memory.oom_control']);
        state.notice = () => onEvent(1);
        return { close: () => void state.closed++ };
      },
    };
    return { addon, state };
  }
  const control = (kills: number, more = 'oom_kill_disable 0\nunder_oom 0'): string =>
    `${more}\noom_kill ${kills}\n`;

  beforeEach(() => {
    vi.useFakeTimers();
    write({ 'memory/memory.oom_control': control(2) });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('tells once, also when the notice comes before the kill', () => {
    const { addon, state } = fakeAddon();
    const told = vi.fn();
    const watch = watchOom(v1View('memory'), addon, told);
    state.notice();
    expect(told).not.toHaveBeenCalled();
    write({ 'memory/memory.oom_control': control(3) });
    state.notice();
    expect(told).toHaveBeenCalledTimes(1);
    state.notice();
    vi.runAllTimers();
    expect(told).toHaveBeenCalledTimes(1);
    state.notice();
    write({ 'memory/memory.oom_control': control(5) });
    vi.runAllTimers();
    expect(told).toHaveBeenCalledTimes(2);
    watch.close();
    vi.runAllTimers();
    expect(state.closed).toBe(1);
  });

  it('tells nothing more once it is closed', () => {
    const { addon, state } = fakeAddon();
    const told = vi.fn();
    const watch = watchOom(v1View('memory'), addon, told);
    watch.close();
    write({ 'memory/memory.oom_control': control(3) });
    state.notice();
    vi.runAllTimers();
    expect(told).not.toHaveBeenCalled();
    expect(state.closed).toBe(1);
  });

  it('does not tell of a neighbour’s kill or of removal, nor after close', () => {
    const { addon, state } = fakeAddon();
    const told = vi.fn();
    const watch = watchOom(v1View('memory'), addon, told);
    state.notice();
    vi.runAllTimers();
    rmSync(join(root, 'memory'), { recursive: true });
    state.notice();
    vi.runAllTimers();
    write({ 'memory/memory.oom_control': control(2) });
    state.notice();
    watch.close();
    write({ 'memory/memory.oom_control': control(9) });
    vi.runAllTimers();
    expect(told).not.toHaveBeenCalled();
  });

  it('tells of a kill in a sub-cgroup, and of a container that stands still with the killer disabled', () => {
    const { addon, state } = fakeAddon();
    const told = vi.fn();
    write({ 'memory/sub/memory.oom_control': control(0) });
    watchOom(v1View('memory'), addon, told);
    write({ 'memory/sub/memory.oom_control': control(1) });
    state.notice();
    expect(told).toHaveBeenCalledTimes(1);
    write({ 'memory/memory.oom_control': control(2, 'oom_kill_disable 1\nunder_oom 1') });
    state.notice();
    state.notice();
    vi.runAllTimers();
    expect(told).toHaveBeenCalledTimes(2);
  });

  it('is silent without a memory cgroup', () => {
    const { addon } = fakeAddon();
    watchOom(v1View('cpu'), addon, () => expect.fail('told')).close();
    rmSync(join(root, 'memory'), { recursive: true });
    watchOom(v1View('memory'), addon, () => expect.fail('told')).close();
    watchOom(v2View(), addon, () => expect.fail('told')).close();
  });
});
