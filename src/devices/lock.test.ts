import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { addon } from '../native/index.ts';
import { lockDirectory } from './lock.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bh-lock-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const tryLock = (fd: number): void => addon().flock(fd, true);

describe('the lock of the journal', () => {
  it('lets one in at a time, and leaves no file', async () => {
    const dir = join(root, 'devices');
    const order: string[] = [];
    const first = await lockDirectory(dir, tryLock);
    let tried = (): void => {};
    const hasTried = new Promise<void>((resolve) => (tried = resolve));
    const second = lockDirectory(dir, (fd) => {
      tried();
      tryLock(fd);
    }).then((lock) => {
      order.push('second in');
      return lock;
    });
    await hasTried;
    order.push('first out');
    first[Symbol.dispose]();
    (await second)[Symbol.dispose]();
    expect(order).toEqual(['first out', 'second in']);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('says who to look for when the other one stays', async () => {
    const dir = join(root, 'devices');
    using held = await lockDirectory(dir, tryLock);
    expect(held).toBeDefined();
    await expect(lockDirectory(dir, tryLock, 0)).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
      message: `lock: ${dir}: another process has been changing devices for 0 s; see which with: fuser -v ${dir}`,
    });
  });

  it('passes on what else is wrong', async () => {
    const broken = (): never => {
      throw Object.assign(new Error('flock'), { code: 'ENOLCK' });
    };
    await expect(lockDirectory(join(root, 'devices'), broken)).rejects.toMatchObject({ code: 'ENOLCK' });
  });
});
