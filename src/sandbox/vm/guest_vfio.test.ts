import { describe, expect, it } from 'vitest';
import { FakeGuests } from '../../../test/fakes/machine.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import type { Spec } from '../../oci/types.ts';
import { GuestAgent } from './agent.ts';
import { awaitFunctions, checkLockedMemory, withGuestFunctions, withGuestVariables } from './functions.ts';
import type { GuestFunction } from './functions.ts';
import { checkGroups, needsIommu, VFIO_MODE_ANNOTATION, vfioMode } from './guest_vfio.ts';
import type { MachineConfig, PassedFunction } from './hypervisor/hypervisor.ts';
import { testConfig } from './hypervisor/testing/config.ts';

const passed = (address: string, group: string | undefined, code = 0x020000): PassedFunction => ({
  address,
  group,
  memoryWindow: 0,
  prefetchWindow: 0,
  rom: false,
  class: code,
});
const NIC = passed('0000:01:10.0', '/dev/vfio/10');
const DISK = passed('0000:42:00.0', '/dev/vfio/13', 0x010802);
const UNLIMITED = 2 ** 64;

describe('who drives a function in the guest', () => {
  const config = (
    annotations: string[],
    mode: 'guest-kernel' | 'vfio' = 'guest-kernel',
  ): Parameters<typeof vfioMode>[2] => ({
    vfioMode: mode,
    annotations,
  });
  const spec = (mode?: string): Spec => ({
    ociVersion: '1.2.0',
    annotations: mode === undefined ? {} : { [VFIO_MODE_ANNOTATION]: mode },
  });

  it.each<[string | undefined, string[], 'guest-kernel' | 'vfio', string]>([
    [undefined, [], 'guest-kernel', 'guest-kernel'],
    [undefined, [], 'vfio', 'vfio'],
    ['vfio', [VFIO_MODE_ANNOTATION], 'guest-kernel', 'vfio'],
    ['guest-kernel', ['io.katacontainers.*'], 'vfio', 'guest-kernel'],
    // Nobody let it pass: it may be meant for another runtime.
    ['vfio', [], 'guest-kernel', 'guest-kernel'],
    ['neither', ['io.katacontainers.config.hypervisor.*'], 'vfio', 'vfio'],
  ])('an annotation %j, let pass by %j, over %s: %s', (asked, allowed, mode, result) => {
    expect(vfioMode('web', spec(asked), config(allowed, mode))).toBe(result);
  });

  it('is refused when it is neither', () => {
    expect(() => vfioMode('web', spec('both'), config([VFIO_MODE_ANNOTATION]))).toThrow(
      'create web: annotation io.katacontainers.config.runtime.vfio_mode: "both" is none of guest-kernel, vfio',
    );
  });
});

describe('a machine with an IOMMU of its own', () => {
  it('takes functions of different groups of the host', () => {
    expect(() => checkGroups('web', [NIC, DISK])).not.toThrow();
    const unknown = { ...NIC, group: undefined };
    expect(() => checkGroups('web', [unknown, { ...unknown, address: '0000:01:10.1' }])).not.toThrow();
    expect(() => checkGroups('web', [NIC, { ...DISK, group: '/dev/vfio/10' }])).toThrow(
      'create web: device 0000:01:10.0, 0000:42:00.0: both are in /dev/vfio/10, and in a guest with an IOMMU each function needs a group of its own on the host; pass one of them, or use vfio_mode "guest-kernel"',
    );
  });

  it('is there for programs alone, and then has a say on the groups', () => {
    const spec: Spec = { ociVersion: '1.2.0' };
    const shared = [NIC, { ...DISK, group: '/dev/vfio/10' }];
    const config = { vfioMode: 'vfio', annotations: [] } as const;
    expect(needsIommu('web', spec, [NIC, DISK], config)).toBe(true);
    expect(needsIommu('web', spec, shared, { ...config, vfioMode: 'guest-kernel' })).toBe(false);
    expect(() => needsIommu('web', spec, shared, config)).toThrow('both are in /dev/vfio/10');
  });

  it('locks its memory once for each function', () => {
    const config = { size: { memoryMib: 256, vcpus: 1 }, functions: [NIC, DISK] };
    const limit = 400 << 20;
    expect(() => checkLockedMemory('web', config, limit)).not.toThrow();
    expect(() => checkLockedMemory('web', { ...config, iommu: true }, limit)).toThrow(
      'a guest of 256 MiB needs RLIMIT_MEMLOCK of 576 MiB, and it is 400 MiB',
    );
    expect(() => checkLockedMemory('web', { ...config, iommu: true }, 576 << 20)).not.toThrow();
  });
});

const node = (path: string, major: number, minor: number): bulkhead.agent.v1.IDevice => ({
  path,
  major,
  minor,
});
const common = [node('/dev/vfio/vfio', 10, 196), node('/dev/iommu', 10, 125)];
const config = testConfig({ functions: [NIC, DISK], iommu: true });
const hypervisor = {
  functionPaths: ({ functions = [] }: MachineConfig) => functions.map((_, index) => `05.${index}/00.0`),
};
const found = async (guests: FakeGuests, machine = config): Promise<GuestFunction[]> =>
  awaitFunctions(new GuestAgent(guests), 'web', machine, hypervisor, () => {});
const bound = (): FakeGuests => {
  const guests = new FakeGuests();
  guests.answer = ({ bindVfio }) =>
    bindVfio
      ? {
          functions: [
            { address: '0000:09:00.0', group: 3, nodes: [...common, node('/dev/vfio/3', 240, 0)] },
            { address: '0000:0a:00.0', group: 4, nodes: [...common, node('/dev/vfio/4', 240, 1)] },
          ],
        }
      : {};
  return guests;
};

describe('functions for programs of the guest', () => {
  it('are bound to vfio-pci there, all in one call, and no driver’s disk is waited for', async () => {
    const guests = bound();
    const functions = await found(guests);
    expect(guests.calls).toEqual(['bindVfio']);
    expect(guests.asked[0]?.bindVfio?.pciPaths).toEqual(['05.0/00.0', '05.1/00.0']);
    expect(functions.map(({ host, guest, hostGroup, vfio }) => [host, guest, hostGroup, vfio])).toEqual([
      [NIC.address, '0000:09:00.0', '/dev/vfio/10', true],
      [DISK.address, '0000:0a:00.0', '/dev/vfio/13', true],
    ]);
    expect(functions[1]?.nodes).toEqual([
      { path: '/dev/vfio/vfio', type: 'c', major: 10, minor: 196, fileMode: 0o666 },
      { path: '/dev/iommu', type: 'c', major: 10, minor: 125, fileMode: 0o600 },
      { path: '/dev/vfio/4', type: 'c', major: 240, minor: 1, fileMode: 0o600 },
    ]);
  });

  const many = Array.from({ length: 9 }, (_, index) => node(`/dev/vfio/${index}`, 240, index));
  it.each<[string, bulkhead.agent.v1.IVfioFunction[]]>([
    ['none', []],
    ['no address', [{ nodes: common }]],
    ['another address', [{ address: '../../x' }]],
    ['an endless address', [{ address: '0'.repeat(1 << 20) }]],
    ['another’s node', [{ address: '0000:09:00.0', nodes: [node('/dev/sda', 8, 0)] }]],
    ['a node above', [{ address: '0000:09:00.0', nodes: [node('/dev/vfio/../sda', 8, 0)] }]],
    ['too many nodes', [{ address: '0000:09:00.0', nodes: many }]],
  ])('are refused when the guest tells of %s', async (_what, functions) => {
    const guests = new FakeGuests();
    guests.answer = () => ({ functions });
    await expect(found(guests)).rejects.toThrow(
      'create web: guest device 0000:01:10.0: tells of a function that there cannot be',
    );
  });

  const refused = (op: string, path: string, errno: number): Promise<unknown> => {
    const guests = new FakeGuests();
    guests.answer = () => ({ failure: { op, path, errno } });
    return found(guests);
  };
  const both = 'create web: device 0000:01:10.0, 0000:42:00.0: ';
  const remedy = '; make a guest with `bulkhead guest build`, or use vfio_mode "guest-kernel"';
  it.each([
    ['driver', 'vfio-pci', 19, `${both}the kernel of this guest has no driver vfio-pci${remedy}`],
    [
      'group',
      '0000:09:00.0',
      19,
      `${both}the kernel of this guest does not use its IOMMU (CONFIG_INTEL_IOMMU)${remedy}`,
    ],
    [
      'viable',
      '0000:09:00.1',
      16,
      `${both}in the guest 0000:09:00.1 is in the same IOMMU group and has another driver; use vfio_mode "guest-kernel"`,
    ],
    [
      'iommu',
      '/dev/vfio/3',
      1,
      `${both}the guest refuses its IOMMU, because it cannot remap interrupts (CONFIG_IRQ_REMAP)${remedy}`,
    ],
    ['call', '', 38, `${both}the agent of this guest knows no vfio-pci; use the initrd of this version`],
    // What else can happen, in the agent's own words.
    ['iommu', '/dev/vfio/3', 12, 'create web: guest iommu /dev/vfio/3: cannot allocate memory'],
    ['bind', '0000:09:00.0', 19, 'create web: guest bind 0000:09:00.0: no such device'],
    ['wait', 'pci 05.0/00.0', 110, 'create web: guest wait pci 05.0/00.0: connection timed out'],
  ])('are refused in one sentence: %s %s %i', async (op, path, errno, message) => {
    await expect(refused(op, path, errno)).rejects.toMatchObject({ name: 'RuntimeError', message });
  });
});

describe('a container with functions that it drives itself', () => {
  const spec: Spec = {
    ociVersion: '1.2.0',
    process: {
      args: ['dpdk'],
      cwd: '/',
      user: { uid: 0, gid: 0 },
      env: ['PCIDEVICE_INTEL_COM_VF=0000:01:10.0', 'PCIDEVICE_BULKHEAD_IO_VFIO=0000:01:10.0'],
      rlimits: [
        { type: 'RLIMIT_MEMLOCK', soft: 65536, hard: 65536 },
        { type: 'RLIMIT_NOFILE', soft: 1024, hard: 1024 },
      ],
    },
    linux: { resources: { devices: [{ allow: false, access: 'rwm' }] } },
  };

  it('has each node once, the right to use it, memory to lock, and the guest’s addresses', async () => {
    const { process, linux } = withGuestFunctions(spec, await found(bound()), {
      named: ['0000:42:00.0', '0000:01:10.0'],
    });
    expect(linux?.devices?.map(({ path }) => path)).toEqual([
      '/dev/vfio/vfio',
      '/dev/iommu',
      '/dev/vfio/3',
      '/dev/vfio/4',
    ]);
    expect(linux?.resources?.devices?.slice(1)).toEqual(
      [
        [10, 196],
        [10, 125],
        [240, 0],
        [240, 1],
      ].map(([major, minor]) => ({ allow: true, type: 'c', access: 'rw', major, minor })),
    );
    expect(process?.env).toEqual([
      'PCIDEVICE_INTEL_COM_VF=0000:09:00.0',
      'PCIDEVICE_BULKHEAD_IO_VFIO=0000:09:00.0,0000:0a:00.0',
    ]);
    expect(process?.rlimits).toEqual([
      { type: 'RLIMIT_NOFILE', soft: 1024, hard: 1024 },
      { type: 'RLIMIT_MEMLOCK', soft: UNLIMITED, hard: UNLIMITED },
    ]);
  });

  it('that asked by node is told nothing more than a device plugin said, and owns what it owned', async () => {
    const nodes = [
      { path: '/dev/vfio/vfio', type: 'c' as const, major: 10, minor: 196, fileMode: 0o660, gid: 107 },
      { path: '/dev/vfio/13', type: 'c' as const, major: 511, minor: 2, uid: 1000, gid: 107 },
    ];
    const { process, linux } = withGuestFunctions(spec, await found(bound()), { nodes });
    expect(process?.env).toEqual([
      'PCIDEVICE_INTEL_COM_VF=0000:09:00.0',
      'PCIDEVICE_BULKHEAD_IO_VFIO=0000:09:00.0',
    ]);
    const rights = new Map(
      linux?.devices?.map(({ path, fileMode, uid, gid }) => [path, { fileMode, uid, gid }]),
    );
    expect(rights.get('/dev/vfio/vfio')).toEqual({ fileMode: 0o660, uid: undefined, gid: 107 });
    expect(rights.get('/dev/vfio/3')).toEqual({ fileMode: 0o600, uid: undefined, gid: undefined });
    expect(rights.get('/dev/vfio/4')).toEqual({ fileMode: 0o600, uid: 1000, gid: 107 });
  });

  it('locks memory in an exec too, which has no variables', async () => {
    const exec = { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } };
    expect(withGuestVariables(exec, await found(bound()))).toEqual({
      ...exec,
      rlimits: [{ type: 'RLIMIT_MEMLOCK', soft: UNLIMITED, hard: UNLIMITED }],
    });
    expect(withGuestVariables(exec, [])).toBe(exec);
    const driven: GuestFunction = { host: NIC.address, guest: '0000:09:00.0', nodes: [] };
    expect(withGuestVariables(exec, [driven])).toEqual(exec);
  });
});
