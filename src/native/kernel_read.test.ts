import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { readApart } from './kernel_read.ts';
import { Launcher } from './launcher.ts';

const init = join(import.meta.dirname, '..', '..', 'build', 'native', 'bulkhead-init');
const launcher = new Launcher(init);
let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-read-'));
  for (const name of ['a', 'b', 'c']) {
    mkdirSync(join(dir, name));
    writeFileSync(join(dir, name, 'class'), `0x0${name}\n`);
  }
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

// The helper is built by `make native`; without it nothing can be launched.
describe.skipIf(!existsSync(init))('reads by a process of its own', () => {
  it('reads what there is', async () => {
    const { texts, stuck } = await readApart(launcher, [
      { dir, files: ['class', 'absent'] },
      { dir: join(dir, 'none'), files: ['class'] },
    ]);
    expect(stuck).toEqual([]);
    expect([...texts]).toEqual(
      ['a', 'b', 'c'].flatMap((name) => [
        [join(dir, name, 'class'), `0x0${name}\n`],
        [join(dir, name, 'absent'), undefined],
      ]),
    );
  });

  // A fifo without a writer blocks its reader in open(2), as a device whose lock is taken does in read(2).
  it('passes a device over that does not answer', async () => {
    execFileSync('mkfifo', [join(dir, 'b', 'driver_override')]);
    const attributes = [{ dir, files: ['class', 'driver_override', 'after'] }];
    const { texts, stuck } = await readApart(launcher, attributes, 1000);
    expect(stuck).toEqual([join(dir, 'b')]);
    expect(texts.get(join(dir, 'b', 'class'))).toBe('0x0b\n');
    expect(texts.get(join(dir, 'c', 'class'))).toBe('0x0c\n');
    expect(texts.has(join(dir, 'b', 'driver_override'))).toBe(false);
  });

  it('gives up when that was not enough', async () => {
    for (const name of ['a', 'b', 'c', 'd']) {
      mkdirSync(join(dir, name), { recursive: true });
      execFileSync('mkfifo', [join(dir, name, 'mode')]);
    }
    await expect(readApart(launcher, [{ dir, files: ['mode'] }], 300)).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      errno: 'ETIMEDOUT',
      message: `read: ${['a', 'b', 'c'].map((name) => join(dir, name)).join(', ')}, ${join(dir, 'd', 'mode')}: the kernel did not answer within 300 ms; see what waits in it with: echo w > /proc/sysrq-trigger && dmesg`,
    });
  });
});
