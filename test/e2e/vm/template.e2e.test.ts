import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { guestCache } from '../lib/paths.ts';
import { engines, machineDirectories, vm } from './machines.ts';

/** What lies in the cache is checked before a machine begins as it. */
describe('a damaged template', () => {
  let containerd: PrivateContainerd;
  let cache: string;
  beforeAll(async () => {
    // One's own: damage must not reach other suites.
    cache = mkdtempSync(join(tmpdir(), 'bh-template-'));
    // Machines read the kernel as a uid of their own.
    chmodSync(cache, 0o755);
    for (const name of ['kernels', 'initrds']) symlinkSync(join(guestCache, name), join(cache, name));
    cpSync(join(guestCache, 'guest.json'), join(cache, 'guest.json'));
    containerd = await PrivateContainerd.start({ runtime: vm, cache });
    expect((await containerd.run('builds', ['true'])).stderr).toBe('');
  });
  afterAll(async () => {
    await containerd?.stop();
    rmSync(cache, { recursive: true, force: true });
  });

  const template = (): string => {
    const top = join(cache, 'templates');
    const [name] = readdirSync(top).filter((each) => /^[0-9a-f]{32}$/.test(each));
    return join(top, name ?? 'none');
  };
  /** Of the next engine: this one has the memory's sealed copy already. */
  const anew = (): void => {
    for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
  };
  const flip = (path: string): void => {
    const bytes = readFileSync(path);
    // The last page that holds something.
    const at = bytes.findLastIndex((byte) => byte !== 0);
    bytes[at] = (bytes[at] ?? 0) ^ 0x55;
    writeFileSync(path, bytes);
  };

  it.each([
    [
      'truncated memory',
      () => truncateSync(join(template(), 'memory'), 1 << 20),
      /its memory has 1048576 bytes/,
    ],
    ['changed memory', () => flip(join(template(), 'memory')), /its memory is damaged/],
    ['truncated state', () => truncateSync(join(template(), 'state'), 1000), /its state has 1000 bytes/],
    ['changed state', () => flip(join(template(), 'state')), /its state is damaged/],
    [
      'a manifest that is none',
      () => writeFileSync(join(template(), 'manifest.json'), '{'),
      /its manifest is not JSON/,
    ],
  ])(
    '(%s) is told in the log and built anew',
    async (name, damage, words) => {
      damage();
      anew();
      const id = name.replaceAll(' ', '-');
      const result = await containerd.run(id, ['echo', 'runs'], { timeout: 100_000 });
      expect(result).toMatchObject({ code: 0, stdout: 'runs\n', stderr: '' });
      expect(containerd.engineLog()).toMatch(words);
      expect(await containerd.leaks()).toEqual([]);
    },
    600_000,
  );

  it('whose state is whole and means nothing ends the machine with one sentence, and is not used again', async () => {
    const path = join(template(), 'manifest.json');
    const state = readFileSync(join(template(), 'state')).subarray(0, 20_000);
    writeFileSync(join(template(), 'state'), state);
    const stateSha256 = createHash('sha256').update(state).digest('hex');
    const manifest = JSON.parse(readFileSync(path, 'utf8')) as object;
    writeFileSync(path, JSON.stringify({ ...manifest, stateSize: state.length, stateSha256 }));
    anew();
    const refused = await containerd.run('forged', ['true'], { timeout: 100_000 });
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain('template: its state cannot be restored');
    await containerd.ctr(['container', 'rm', 'forged']);
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
    const before = engines(containerd);
    expect(await containerd.run('after', ['echo', 'runs'], { timeout: 100_000 })).toMatchObject({
      stdout: 'runs\n',
    });
    expect(engines(containerd)).toEqual(before);
  });
});
