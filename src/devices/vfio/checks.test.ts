import { describe, expect, it } from 'vitest';
import { readMachine } from '../machine.ts';
import { FakeTree, type FakeFiles } from '../testing/fake_tree.ts';
import { goodHost, pciFiles } from '../testing/machines.ts';
import { preflightVfio } from './preflight.ts';

const NIC = '0000:43:00.0';
const nic = { address: NIC, class: '0x020000', vendor: '0x8086', driver: 'vfio-pci', group: 14 };
const second = { ...nic, address: '0000:43:00.1' };
const iommufd: FakeFiles = {
  ...goodHost,
  ...pciFiles([nic, second]),
  '/dev/iommu': { node: 'c 10:125' },
  '/dev/vfio/devices/vfio3': { node: 'c 244:3' },
  [`/sys/bus/pci/devices/${NIC}/vfio-dev/vfio3/dev`]: '244:3',
  '/dev/vfio/devices/vfio4': { node: 'c 244:4' },
  [`/sys/bus/pci/devices/${second.address}/vfio-dev/vfio4/dev`]: '244:4',
};
const machineOf = (files: FakeFiles) => readMachine(new FakeTree(files), 'x64');
const refusals = (files: FakeFiles) =>
  preflightVfio(machineOf(files), [NIC], 'namespace').map(({ sentence }) => sentence);

describe('a host with iommufd', () => {
  it.each([
    ['the node of its group', '/dev/vfio/14'],
    ['its own node', '/dev/vfio/devices/vfio3'],
    ['the node of another function in its group', '/dev/vfio/devices/vfio4'],
  ])('has a function in use when a process has %s open', (_, path) => {
    const held = { ...iommufd, '/proc/1234/comm': 'dpdk', '/proc/1234/fd/7': { link: path } };
    expect(refusals(held)).toEqual([
      `Ethernet controller ${NIC}: device is in use by process 1234 (dpdk); unbinding would block until it is closed`,
    ]);
    expect(refusals({ ...held, '/proc/1234/fd/7': { link: '/dev/vfio/devices/vfio9' } })).toEqual([]);
  });

  const unsafe: FakeFiles = {
    ...iommufd,
    '/proc/interrupts': '  24:  0  PCI-MSI-0000:00:1c.0   0-edge\n',
    '/sys/module/iommufd/parameters/allow_unsafe_interrupts': 'N',
  };
  const fixes = (files: FakeFiles) =>
    preflightVfio(machineOf(files), [NIC], 'vm').map(({ sentence, fix }) => [sentence, fix]);
  const cannot = `Ethernet controller ${NIC}: cannot pass by VFIO: interrupt remapping missing;`;
  const fix =
    'turn interrupt remapping on in the firmware and remove intremap=off, or, with guests that are trusted:';

  it('names its own parameter for interrupts that are not remapped, where there are no groups', () => {
    const file = '/sys/module/iommufd/parameters/allow_unsafe_interrupts';
    expect(fixes(unsafe)).toEqual([
      [`${cannot} VFIO_DEVICE_BIND_IOMMUFD would fail with EPERM`, `${fix} echo Y > ${file}`],
    ]);
    expect(fixes({ ...unsafe, [file]: 'Y' })).toEqual([]);
  });

  it('names the parameter of groups where both are there: groups are what is used', () => {
    const file = '/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts';
    const both = { ...unsafe, [file]: 'N', '/sys/module/iommufd/parameters/allow_unsafe_interrupts': 'Y' };
    expect(fixes(both)).toEqual([
      [`${cannot} VFIO_SET_IOMMU would fail with EPERM`, `${fix} echo Y > ${file}`],
    ]);
    expect(fixes({ ...both, [file]: 'Y' })).toEqual([]);
  });

  it('is known as one before the first function is bound, by the list of character devices', () => {
    const files: FakeFiles = { ...goodHost, '/dev/iommu': { node: 'c 10:125' } };
    const known = (list: string) => machineOf({ ...files, '/proc/devices': list }).iommu.iommufd;
    expect(known('Character devices:\n  1 mem\n511 vfio-dev\n')).toBe(true);
    expect(known('Character devices:\n  1 mem\n511 vfio\n')).toBe(false);
    expect(machineOf(iommufd).iommu.iommufd).toBe(true);
  });
});
