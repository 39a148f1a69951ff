import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { deviceNumbers, hostNode } from './host_node.ts';
import { hostTree, linkName } from './host_tree.ts';
import { readMachine } from './machine.ts';

const root = mkdtempSync(join(tmpdir(), 'bh-tree-'));
const tree = hostTree({ sys: join(root, 'sys'), proc: join(root, 'proc'), dev: join(root, 'dev'), root });
const PCI = 'sys/bus/pci/devices/0000:01:10.0';

beforeAll(() => {
  // As sysfs has it: the bus lists links to where devices really are.
  const real = join(root, 'sys/devices/pci0000:00/0000:00:01.0/0000:01:10.0');
  mkdirSync(real, { recursive: true });
  mkdirSync(join(root, 'sys/bus/pci/devices'), { recursive: true });
  symlinkSync('../../../devices/pci0000:00/0000:00:01.0/0000:01:10.0', join(root, PCI));
  writeFileSync(join(real, 'class'), '0x020000\n');
  writeFileSync(join(real, 'vendor'), '0x8086\n');
  writeFileSync(join(real, 'numa_node'), '1\n');
  writeFileSync(join(real, 'reset_method'), 'flr bus\n');
  symlinkSync('../../../../bus/pci/drivers/igbvf', join(real, 'driver'));
  symlinkSync('../../../../kernel/iommu_groups/14', join(real, 'iommu_group'));
  mkdirSync(join(root, 'sys/kernel/iommu_groups/14/devices/0000:01:10.0'), { recursive: true });
  mkdirSync(join(root, 'proc'));
  writeFileSync(join(root, 'proc/interrupts'), ' 24: 0 IR-PCI-MSI 0-edge\n');
  mkdirSync(join(root, 'usr'));
  writeFileSync(join(root, 'usr/file'), 'x');
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe('a tree under other roots', () => {
  it('reads files, lists and links', () => {
    expect(tree.text(`/${PCI}/class`)).toBe('0x020000');
    expect(tree.text('/sys/absent')).toBeUndefined();
    expect(tree.entries(`/${PCI}`)).toEqual([
      'class',
      'driver',
      'iommu_group',
      'numa_node',
      'reset_method',
      'vendor',
    ]);
    expect(tree.entries('/sys/absent')).toEqual([]);
    expect(tree.link(`/${PCI}/driver`)).toBe('../../../../bus/pci/drivers/igbvf');
    expect(linkName(tree, `/${PCI}/driver`)).toBe('igbvf');
    expect(linkName(tree, `/${PCI}/class`)).toBe('');
    expect(tree.real(`/${PCI}/class`)).toBe('/sys/devices/pci0000:00/0000:00:01.0/0000:01:10.0/class');
    expect(tree.real('/sys/absent')).toBeUndefined();
    expect(tree.exists('/usr/file')).toBe(true);
    expect(tree.exists('/usr/other')).toBe(false);
    expect(tree.node('/usr/file')).toBeUndefined();
  });

  it('makes a machine of it', () => {
    const machine = readMachine(tree, 'x64');
    expect(machine.pci).toMatchObject([
      {
        address: '0000:01:10.0',
        class: 0x020000,
        vendor: 0x8086,
        driver: 'igbvf',
        group: 14,
        numaNode: 1,
        resetMethods: ['flr', 'bus'],
      },
    ]);
    expect(machine.iommu).toMatchObject({
      on: true,
      interruptRemapping: 'on',
      vfioPci: false,
      iommufd: false,
    });
  });
});

describe('device nodes', () => {
  it('reads the host’s own', () => {
    expect(hostNode('/dev/null')).toMatchObject({ type: 'c', major: 1, minor: 3 });
    expect(hostNode('/dev/absent')).toBeUndefined();
    expect(hostNode(root)).toBeUndefined();
    expect(hostTree().node('/dev/zero')).toMatchObject({ type: 'c', major: 1, minor: 5 });
  });

  it.each([
    [0x0103, 1, 3],
    [0xc3ff, 195, 255],
    [0x110000c305, 195, 5],
    [0x1ff00103, 1, 0x1ff03],
    [0xfff00000 + 0xfffff, 0xfff, 0xfffff],
  ])('splits %i', (rdev, major, minor) => {
    expect(deviceNumbers(rdev)).toEqual({ major, minor });
  });
});
