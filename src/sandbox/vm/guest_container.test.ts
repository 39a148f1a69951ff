import { beforeEach, describe, expect, it } from 'vitest';
import { FakeGuests } from '../../../test/fakes/machine.ts';
import { ErrorCode, type RuntimeError } from '../../base/errors.ts';
import { GuestError } from '../executor.ts';
import { GuestAgent } from './agent.ts';
import { guestContainer } from './guest_container.ts';
import type { GuestContainer } from './pod_agent.ts';

const TOP = '/sys/fs/cgroup/bulkhead/web';
let guests: FakeGuests;
let container: GuestContainer;
/** Of the guest, by path: text, or an errno. */
let files: (path: string) => string | number;

beforeEach(() => {
  guests = new FakeGuests();
  files = () => 2;
  guests.answer = ({ readFiles }) => ({
    files: (readFiles?.paths ?? []).map((path) => {
      const found = files(path);
      return typeof found === 'number' ? { path, errno: found } : { path, data: Buffer.from(found) };
    }),
  });
  container = guestContainer('web', new GuestAgent(guests), () => {});
});

const failure = (of: Promise<unknown>): Promise<RuntimeError> =>
  of.then(
    () => expect.unreachable('it resolved'),
    (error: unknown) => error as RuntimeError,
  );

describe('processes of a container in its guest', () => {
  it('are those of its cgroup and of all below', async () => {
    const tree: Record<string, string> = {
      [`${TOP}/cgroup.procs`]: '7\n3\n',
      [TOP]: 'cgroup.procs\na/\nb/\n',
      [`${TOP}/a/cgroup.procs`]: '12\n',
      [`${TOP}/a`]: 'cgroup.procs\nc/',
      [`${TOP}/b/cgroup.procs`]: '',
      [`${TOP}/a/c/cgroup.procs`]: '5',
    };
    files = (path) => tree[path] ?? 2;
    expect(await container.pids()).toEqual([3, 5, 7, 12]);
    // Each level in one call.
    expect(guests.calls).toHaveLength(3);
  });

  it('are told once, and only those that can be', async () => {
    files = (path) => (path.endsWith('procs') ? '7\n7\n0\n-4\n1.5\n1e9\nNaN\nx\n4194304\n4194305\n' : '');
    expect(await container.pids()).toEqual([7, 4194304]);
  });

  it.each(['../', './', '/', '//', 'a/b/', '.', 'a', `${'n'.repeat(256)}/`])(
    'are not looked for in %.20j',
    async (name) => {
      files = (path) => (path.endsWith('procs') ? '1' : path === TOP ? `${name}\n` : '');
      expect(await container.pids()).toEqual([1]);
      expect(guests.calls).toHaveLength(1);
    },
  );

  it.each([
    ['each in another, without end', (path: string) => (path.endsWith('procs') ? '1' : 'a/')],
    [
      'very many',
      (path: string) => (path === TOP ? Array.from({ length: 1e5 }, (_, at) => `${at}/`).join('\n') : 2),
    ],
  ])('are not looked for in cgroups %s', async (_how, tells) => {
    files = tells;
    const error = await failure(container.pids());
    expect(error.code).toBe(ErrorCode.ResourceExhausted);
    expect(error.message).toBe(`pids web: guest ${TOP}: has more than 2000 cgroups`);
    expect(guests.calls.length).toBeLessThan(2100);
  });
});

describe('what a guest says of a failure', () => {
  it('is cut, and harmless', async () => {
    guests.answer = () => ({
      failure: { op: 'o'.repeat(1e6), path: `\u001b[2J${'p'.repeat(1e6)}`, errno: 13 },
    });
    const error = await failure(container.thaw());
    expect(error.message).toMatch(/^resume web: guest o{64}… \\u001b\[2Jp+…: permission denied$/);
    expect(error.message.length).toBeLessThan(500);
    expect(error.path?.length).toBeLessThan(400);
  });

  it.each([
    [-5, 'errno -5'],
    [4711, 'errno 4711'],
    [2 ** 31 - 1, 'errno 2147483647'],
  ])('need not be an errno of this kernel: %d', async (errno, reason) => {
    guests.answer = () => ({ failure: { op: 'write', path: '', errno } });
    expect((await failure(container.thaw())).message).toBe(`resume web: guest write: ${reason}`);
  });

  it('need not be readable', async () => {
    guests.call = () =>
      Promise.reject(
        new GuestError('no', { code: 'EIO', errno: 5, what: 'call', reply: Uint8Array.of(0xff, 0xff) }),
      );
    expect((await failure(container.thaw())).message).toBe('resume web: guest call: input/output error');
  });

  it('leaves a monitor that is gone what it is', async () => {
    const gone = new Error('the monitor of this shim is gone');
    guests.call = () => Promise.reject(gone);
    expect(await failure(container.thaw())).toBe(gone);
  });
});

describe('numbers of a guest', () => {
  it.each(['', 'x', '-1', '1e999', '9'.repeat(400), '{}', '\u0000'])('may be %.20j', async (said) => {
    files = (path) =>
      path.endsWith('.stat') ? `anon ${said}\nusage_usec ${said}\n8:0 rbytes=${said}` : said;
    const { value } = await container.stats('v2');
    expect(value?.length).toBeLessThan(4096);
    expect((await container.stats('unified' as never)).value?.length).toBeLessThan(4096);
  });

  it('of no cgroup are none', async () => {
    expect((await failure(container.stats('v2'))).code).toBe(ErrorCode.NotFound);
  });
});

it('puts back what an update wrote before a file refused its value', async () => {
  const files = new Map([
    ['pids.max', '77\n'],
    ['cpu.weight', '100\n'],
    ['cpu.max', 'max 100000\n'],
  ]);
  const nameOf = (path = ''): string => path.slice(path.lastIndexOf('/') + 1);
  const agent = {
    readFiles: (_op: string, _id: string, paths: string[]) =>
      Promise.resolve(new Map(paths.map((path) => [path, files.get(nameOf(path)) ?? '']))),
    writeFiles: (_op: string, _id: string, [file]: { path: string; data: Buffer }[]) => {
      if (file?.data.toString() === '50000 100000') return Promise.reject(new Error('refused'));
      files.set(nameOf(file?.path), `${file?.data.toString()}\n`);
      return Promise.resolve();
    },
  };
  const before = new Map(files);
  const container = guestContainer('web', agent as unknown as GuestAgent, () => {});
  await expect(
    container.update({ pids: { limit: 5 }, cpu: { shares: 4096, quota: 50000 } }),
  ).rejects.toThrowError('refused');
  expect(files).toEqual(before);
  await container.update({ pids: { limit: 5 } });
  expect(files.get('pids.max')).toBe('5\n');
});
