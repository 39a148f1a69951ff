import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from './index.ts';

/** A namespace with one pair of links, as long as its process lives. */
describe('network namespaces by path', () => {
  const own = readlinkSync('/proc/self/ns/net');
  const dir = mkdtempSync(join(tmpdir(), 'bh-net-'));
  let holder: ChildProcess;
  let path: string;
  beforeAll(async () => {
    const script =
      'ip link add eth0 mtu 1400 address 02:00:00:00:00:07 type veth peer name far0; ip addr add 10.1.2.3/24 dev eth0; ' +
      'ip link set eth0 up; ip link set far0 up; ip route add default via 10.1.2.1; echo ready; exec sleep 300';
    holder = spawn('unshare', ['--net', 'sh', '-ec', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    path = `/proc/${holder.pid}/ns/net`;
    await new Promise((ready) => holder.stdout?.once('data', ready));
  });
  afterAll(() => {
    holder.kill('SIGKILL');
    rmSync(dir, { recursive: true });
  });

  const inside = (...command: string[]): string =>
    execFileSync('nsenter', [`--net=${path}`, ...command], { encoding: 'utf8' });
  const threadNamespaces = (): string[] =>
    readdirSync('/proc/self/task').map((task) => readlinkSync(`/proc/self/task/${task}/ns/net`));

  it('are read whole', async () => {
    const { links, addresses, routes } = await addon().netnsInventory(path);
    const eth = links.find(({ name }) => name === 'eth0');
    expect(eth).toMatchObject({ kind: 'veth', type: 1, mac: '02:00:00:00:00:07', mtu: 1400, master: 0 });
    expect(addresses).toContainEqual(
      expect.objectContaining({ index: eth?.index, address: '10.1.2.3', prefix: 24 }),
    );
    const main = routes.filter(({ table, destination }) => table === 254 && destination === undefined);
    expect(main).toEqual([expect.objectContaining({ gateway: '10.1.2.1', index: eth?.index, family: 2 })]);
  });

  it('are left again: no thread stays in one', async () => {
    await Promise.all(Array.from({ length: 40 }, () => addon().netnsInventory(path)));
    expect(new Set(threadNamespaces())).toEqual(new Set([own]));
  });

  it('get taps that go with their descriptor', async () => {
    const { fd, name } = await addon().tapBridge(path, 'eth0', { tap: 'tap7' });
    expect(name).toBe('tap7');
    expect(inside('ip', '-o', 'link', 'show', 'tap7')).toContain('mtu 1400');
    for (const link of ['eth0', 'tap7'])
      expect(inside('tc', 'filter', 'show', 'dev', link, 'ingress')).toMatch(/mirred \(Egress Redirect/);
    await expect(addon().tapBridge(path, 'eth0', { tap: 'tap7' })).rejects.toMatchObject({
      code: 'EBUSY',
      syscall: 'TUNSETIFF',
    });
    // The refusal has not touched what is there.
    expect(inside('tc', 'filter', 'show', 'dev', 'eth0', 'ingress')).toContain('tap7');
    closeSync(fd);
    expect(inside('ip', '-o', 'link')).not.toContain('tap7');
    await addon().tapUnbridge(path, 'eth0');
    await addon().tapUnbridge(path, 'eth0');
    await addon().tapUnbridge(path, 'nosuch');
    expect(inside('tc', 'qdisc', 'show', 'dev', 'eth0')).not.toContain('ingress');
  });

  it('say why they cannot be had', async () => {
    const { netnsInventory, tapBridge } = addon();
    await expect(netnsInventory('/nonexistent')).rejects.toMatchObject({
      message: 'open /nonexistent: no such file or directory',
      code: 'ENOENT',
      path: '/nonexistent',
    });
    await expect(netnsInventory('/etc/passwd')).rejects.toMatchObject({ code: 'EINVAL', syscall: 'setns' });
    // A path that would hang is only a wrong one.
    addon().mkfifo(join(dir, 'fifo'), 0o600);
    await expect(netnsInventory(join(dir, 'fifo'))).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(tapBridge(path, 'nosuch', { tap: 'tap8' })).rejects.toMatchObject({ code: 'ENODEV' });
    await expect(tapBridge(path, 'eth0', { tap: 'a-name-that-is-too-long' })).rejects.toMatchObject({
      code: 'EINVAL',
    });
    expect(inside('ip', '-o', 'link')).not.toContain('tap8');
    expect(() => netnsInventory('a\0b')).toThrow('path: contains a NUL character');
    expect(() => tapBridge(path, 'eth0', undefined as never)).toThrow('options: expected an object');
  });
});
