import { expect, it } from 'vitest';
import type { GuestAgent } from './agent.ts';
import { guestContainer } from './guest_container.ts';

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
