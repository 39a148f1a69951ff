import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { exitCodeOf, hasThread, isAlive, processStartTime } from './proc.ts';

const { pid } = process;

describe('a thread of a process', () => {
  it('is one of those in its directory', () => {
    const own = readdirSync(`/proc/${pid}/task`).map(Number);
    expect(own.length).toBeGreaterThan(0);
    for (const tid of own) expect(hasThread(pid, tid)).toBe(true);
    expect(hasThread(pid, 1)).toBe(false);
    expect(hasThread(1, pid)).toBe(false);
  });

  it.each([0, -1, 1.5, NaN, Infinity, 2 ** 60])('is never of number %d', (tid) => {
    expect(hasThread(pid, tid)).toBe(false);
  });
});

describe('a process', () => {
  it('is the one that started then, until it has ended', async () => {
    const child = spawn('/bin/sh', ['-c', 'read line'], { stdio: ['pipe', 'ignore', 'ignore'] });
    const own = child.pid ?? 0;
    const started = processStartTime(own);
    expect(started).toBeGreaterThan(0);
    expect(isAlive(own)).toBe(true);
    expect(isAlive(own, started)).toBe(true);
    expect(isAlive(own, 0)).toBe(true);
    expect(isAlive(own, (started ?? 0) + 1)).toBe(false);
    child.stdin.end();
    await once(child, 'exit');
    expect(isAlive(own)).toBe(false);
    expect(processStartTime(own)).toBeUndefined();
    expect(hasThread(own, own)).toBe(false);
  });

  it('has an exit code by its wait status', () => {
    expect([0, 7 << 8, 9, 9 | 0x80, 255 << 8].map(exitCodeOf)).toEqual([0, 7, 137, 137, 255]);
  });
});
