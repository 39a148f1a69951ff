import { describe, expect, it } from 'vitest';
import type { Spec } from '../../oci/types.ts';
import { readPci } from '../pci.ts';
import { FakeTree } from '../testing/fake_tree.ts';
import { goodHost, pciFiles } from '../testing/machines.ts';
import { functionsOfNodes, splitVfioNames, vfioNodesOf, withoutVfioNodes } from './request.ts';

const host = new FakeTree({
  ...goodHost,
  ...pciFiles([
    { address: '0000:41:00.0', class: '0x030200', vendor: '0x10de', driver: 'vfio-pci', group: 12 },
    { address: '0000:41:00.1', class: '0x040300', vendor: '0x10de', driver: 'vfio-pci', group: 12 },
    { address: '0000:40:01.0', class: '0x060400', vendor: '0x8086', driver: 'pcieport', group: 12 },
    { address: '0000:42:00.0', class: '0x010802', vendor: '0x144d', driver: 'nvme', group: 13 },
    { address: '0000:43:00.0', class: '0x020000', vendor: '0x8086', driver: 'vfio-pci', group: 14 },
  ]),
  '/dev/vfio/12': { node: 'c 245:0' },
  '/dev/vfio/14': { node: 'c 245:1' },
  '/dev/iommu': { node: 'c 10:125' },
  '/dev/vfio/devices/vfio3': { node: 'c 244:3' },
  '/sys/bus/pci/devices/0000:43:00.0/vfio-dev/vfio3/dev': '244:3',
});
const functions = (...nodes: { path: string; major?: number; minor?: number }[]): string[] =>
  functionsOfNodes(
    host,
    readPci(host),
    nodes.map((node) => ({ type: 'c', ...node })),
  );

describe('functions by name', () => {
  it('are taken out of the names, each once, in small letters', () => {
    const names = ['a.b/c=1', 'bulkhead.io/vfio=0000:4A:00.0', 'bulkhead.io/vfio=0000:4a:00.0'];
    const nvidias = ['bulkhead.io/vfio=00000000:4A:00.0', 'bulkhead.io/vfio=00010000:01:00.0'];
    expect(splitVfioNames([...names, ...nvidias])).toEqual({
      addresses: ['0000:4a:00.0', '10000:01:00.0'],
      others: ['a.b/c=1'],
    });
  });

  it.each(['4a:00.0', '0000:4a:20.0', '0000:4a:00.8', '../../../etc', ''])('are refused: %j', (address) => {
    expect(() => splitVfioNames([`bulkhead.io/vfio=${address}`])).toThrow(
      `device bulkhead.io/vfio=${address}: not a PCI address like 0000:41:00.0`,
    );
  });
});

describe('functions by node', () => {
  it('are all of a group that vfio-pci has, and the container node stands for none', () => {
    expect(functions({ path: '/dev/vfio/vfio' }, { path: '/dev/vfio/12' })).toEqual([
      '0000:41:00.0',
      '0000:41:00.1',
    ]);
  });

  it('are found by the numbers of a node under another name', () => {
    expect(functions({ path: '/dev/vfio/0', major: 245, minor: 1 })).toEqual(['0000:43:00.0']);
  });

  it('are found by the node of a single function', () => {
    expect(functions({ path: '/dev/iommu' }, { path: '/dev/vfio/devices/vfio3' })).toEqual(['0000:43:00.0']);
  });

  it.each(['/dev/vfio/13', '/dev/vfio/99'])('are refused when there are none: %s', (path) => {
    expect(() => functions({ path })).toThrow(
      `device ${path}: no function that is bound to vfio-pci on this host has this node`,
    );
  });
});

it('nodes are what is in /dev, whatever sysfs shows', () => {
  expect(vfioNodesOf(host, '0000:43:00.0')).toEqual({
    address: '0000:43:00.0',
    group: '/dev/vfio/14',
    device: '/dev/vfio/devices/vfio3',
  });
  const withoutIommufd = new FakeTree(
    Object.fromEntries([...host.files].filter(([path]) => path !== '/dev/iommu')),
  );
  expect(vfioNodesOf(withoutIommufd, '0000:43:00.0').device).toBeUndefined();
  expect(vfioNodesOf(host, '0000:42:00.0')).toEqual({
    address: '0000:42:00.0',
    group: undefined,
    device: undefined,
  });
});

it('a configuration for a guest has neither the nodes nor their rules', () => {
  const node = (path: string, major: number, minor: number) => ({ path, type: 'c', major, minor });
  const rule = (major: number, minor: number) => ({ allow: true, type: 'c', major, minor, access: 'rw' });
  const spec: Spec = {
    ociVersion: '1.2.0',
    linux: {
      devices: [node('/dev/vfio/12', 245, 0), node('/dev/fuse', 10, 229)],
      resources: { devices: [{ allow: false, access: 'rwm' }, rule(245, 0), rule(10, 229)] },
    },
  };
  expect(withoutVfioNodes(spec).linux).toEqual({
    devices: [node('/dev/fuse', 10, 229)],
    resources: { devices: [{ allow: false, access: 'rwm' }, rule(10, 229)] },
  });
  const plain: Spec = { ociVersion: '1.2.0', linux: { devices: [node('/dev/fuse', 10, 229)] } };
  expect(withoutVfioNodes(plain)).toBe(plain);
});
