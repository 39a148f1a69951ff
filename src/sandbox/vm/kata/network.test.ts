import { expect, it } from 'vitest';
import { ipBytes, macBytes } from '../ip.ts';
import { ipText, kataNetwork, macText } from './network.ts';
import { kataMetrics } from './stats.ts';

const MAC = '02:42:ac:11:00:02';

it('a network becomes text, and each card is named by its place', () => {
  const network = kataNetwork(
    {
      interfaces: [
        {
          mac: macBytes(MAC),
          name: 'eth0',
          mtu: 1450,
          addresses: [
            { address: ipBytes('172.17.0.2'), prefix: 16 },
            { address: ipBytes('fd00::2'), prefix: 64 },
          ],
        },
      ],
      routes: [
        { family: 2, gateway: ipBytes('172.17.0.1'), device: 'eth0', type: 1, table: 254, mtu: 1400 },
        {
          family: 10,
          destination: ipBytes('fd01::'),
          prefix: 48,
          device: 'eth0',
          type: 1,
          source: ipBytes('fd00::2'),
        },
      ],
      neighbours: [{ device: 'eth0', address: ipBytes('172.17.0.1'), mac: macBytes(MAC), state: 128 }],
    },
    new Map([[MAC, '04.1/00.0']]),
  );
  expect(network).toMatchObject({
    interfaces: [
      {
        device: 'eth0',
        name: 'eth0',
        mac: MAC,
        mtu: 1450,
        pciPath: '04.1/00.0',
        addresses: [
          { family: 0, address: '172.17.0.2', mask: '16' },
          { family: 1, address: 'fd00:0:0:0:0:0:0:2', mask: '64' },
        ],
      },
    ],
    routes: [
      { dest: '', gateway: '172.17.0.1', device: 'eth0', family: 0, mtu: 1400 },
      { dest: 'fd01:0:0:0:0:0:0:0/48', gateway: '', device: 'eth0', family: 1, source: 'fd00:0:0:0:0:0:0:2' },
    ],
    neighbors: [{ address: { family: 0, address: '172.17.0.1' }, device: 'eth0', mac: MAC, state: 128 }],
    ignored: [],
  });
});

it('what the agent cannot set up is said', () => {
  const { routes, ignored } = kataNetwork(
    {
      interfaces: [{ mac: macBytes(MAC), name: 'eth1', down: true }],
      routes: [
        { family: 2, destination: ipBytes('10.9.0.0'), prefix: 16, type: 6 },
        { family: 2, destination: ipBytes('10.8.0.0'), prefix: 16, device: 'eth0', table: 100 },
        { family: 2, device: 'eth0', gateway: ipBytes('10.0.0.1'), priority: 50 },
      ],
    },
    new Map(),
  );
  expect(routes).toHaveLength(1);
  expect(ignored).toEqual([
    "interface eth1: Kata's agent brings every interface up",
    "route 10.9.0.0/16: Kata's agent does not take it, because it refuses what it is for",
    "route 10.8.0.0/16: Kata's agent does not take it, because it is in table 100",
    "route default: Kata's agent sets no metric",
  ]);
});

it.each(['0.0.0.0', '255.1.2.3', '1:2:3:4:5:6:7:8'])('%s is the same in bytes and back', (text) => {
  expect(ipText(ipBytes(text))).toBe(text);
});

it('none is none', () => {
  expect([ipText(undefined), ipText(new Uint8Array()), macText(null)]).toEqual(['', '', '']);
});

it.each([
  ['v2', { anon: 4096, file: 8192, inactive_file: 12 }],
  ['v1', { total_rss: 4096, total_cache: 8192, rss: 1, cache: 1, inactive_file: 12 }],
])('what a container uses is read from a guest with cgroup %s', (_version, stats) => {
  const metrics = kataMetrics({
    cpu: {
      usage: { total: 5_000_999, user: 3_000_000, kernel: 2_000_000 },
      throttling: { periods: 4, throttledPeriods: 2, throttledTime: 9000 },
    },
    memory: {
      usage: { usage: 20_480, limit: 65_536, maxUsage: 30_000 },
      swap: { usage: 1, limit: 2 },
      stats,
    },
    pids: { current: 3, limit: 9 },
    blkio: {
      bytes: [
        { major: 253, minor: 0, op: 'Read', value: 10 },
        { major: 253, minor: 0, op: 'write', value: 20 },
      ],
      operations: [{ major: 253, minor: 0, op: 'rios', value: 2 }],
    },
  });
  expect(metrics).toMatchObject({
    pids: { current: 3, limit: 9 },
    cpu: {
      usageUsec: 5000,
      userUsec: 3000,
      systemUsec: 2000,
      nrPeriods: 4,
      nrThrottled: 2,
      throttledUsec: 9,
    },
    memory: { anon: 4096, file: 8192, inactiveFile: 12, usage: 20_480, usageLimit: 65_536, maxUsage: 30_000 },
    io: { usage: [{ major: 253, minor: 0, rbytes: 10, wbytes: 20, rios: 2, wios: 0 }] },
  });
});

it('of an agent that tells nothing all is zero', () => {
  expect(kataMetrics({})).toMatchObject({ pids: { current: 0 }, cpu: { usageUsec: 0 }, memory: { anon: 0 } });
});
