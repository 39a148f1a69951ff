import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { FakeTree } from '../../devices/testing/fake_tree.ts';
import type { Spec } from '../../oci/types.ts';
import type { PassedFunction } from './hypervisor/hypervisor.ts';
import {
  farApart,
  hugePageBytes,
  hugePagesMissing,
  memoryPlacement,
  pinVcpus,
  placed,
  vcpuMasks,
  type Wanted,
} from './placement.ts';

const on = (node: number | undefined): PassedFunction => ({
  address: '0000:41:00.0',
  memoryWindow: 0,
  prefetchWindow: 0,
  rom: false,
  class: 0x030200,
  node,
});
const M2 = 2 << 20;
const host = new FakeTree({
  '/sys/devices/system/node/node0/cpulist': '0-3\n',
  '/sys/devices/system/node/node1/cpulist': '4-7\n',
  '/sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages': '100\n',
  '/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages': '120\n',
  '/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages': '150\n',
  '/sys/kernel/mm/hugepages/hugepages-64kB/free_hugepages': '0\n',
});

it.each([
  ['2M', M2],
  ['1G', 2 ** 30],
  ['512K', 512 << 10],
  ['', undefined],
  ['0M', undefined],
  ['2 M', undefined],
  ['2T', undefined],
])('a huge page of %j', (name, bytes) => {
  expect(hugePageBytes(name)).toBe(bytes);
});

describe('memory', () => {
  it.each<[string, PassedFunction[], number | undefined, unknown]>([
    ['on its devices’ node', [on(1), on(1)], undefined, { hugePage: undefined, node: 1 }],
    ['anywhere for devices of two', [on(0), on(1)], undefined, undefined],
    ['in huge pages anywhere', [on(undefined)], M2, { hugePage: M2, node: undefined }],
    ['anywhere', [on(undefined)], undefined, undefined],
  ])('is %s', (_, functions, hugePage, placement) => {
    expect(memoryPlacement(functions, hugePage)).toEqual(placement);
  });

  it('needs as many huge pages as are free, on its node', () => {
    expect(hugePagesMissing(host, 100 * M2, { hugePage: M2, node: 1 })).toBeUndefined();
    expect(hugePagesMissing(host, 150 * M2, { hugePage: M2 })).toBeUndefined();
    expect(hugePagesMissing(host, 2 ** 40, { node: 1 })).toBeUndefined();
    expect(hugePagesMissing(host, 101 * M2, { hugePage: M2, node: 1 })).toEqual({
      object: 'huge pages of 2 MiB',
      reason: '101 are needed on NUMA node 1 and 100 are free',
      remedy: 'echo 121 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages',
    });
    expect(hugePagesMissing(host, M2, { hugePage: 2 ** 30 })).toEqual({
      object: 'huge pages of 1 GiB',
      reason: 'this kernel has none of that size',
      remedy: 'set vm.huge_pages to "64K" or "2M"',
    });
    expect(hugePagesMissing(new FakeTree({}), M2, { hugePage: M2 })?.remedy).toBe(
      'remove vm.huge_pages: it has no huge pages at all',
    );
  });
});

describe('a machine with functions', () => {
  const wanted = (functions: PassedFunction[], hugePage?: number, cpu: object = {}): Wanted => ({
    id: 'web',
    spec: { ociVersion: '1.2.0', linux: { resources: { cpu } } },
    functions,
    size: { memoryMib: 200, vcpus: 1 },
    hugePage,
  });
  const place = (of: Wanted): { placement: unknown; said: string[] } => {
    const said: string[] = [];
    return { placement: placed(host, of, (reason) => said.push(reason)), said };
  };

  it('has its memory on their node, in huge pages, and says nothing when all is there', () => {
    expect(place(wanted([on(1)], M2, { cpus: '4-5', mems: '1' }))).toEqual({
      placement: { hugePage: M2, node: 1 },
      said: [],
    });
  });

  it('says what is far apart, and starts', () => {
    expect(place(wanted([on(1)], undefined, { cpus: '0-1', mems: '0' }))).toEqual({
      placement: { hugePage: undefined, node: 1 },
      said: [
        'it has processors of NUMA node 0, its devices are on 1; it may have memory of NUMA node 0, its devices are on 1',
      ],
    });
  });

  it('is refused for want of huge pages', () => {
    const much = { ...wanted([on(1)], M2), size: { memoryMib: 202, vcpus: 1 } };
    let thrown: unknown;
    try {
      place(much);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({
      code: ErrorCode.ResourceExhausted,
      message:
        'create web: huge pages of 2 MiB: 101 are needed on NUMA node 1 and 100 are free; echo 121 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages',
    });
  });
});

describe('vCPUs', () => {
  const gpu = on(1);
  const spec = (cpus?: string): Spec => ({
    ociVersion: '1.2.0',
    linux: { resources: { cpu: cpus === undefined ? {} : { cpus } } },
  });
  const pin = async (
    cpus: string | undefined,
    functions = [gpu],
    { fail = false, threads = [501, 502] } = {},
  ): Promise<[[number, number][], string[]]> => {
    const pinned: [number, number][] = [];
    const said: string[] = [];
    const setAffinity = (tid: number, mask: Uint8Array): void => {
      if (fail) throw new Error('sched_setaffinity: invalid argument');
      pinned.push([tid, mask[0] ?? 0]);
    };
    const isOwnThread = (tid: number): boolean => tid > 500 && tid < 504;
    const machine = { vcpuThreads: async () => threads, isOwnThread };
    const config = { functions, size: { memoryMib: 256, vcpus: 2 } };
    await pinVcpus(machine, config, spec(cpus), setAffinity, (message, { error }) =>
      said.push(`${message}: ${error}`),
    );
    return [pinned, said];
  };

  it('are each on a processor of the cpuset', async () => {
    expect(await pin('4-5')).toEqual([
      [
        [501, 0b10000],
        [502, 0b100000],
      ],
      [],
    ]);
  });
  it.each<[string, string | undefined, PassedFunction[]]>([
    ['without devices', '4-5', []],
    ['without a cpuset', undefined, [gpu]],
  ])('are where the kernel likes %s', async (_, cpus, functions) => {
    expect(await pin(cpus, functions)).toEqual([[], []]);
  });
  it.each([
    ['first', [1, 502], 1],
    ['last', [501, 1234], 1234],
    ['nobody’s', [0, 502], 0],
  ])('are all left alone when one is not the hypervisor’s: the %s', async (_, threads, stranger) => {
    expect(await pin('4-5', [gpu], { threads })).toEqual([
      [],
      [`vCPUs not pinned: thread ${stranger} is none of the hypervisor's`],
    ]);
  });
  it('beyond those that the machine was made with are left alone', async () => {
    expect((await pin('4-6', [gpu], { threads: [501, 502, 503] }))[0]).toHaveLength(2);
    expect(await pin('4-5', [gpu], { threads: [] })).toEqual([[], []]);
  });
  it('that cannot be pinned are said, and the machine runs', async () => {
    expect(await pin('4-5', [gpu], { fail: true })).toEqual([
      [],
      ['vCPUs not pinned: sched_setaffinity: invalid argument'],
    ]);
  });
});

describe('processors', () => {
  it('are one for each vCPU when there are enough', () => {
    expect(vcpuMasks('4-5', 2).map((mask) => mask[0])).toEqual([0b10000, 0b100000]);
  });
  it('are all for all when there are fewer', () => {
    expect(vcpuMasks('4-5', 3).map((mask) => mask[0])).toEqual([0b110000, 0b110000, 0b110000]);
  });
  it.each([undefined, '', 'x'])('are any without a list: %j', (cpus) => {
    expect(vcpuMasks(cpus, 2)).toEqual([]);
  });
});

describe('what is far apart', () => {
  it.each<[string, PassedFunction[], { cpus?: string; mems?: string }, string | undefined]>([
    ['nothing', [on(1)], { cpus: '4-7', mems: '1' }, undefined],
    ['nothing that is known', [on(undefined)], { cpus: '0', mems: '0' }, undefined],
    ['nothing without a cpuset', [on(1)], {}, undefined],
    ['processors', [on(1)], { cpus: '3-4' }, 'it has processors of NUMA node 0, its devices are on 1'],
    ['memory', [on(1)], { mems: '0' }, 'it may have memory of NUMA node 0, its devices are on 1'],
    ['devices', [on(1), on(0)], { cpus: '0,7' }, 'its devices are on NUMA nodes 0, 1'],
  ])('is %s', (_, functions, cpuset, sentence) => {
    expect(farApart(host, functions, cpuset)).toBe(sentence);
  });
});

it('processors and nodes are counted beyond the first eight', () => {
  const large = new FakeTree({
    '/sys/devices/system/node/node0/cpulist': '0-9\n',
    '/sys/devices/system/node/node9/cpulist': '10-19\n',
  });
  expect(farApart(large, [on(9)], { cpus: '9' })).toBe(
    'it has processors of NUMA node 0, its devices are on 9',
  );
  expect(farApart(large, [on(9)], { cpus: '10,17', mems: '9' })).toBeUndefined();
  expect(farApart(large, [on(9)], { mems: '1' })).toBe(
    'it may have memory of NUMA node 1, its devices are on 9',
  );
  const masks = vcpuMasks('9,16', 2);
  expect(masks.map((mask) => mask.findIndex((byte) => byte !== 0))).toEqual([1, 2]);
  expect(masks.map((mask) => Math.max(...mask))).toEqual([2, 1]);
});
