import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import type { LinuxResources } from '../oci/types.ts';
import type { CgroupLayout } from './host.ts';
import { resourceSettings } from './settings.ts';
import { hybridLayout, v1Layout, v2Layout } from './testing/layouts.ts';

function settings(resources: LinuxResources, layout: CgroupLayout) {
  const warnings: string[] = [];
  const context = { op: 'create', id: 'web-1', layout, warn: (text: string) => warnings.push(text) };
  const lines = resourceSettings(resources, context).map(
    ({ hierarchy, file, value, ignore }) =>
      `${hierarchy === 'unified' && layout.mode !== 'v2' ? 'unified ' : ''}${file} ${value}${ignore ? ` unless ${ignore.join()}` : ''}`,
  );
  return { lines, warnings };
}

const everything: LinuxResources = {
  memory: { limit: 1000, swap: 3000, reservation: 500, swappiness: 10, disableOOMKiller: true, kernel: 5 },
  cpu: { shares: 512, quota: 5000, period: 10000, burst: 100, cpus: '0-1', mems: '0', idle: 0 },
  pids: { limit: 7 },
  blockIO: {
    weight: 500,
    weightDevice: [{ major: 8, minor: 0, weight: 10 }],
    throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 4096 }],
    throttleWriteBpsDevice: [{ major: 8, minor: 0, rate: 2 ** 64 }],
    throttleReadIOPSDevice: [{ major: 8, minor: 16, rate: 0 }],
    throttleWriteIOPSDevice: [{ major: 8, minor: 0, rate: 9 }],
  },
  hugepageLimits: [{ pageSize: '2MB', limit: 4194304 }],
  rdma: { mlx5_0: { hcaHandles: 2 }, mlx5_1: { hcaHandles: 1, hcaObjects: 9 } },
};

describe('v1', () => {
  it('writes everything, in an order that a fresh cgroup takes', () => {
    const realtime = { ...everything.cpu, realtimePeriod: 1000000, realtimeRuntime: 5000 };
    const network = { classID: 1048577, priorities: [{ name: 'eth0', priority: 5 }] };
    expect(settings({ ...everything, cpu: realtime, network }, v1Layout)).toEqual({
      lines: [
        'cpuset.cpus 0-1',
        'cpuset.mems 0',
        'memory.limit_in_bytes 1000',
        'memory.memsw.limit_in_bytes 3000',
        'memory.soft_limit_in_bytes 500',
        'memory.oom_control 1',
        'memory.swappiness 10',
        'cpu.rt_period_us 1000000',
        'cpu.rt_runtime_us 5000',
        'cpu.shares 512',
        'cpu.cfs_period_us 10000',
        'cpu.cfs_quota_us 5000',
        'cpu.cfs_burst_us 100 unless 2',
        'cpu.idle 0',
        'pids.max 7',
        'blkio.bfq.weight 500',
        'blkio.bfq.weight_device 8:0 10',
        'blkio.throttle.read_bps_device 8:0 4096',
        'blkio.throttle.write_bps_device 8:0 18446744073709551615',
        'blkio.throttle.read_iops_device 8:16 0',
        'blkio.throttle.write_iops_device 8:0 9',
        'hugetlb.2MB.limit_in_bytes 4194304',
        'hugetlb.2MB.rsvd.limit_in_bytes 4194304 unless 2',
        'net_cls.classid 1048577',
        'net_prio.ifpriomap eth0 5',
        'rdma.max mlx5_0 hca_handle=2',
        'rdma.max mlx5_1 hca_handle=1 hca_object=9',
      ],
      warnings: ['linux.resources.memory.kernel is passed over: the kernel has no such limit'],
    });
  });

  it('takes zeros for "not set", and lifts limits by -1', () => {
    expect(
      settings({ memory: { limit: 0, swap: 0 }, cpu: { shares: 0, quota: 0, period: 0, cpus: '' } }, v1Layout)
        .lines,
    ).toEqual([]);
    expect(
      settings({ memory: { limit: -1 }, cpu: { quota: -1 }, pids: { limit: -1 } }, v1Layout).lines,
    ).toEqual([
      'memory.limit_in_bytes -1',
      'memory.memsw.limit_in_bytes -1 unless 2',
      'cpu.cfs_quota_us -1',
      'pids.max max',
    ]);
    expect(settings({ pids: { limit: 0 } }, v1Layout).lines).toEqual(['pids.max 1']);
  });
});

describe('v2', () => {
  it('writes everything, converted', () => {
    expect(
      settings(
        { ...everything, unified: { 'memory.high': '900', 'io.max': '8:0 rbps=1\n8:16 wbps=2\n' } },
        v2Layout,
      ),
    ).toEqual({
      lines: [
        'pids.max 7',
        'memory.swap.max 2000',
        'memory.max 1000',
        'memory.low 500',
        'io.weight 4950',
        'io.weight 8:0 1',
        'io.max 8:0 rbps=4096',
        'io.max 8:0 wbps=18446744073709551615',
        'io.max 8:16 riops=max',
        'io.max 8:0 wiops=9',
        'cpu.idle 0',
        'cpu.weight 59',
        'cpu.max 5000 10000',
        'cpu.max.burst 100',
        'cpuset.cpus 0-1',
        'cpuset.mems 0',
        'hugetlb.2MB.max 4194304',
        'hugetlb.2MB.rsvd.max 4194304 unless 2',
        'rdma.max mlx5_0 hca_handle=2',
        'rdma.max mlx5_1 hca_handle=1 hca_object=9',
        'memory.high 900',
        'io.max 8:0 rbps=1',
        'io.max 8:16 wbps=2',
      ],
      warnings: [
        'linux.resources.memory.swappiness is passed over: cgroup v2 has no such setting',
        'linux.resources.memory.disableOOMKiller is passed over: cgroup v2 has no such setting',
        'linux.resources.memory.kernel is passed over: the kernel has no such limit',
      ],
    });
  });

  it('uses the BFQ weights where they are', () => {
    const bfq: CgroupLayout = {
      ...v2Layout,
      unified: { ...v2Layout.unified!, weightFiles: ['io.bfq.weight', 'io.weight'] },
    };
    expect(
      settings({ blockIO: { weight: 500, weightDevice: [{ major: 8, minor: 0, weight: 10 }] } }, bfq).lines,
    ).toEqual(['io.bfq.weight 500', 'io.bfq.weight 8:0 10']);
  });

  it('lifts limits, without minding that there is no swap', () => {
    expect(settings({ memory: { limit: -1 }, cpu: { quota: -1, period: 50000 } }, v2Layout).lines).toEqual([
      'memory.swap.max max unless 2',
      'memory.max max',
      'cpu.max max 50000',
    ]);
    expect(settings({ cpu: { quota: 2000 } }, v2Layout).lines).toEqual(['cpu.max 2000 100000']);
    expect(settings({ memory: { limit: 9, swap: 9 } }, v2Layout).lines).toEqual([
      'memory.swap.max 0 unless 2',
      'memory.max 9',
    ]);
  });
});

describe('hybrid', () => {
  it('puts a limit where its controller lives', () => {
    const given: LinuxResources = {
      memory: { limit: 1000 },
      hugepageLimits: [{ pageSize: '1GB', limit: 0 }],
    };
    expect(settings(given, hybridLayout).lines).toEqual([
      'memory.limit_in_bytes 1000',
      'unified hugetlb.1GB.max 0',
      'unified hugetlb.1GB.rsvd.max 0 unless 2',
    ]);
  });
});

describe('refusals', () => {
  const without = (name: string): CgroupLayout => ({
    ...v1Layout,
    hierarchies: v1Layout.hierarchies.filter(({ names }) => !names.includes(name)),
  });

  it.each<[LinuxResources, string]>([
    [{ memory: { limit: -5 } }, 'memory.limit: must not be negative, is -5; -1 is no limit'],
    [{ memory: { reservation: -2 } }, 'memory.reservation: must not be negative, is -2; -1 is no limit'],
    [{ memory: { swap: -2 } }, 'memory.swap: must not be negative, is -2; -1 is no limit'],
    [{ cpu: { period: 999 } }, 'cpu.period: must be 1000 to 1000000 microseconds, is 999'],
    [{ cpu: { period: 1_000_001 } }, 'cpu.period: must be 1000 to 1000000 microseconds, is 1000001'],
    [{ cpu: { quota: 5 } }, 'cpu.quota: must be at least 1000 microseconds, is 5; -1 is no limit'],
    [{ cpu: { cpus: 'x' } }, 'cpu.cpus: must be a list such as "0-3,7", is "x"'],
    [{ cpu: { mems: '0;1' } }, 'cpu.mems: must be a list such as "0-3,7", is "0;1"'],
  ])('refuses %j on both versions', (resources, text) => {
    for (const layout of [v1Layout, v2Layout]) {
      expect(() => settings(resources, layout)).toThrowError(
        expect.objectContaining({
          code: ErrorCode.InvalidArgument,
          message: expect.stringContaining(`linux.resources.${text}`),
        }),
      );
    }
  });

  it.each<[string, LinuxResources, CgroupLayout, ErrorCode, string]>([
    [
      'a missing v1 controller',
      { memory: { limit: 5 } },
      without('memory'),
      ErrorCode.FailedPrecondition,
      'memory.limit: this host has no cgroup controller "memory"; leave the limit out, or boot a kernel with the controller enabled',
    ],
    [
      'a missing v2 controller',
      { blockIO: { throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1 }] } },
      { ...v2Layout, unified: { ...v2Layout.unified!, controllers: ['cpu'] } },
      ErrorCode.FailedPrecondition,
      'blockIO.throttleReadBpsDevice: this host has no cgroup controller "io"; leave the limit out, or boot a kernel with the controller enabled',
    ],
    [
      'swap below memory on v1',
      { memory: { limit: 5, swap: 4 } },
      v1Layout,
      ErrorCode.InvalidArgument,
      'memory.swap: is memory and swap together, so it must not be below memory.limit',
    ],
    [
      'swap below memory on v2',
      { memory: { limit: 5, swap: 4 } },
      v2Layout,
      ErrorCode.InvalidArgument,
      'memory.swap: is memory and swap together, so it must not be below memory.limit',
    ],
    [
      'swappiness',
      { memory: { swappiness: 101 } },
      v1Layout,
      ErrorCode.InvalidArgument,
      'memory.swappiness: must be 0 to 100',
    ],
    [
      'shares',
      { cpu: { shares: 262145 } },
      v1Layout,
      ErrorCode.InvalidArgument,
      'cpu.shares: must be 2 to 262144',
    ],
    [
      'real-time bandwidth on v2',
      { cpu: { realtimeRuntime: 1 } },
      v2Layout,
      ErrorCode.InvalidArgument,
      'cpu.realtimeRuntime: cgroup v2 has no real-time bandwidth',
    ],
    [
      'net_cls on v2',
      { network: { classID: 1 } },
      v2Layout,
      ErrorCode.InvalidArgument,
      'network.classID: cgroup v2 has no net_cls controller',
    ],
    [
      'net_prio on v2',
      { network: { priorities: [{ name: 'eth0', priority: 1 }] } },
      v2Layout,
      ErrorCode.InvalidArgument,
      'network.priorities: cgroup v2 has no net_prio controller',
    ],
    [
      'unified on v1',
      { unified: { 'memory.high': '1' } },
      v1Layout,
      ErrorCode.InvalidArgument,
      'unified: needs a host with cgroup v2 only',
    ],
    [
      'unified on hybrid',
      { unified: { 'memory.high': '1' } },
      hybridLayout,
      ErrorCode.InvalidArgument,
      'unified: needs a host with cgroup v2 only',
    ],
    [
      'unified with a path',
      { unified: { '../memory.high': '1' } },
      v2Layout,
      ErrorCode.InvalidArgument,
      'unified["../memory.high"]: must be a file name in the form CONTROLLER.PARAMETER',
    ],
    [
      'unified without its controller',
      { unified: { 'misc.max': '1' } },
      v2Layout,
      ErrorCode.FailedPrecondition,
      'unified["misc.max"]: this host has no cgroup controller "misc"',
    ],
  ])('%s', (_, resources, layout, code, text) => {
    expect(() => settings(resources, layout)).toThrowError(
      expect.objectContaining({ code, message: `create web-1: linux.resources.${text}` }),
    );
  });
});
