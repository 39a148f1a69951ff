import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { decodeMetrics, encodeMetrics } from '../metrics/index.ts';
import { parseRdma, parseValue, toCount, unlimited } from './parse.ts';
import type { CgroupView } from './path.ts';
import { readMetrics } from './stats.ts';
import { parsePressure } from './stats_v2.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bh-stats-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
}

const v1View = (...names: string[]): CgroupView => ({
  mode: 'v1',
  hierarchies: names.map((name) => ({ names: name.split(','), mountPoint: root, path: join(root, name) })),
});

describe('v1', () => {
  it('reads every file that containerd reads', () => {
    write({
      'cpu,cpuacct/cpuacct.usage': '123456789\n',
      'cpu,cpuacct/cpuacct.stat': 'user 7\nsystem 3\n',
      'cpu,cpuacct/cpuacct.usage_percpu': '100 200 \n',
      'cpu,cpuacct/cpu.stat': 'nr_periods 5\nnr_throttled 2\nthrottled_time 900\n',
      'pids/pids.current': '3\n',
      'pids/pids.max': 'max\n',
      'memory/memory.stat':
        'cache 1\nrss 2\nhierarchical_memory_limit 9223372036854771712\ntotal_rss 5\ntotal_pgfault -1\n',
      'memory/memory.oom_control': 'oom_kill_disable 1\nunder_oom 0\noom_kill 4\n',
      'memory/memory.usage_in_bytes': '4096\n',
      'memory/memory.max_usage_in_bytes': '8192\n',
      'memory/memory.failcnt': '6\n',
      'memory/memory.limit_in_bytes': '9223372036854771712\n',
      'devices/devices.list': '',
      'blkio/blkio.throttle.io_service_bytes_recursive':
        '8:0 Read 4096\n8:0 Total 4096\n9:1 Write 5\nTotal 4101\n',
      'blkio/blkio.throttle.io_serviced': '8:0 Read 1\nTotal 1\n',
      'hugetlb/hugetlb.2MB.usage_in_bytes': '2097152\n',
      'hugetlb/hugetlb.2MB.max_usage_in_bytes': '4194304\n',
      'hugetlb/hugetlb.2MB.failcnt': '1\n',
      'rdma/rdma.current': 'mlx5_0 hca_handle=2 hca_object=7\n',
      'rdma/rdma.max': 'mlx5_0 hca_handle=max hca_object=9\n',
      'proc/partitions': 'major minor  #blocks  name\n\n   8        0  1048576 sda\n',
    });
    const view = v1View('cpu,cpuacct', 'pids', 'memory', 'devices', 'blkio', 'hugetlb', 'rdma');
    const read = readMetrics(view, 'web-1', { cgroup: root, proc: join(root, 'proc') });
    // As containerd will see it.
    const any = encodeMetrics(read);
    expect(any.typeUrl).toBe('io.containerd.cgroups.v1.Metrics');
    const metrics = decodeMetrics(any)?.metrics;
    expect(JSON.parse(JSON.stringify(metrics))).toMatchObject({
      cpu: {
        usage: { total: 123456789, user: 70_000_000, kernel: 30_000_000, perCpu: [100, 200] },
        throttling: { periods: 5, throttledPeriods: 2, throttledTime: 900 },
      },
      pids: { current: 3 },
      memory: {
        cache: 1,
        rss: 2,
        hierarchicalMemoryLimit: 9223372036854771712,
        totalRss: 5,
        usage: { usage: 4096, max: 8192, failcnt: 6, limit: 9223372036854771712 },
        swap: {},
        kernel: {},
      },
      memoryOomControl: { oomKillDisable: 1, oomKill: 4 },
      blkio: {
        ioServiceBytesRecursive: [
          { op: 'Read', device: '/dev/sda', major: 8, value: 4096 },
          { op: 'Total', device: '/dev/sda', major: 8, value: 4096 },
          { op: 'Write', major: 9, minor: 1, value: 5 },
        ],
        ioServicedRecursive: [{ op: 'Read', major: 8, value: 1 }],
      },
      hugetlb: [{ pagesize: '2MB', usage: 2097152, max: 4194304, failcnt: 1 }],
      rdma: {
        current: [{ device: 'mlx5_0', hcaHandles: 2, hcaObjects: 7 }],
        limit: [{ device: 'mlx5_0', hcaHandles: 4294967295, hcaObjects: 9 }],
      },
    });
  });

  it('leaves out what is not mounted', () => {
    write({ 'devices/devices.list': '' });
    expect(readMetrics(v1View('devices'), 'web-1')).toEqual({
      version: 1,
      metrics: { cpu: { usage: {}, throttling: {} }, hugetlb: [] },
    });
  });

  it('is NotFound when the cgroup is gone', () => {
    expect(() => readMetrics(v1View('devices'), 'web-1')).toThrowError(
      expect.objectContaining({
        code: ErrorCode.NotFound,
        message: `stats web-1: cgroup ${root}/devices: the container has no cgroup any more`,
      }),
    );
  });
});

describe('v2', () => {
  const view = (): CgroupView => ({
    mode: 'v2',
    hierarchies: [],
    unified: { mountPoint: root, path: join(root, 'c') },
  });

  it('reads every file that containerd reads', () => {
    write({
      'c/pids.current': '3\n',
      'c/pids.max': 'max\n',
      'c/cpu.stat':
        'usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 1\nnr_throttled 2\nthrottled_usec 4\nnr_bursts 5\nburst_usec 6\n',
      'c/cpu.pressure':
        'some avg10=1.50 avg60=0.00 avg300=0.25 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n',
      'c/memory.stat': 'anon 1\nfile 2\nworkingset_refault_anon 3\nthp_collapse_alloc 4\n',
      'c/memory.current': '4096\n',
      'c/memory.max': 'max\n',
      'c/memory.peak': '8192\n',
      'c/memory.swap.current': '0\n',
      'c/memory.swap.max': '1024\n',
      'c/memory.events': 'low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n',
      'c/io.stat': '8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n',
      'c/hugetlb.2MB.max': 'max\n',
      'c/hugetlb.2MB.current': '2097152\n',
      'c/hugetlb.2MB.events': 'max 9\n',
      'c/rdma.current': 'mlx5_0 hca_handle=2 hca_object=7\n',
      'c/rdma.max': '',
    });
    const any = encodeMetrics(readMetrics(view(), 'web-1'));
    expect(any.typeUrl).toBe('io.containerd.cgroups.v2.Metrics');
    const metrics = JSON.parse(JSON.stringify(decodeMetrics(any)?.metrics));
    const max = 2 ** 64;
    expect(metrics).toMatchObject({
      pids: { current: 3, limit: max },
      cpu: {
        usageUsec: 10,
        userUsec: 7,
        systemUsec: 3,
        nrPeriods: 1,
        nrThrottled: 2,
        throttledUsec: 4,
        nrBursts: 5,
        burstUsec: 6,
        psi: { some: { avg10: 1.5, avg300: 0.25, total: 42 }, full: { total: 1 } },
      },
      memory: {
        anon: 1,
        file: 2,
        workingsetRefaultAnon: 3,
        thpCollapseAlloc: 4,
        usage: 4096,
        usageLimit: max,
        maxUsage: 8192,
        swapLimit: 1024,
      },
      memoryEvents: { high: 1, max: 2, oom: 3, oomKill: 4, oomGroupKill: 5 },
      io: { usage: [{ major: 8, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }] },
      hugetlb: [{ pagesize: '2MB', current: 2097152, max, failcnt: 9 }],
      rdma: { current: [{ device: 'mlx5_0', hcaHandles: 2, hcaObjects: 7 }] },
    });
    // Exactly 2^64 - 1 on the wire: ten bytes of varint, the last one 1.
    const limit = Buffer.from([0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    expect(Buffer.from(any.value).includes(limit)).toBe(true);
  });

  it('reads what there is without controllers', () => {
    write({ 'c/cpu.stat': 'usage_usec 10\n' });
    const read = readMetrics(view(), 'web-1');
    expect(read.metrics.cpu).toMatchObject({ usageUsec: 10 });
    expect(read.metrics.memory).toEqual({});
  });
});

describe('formats', () => {
  it('take negative and broken values for 0', () => {
    expect([toCount('-5'), toCount('x'), toCount(''), toCount('7\n')]).toEqual([0, 0, 0, 7]);
    expect(parseValue('max\n')).toBe(unlimited);
    expect(parseRdma('nonsense\nmlx hca_handle=1\n')).toEqual([]);
    expect(parsePressure('odd avg10=1\n')).toEqual({});
  });
});
