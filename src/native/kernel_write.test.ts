import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { kernelWrite } from './kernel_write.ts';
import { Launcher } from './launcher.ts';

const init = join(import.meta.dirname, '..', '..', 'build', 'native', 'bulkhead-init');
const launcher = new Launcher(init);
let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-write-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

// The helper is built by `make native`; without it nothing can be launched.
describe.skipIf(!existsSync(init))('writes by a process of its own', () => {
  it('writes the data', async () => {
    const path = join(dir, 'file');
    writeFileSync(path, '');
    await kernelWrite(launcher, path, 'vfio-pci');
    expect(readFileSync(path, 'utf8')).toBe('vfio-pci');
  });

  it.each([
    ['absent', 'ENOENT', 'no such file or directory'],
    ['.', 'EISDIR', 'is a directory'],
  ])('tells why %s cannot be written', async (name, errno, reason) => {
    const path = join(dir, name);
    await expect(kernelWrite(launcher, path, 'x')).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      errno,
      message: `write: ${path}: ${reason}`,
    });
  });

  it('gives up on a write that blocks', async () => {
    // A fifo without a reader blocks its writer in open(2), as a driver in use blocks its unbinder in write(2).
    const path = join(dir, 'fifo');
    execFileSync('mkfifo', [path]);
    const begun = Date.now();
    await expect(kernelWrite(launcher, path, 'x', 200)).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      errno: 'ETIMEDOUT',
    });
    expect(Date.now() - begun).toBeLessThan(60_000);
  });
});
