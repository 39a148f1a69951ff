import { describe, expect, it } from 'vitest';
import type { MachineConfig, PassedFunction } from '../hypervisor.ts';
import { testConfig } from '../testing/config.ts';
import { renderArguments } from './arguments.ts';
import { kernelArguments, qemuSwitches } from './command_line.ts';
import { functionFiles, groupNodes } from './functions.ts';

const gpu: PassedFunction = {
  address: '0000:41:00.0',
  group: '/dev/vfio/12',
  memoryWindow: 17 << 20,
  prefetchWindow: 128 * 2 ** 30 + (32 << 20),
  rom: true,
  class: 0x030200,
};
const audio: PassedFunction = {
  ...gpu,
  address: '0000:41:00.1',
  memoryWindow: 16384,
  prefetchWindow: 0,
  rom: false,
};
const nic: PassedFunction = {
  ...audio,
  address: '0000:43:00.0',
  group: undefined,
  device: '/dev/vfio/devices/vfio3',
};

const switches = (config: MachineConfig): string[] =>
  renderArguments(qemuSwitches({ config, memory: { kind: 'anonymous' }, restore: false, paused: false }));
/** What a switch's JSON says. */
const objects = (args: readonly string[], name: string): Record<string, unknown>[] =>
  args
    .filter((value, index) => args[index - 1] === name && value.startsWith('{'))
    .map((value) => JSON.parse(value) as Record<string, unknown>);

describe('functions on the command line', () => {
  it('have a root port each, with windows that hold their BARs', () => {
    const devices = objects(switches(testConfig({ functions: [gpu, audio] })), '-device');
    expect(devices.slice(-4)).toEqual([
      {
        driver: 'pcie-root-port',
        id: 'rp2',
        bus: 'pcie.0',
        addr: '04.2',
        chassis: 3,
        multifunction: true,
        'mem-reserve': 32 << 20,
        'pref64-reserve': 256 * 2 ** 30,
      },
      { driver: 'vfio-pci', id: 'function-0', bus: 'rp2', addr: '0', host: '0000:41:00.0' },
      {
        driver: 'pcie-root-port',
        id: 'rp3',
        bus: 'pcie.0',
        addr: '04.3',
        chassis: 4,
        multifunction: true,
        'mem-reserve': 1 << 20,
        'pref64-reserve': 2 << 20,
      },
      { driver: 'vfio-pci', id: 'function-1', bus: 'rp3', addr: '0', rombar: 0, host: '0000:41:00.1' },
    ]);
  });

  it('are opened by path when they have a group, once each', () => {
    const config = testConfig({ functions: [gpu, audio] });
    expect(groupNodes(config)).toEqual(['/dev/vfio/vfio', '/dev/vfio/12']);
    expect(functionFiles(config)).toEqual([]);
  });

  it('are handed over as descriptors when they have none', () => {
    const config = testConfig({ functions: [gpu, nic] });
    const args = switches(config);
    expect(functionFiles(config)).toEqual([
      { path: '/dev/iommu', descriptor: 8 },
      { path: '/dev/vfio/devices/vfio3', descriptor: 9 },
    ]);
    expect(objects(args, '-object')).toContainEqual({ 'qom-type': 'iommufd', id: 'iommufd0', fd: '8' });
    expect(objects(args, '-device').at(-1)).toEqual({
      driver: 'vfio-pci',
      id: 'function-1',
      bus: 'rp3',
      addr: '0',
      rombar: 0,
      iommufd: 'iommufd0',
      fd: '9',
    });
  });

  it('have their memory where they are, in huge pages that are taken at the start', () => {
    const placement = { hugePage: 2 << 20, node: 1 };
    const memory = (config: MachineConfig): unknown => objects(switches(config), '-object')[0];
    expect(memory(testConfig({ sharedMemory: true, functions: [gpu], placement }))).toEqual({
      'qom-type': 'memory-backend-memfd',
      id: 'memory',
      size: 268435456,
      share: true,
      hugetlb: true,
      hugetlbsize: 2097152,
      prealloc: true,
      'host-nodes': [1],
      policy: 'bind',
    });
    expect(memory(testConfig({ functions: [gpu], placement: { node: 0 } }))).toEqual({
      'qom-type': 'memory-backend-memfd',
      id: 'memory',
      size: 268435456,
      share: false,
      'host-nodes': [0],
      policy: 'bind',
    });
  });

  it('are behind an IOMMU of the guest, which comes before all devices and remaps interrupts', () => {
    const args = switches(testConfig({ accelerator: 'kvm', functions: [gpu], iommu: true }));
    expect(objects(args, '-device')[0]).toEqual({
      driver: 'intel-iommu',
      id: 'iommu',
      intremap: 'on',
      'caching-mode': true,
    });
    const machine = (config: MachineConfig): string | undefined => {
      const all = switches(config);
      return all[all.indexOf('-machine') + 1];
    };
    expect(machine(testConfig({ accelerator: 'kvm', functions: [gpu], iommu: true }))).toContain(
      ',kernel-irqchip=split,',
    );
    // TCG's interrupt controllers are QEMU's own already.
    expect(machine(testConfig({ functions: [gpu], iommu: true }))).not.toContain('irqchip');
    expect(machine(testConfig({ accelerator: 'kvm', functions: [gpu] }))).not.toContain('irqchip');
    expect(kernelArguments(testConfig({ functions: [gpu], iommu: true }))).toMatch(
      / intel_iommu=on agent=1$/,
    );
  });

  it('need no IOMMU of the guest when its kernel drives them', () => {
    const config = testConfig({ accelerator: 'kvm', functions: [gpu] });
    expect(switches(config).join(' ')).not.toContain('iommu');
  });

  it('get a processor with as many address bits as the host has', () => {
    const cpu = (config: MachineConfig): string | undefined => {
      const args = switches(config);
      return args[args.indexOf('-cpu') + 1];
    };
    expect(cpu(testConfig({ accelerator: 'kvm', functions: [gpu] }))).toBe('host,host-phys-bits=on');
    expect(cpu(testConfig({ accelerator: 'kvm' }))).toBe('host');
    expect(cpu(testConfig({ functions: [gpu] }))).toBe('max');
  });
});
