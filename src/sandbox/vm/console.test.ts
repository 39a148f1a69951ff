import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { consoleTail, GuestConsole, MachineLogs } from './console.ts';
import { sandboxPaths, type SandboxPaths } from './layout.ts';

let dir: string;
let monitor: number;
let opened: GuestConsole[];
const fifo = (): string => join(dir, 'console');
const log = (): string => join(dir, 'console.log');

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-console-'));
  expect(spawnSync('mkfifo', [fifo()]).status).toBe(0);
  // As the monitor does: both ends, so that nobody meets an end of file.
  monitor = openSync(fifo(), constants.O_RDWR | constants.O_NONBLOCK);
  opened = [];
});
afterEach(() => {
  for (const console of opened) console.close();
  closeSync(monitor);
  rmSync(dir, { recursive: true, force: true });
});

function open(): GuestConsole {
  const console = GuestConsole.open(fifo(), log());
  opened.push(console);
  return console;
}

const SOON = { timeout: 60_000 };

describe('console of a guest', () => {
  it('has what was said before and after it is opened, in order', async () => {
    writeSync(monitor, 'early\n');
    const console = open();
    await vi.waitFor(() => expect(readFileSync(log(), 'utf8')).toBe('early\n'), SOON);
    writeSync(monitor, 'late\n');
    await vi.waitFor(() => expect(readFileSync(log(), 'utf8')).toBe('early\nlate\n'), SOON);
    expect(console.tail(1)).toEqual(['late']);
  });

  it('makes a guest that talks very much wait, so that others have their turn', async () => {
    const pauses = vi.spyOn(globalThis, 'setTimeout');
    const talks = spawn('sh', ['-c', `yes | head -c ${4 << 20} > ${fifo()}; printf END > ${fifo()}`]);
    const console = open();
    await once(talks, 'exit');
    await vi.waitFor(() => expect(console.tail(1)).toEqual(['END']), SOON);
    expect(pauses.mock.calls.filter(([, ms]) => ms === 200).length).toBeGreaterThanOrEqual(3);
    pauses.mockRestore();
  });

  it('tells the last words that no event has brought yet', () => {
    const console = open();
    writeSync(monitor, 'Kernel panic - not syncing\r\n');
    expect(console.tail(5)).toEqual(['Kernel panic - not syncing']);
  });

  it('goes on in the file of an earlier engine', () => {
    open().close();
    writeFileSync(log(), 'before\n');
    const console = open();
    writeSync(monitor, 'after\n');
    expect(console.tail(5)).toEqual(['before', 'after']);
  });

  it('keeps the end of what is too much', () => {
    const console = open();
    for (let n = 0; n < 100; n++) {
      writeSync(monitor, `${String(n).padStart(3, '0')}${'x'.repeat(4092)}\n`);
      console.tail(1);
      expect(statSync(log()).size).toBeLessThanOrEqual(128 * 1024);
    }
    expect(console.tail(1)[0]).toMatch(/^099x/);
    expect(console.tail(1000).length).toBeGreaterThanOrEqual(15);
  });

  it('lets its pod go on when the directory is gone', () => {
    const console = open();
    rmSync(dir, { recursive: true });
    writeSync(monitor, 'words\n');
    expect(console.tail(5)).toEqual([]);
    console.close();
    console.close();
  });

  it('says which fifo is missing', () => {
    expect(() => GuestConsole.open(join(dir, 'none'), log())).toThrow(
      expect.objectContaining({ code: 'ENOENT' }) as Error,
    );
  });

  it('shows no control characters', () => {
    writeFileSync(log(), '\x1b[2J\x1b[01;01Hhello\x07\r\n\r\n\x1bMworld\0\n');
    expect(consoleTail(log(), 9)).toEqual(['hello', 'world']);
    expect(consoleTail(join(dir, 'none'), 9)).toEqual([]);
  });
});

describe('what a machine says', () => {
  let paths: SandboxPaths;
  let warnings: string[];
  let ends: number[];
  let logs: MachineLogs;
  beforeEach(() => {
    paths = sandboxPaths(dir, 'default', 'pod');
    mkdirSync(paths.dir);
    warnings = [];
    ends = [paths.console, paths.shareOutput].map((path) => {
      expect(spawnSync('mkfifo', [path]).status).toBe(0);
      return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    });
    logs = new MachineLogs(paths, (error) => warnings.push(error));
  });
  afterEach(() => {
    logs.close();
    for (const end of ends) closeSync(end);
  });

  it('is its console, and the daemon of its share when that is silent', () => {
    logs.open(true);
    logs.open(true);
    writeSync(ends[1] ?? -1, 'fuse: no such thing\n');
    expect(logs.lastWords()).toBe('fuse: no such thing');
    writeSync(ends[0] ?? -1, 'Kernel panic\n');
    expect(logs.lastWords()).toBe('Kernel panic');
    expect(warnings).toEqual([]);
  });

  it('fills no disk, also where a guest makes the daemon complain', () => {
    logs.open(true);
    for (let n = 0; n < 100; n++) {
      writeSync(ends[1] ?? -1, `${n} ${'x'.repeat(4000)}\n`);
      logs.lastWords();
    }
    expect(statSync(paths.shareLog).size).toBeLessThanOrEqual(128 * 1024);
    // Of twenty lines.
    expect(logs.lastWords()).toMatch(/^80 xxx/);
  });

  it('is not listened to where there is no share, or no fifo any more', () => {
    rmSync(paths.shareOutput);
    logs.open(false);
    expect(warnings).toEqual([]);
    logs.open(true);
    expect(warnings).toEqual([expect.stringContaining('ENOENT')]);
    expect(logs.lastWords()).toBe('');
  });
});
