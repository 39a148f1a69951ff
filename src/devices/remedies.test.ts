import { describe, expect, it } from 'vitest';
import { rebind, shrinkBar, turnIommuOn } from './remedies.ts';
import { readPci } from './pci.ts';
import { FakeKernel } from './testing/fake_kernel.ts';
import { FakeTree, type FakeFiles } from './testing/fake_tree.ts';
import { pciFiles } from './testing/machines.ts';

describe('turning the IOMMU on', () => {
  const processor = (maker: string): FakeFiles => ({ '/proc/cpuinfo': `vendor_id\t: ${maker}\n` });
  const table = (name: string): FakeFiles => ({ [`/sys/firmware/acpi/tables/${name}`]: 'x' });
  it.each<[string, FakeFiles, string]>([
    [
      'that an Intel firmware describes',
      { ...processor('GenuineIntel'), ...table('DMAR') },
      'add intel_iommu=on to the kernel command line and reboot',
    ],
    [
      'that an Intel firmware has turned off',
      processor('GenuineIntel'),
      'turn VT-d on in the firmware, add intel_iommu=on to the kernel command line and reboot',
    ],
    [
      'that an AMD firmware describes',
      { ...processor('AuthenticAMD'), ...table('IVRS') },
      'remove amd_iommu=off and iommu=off from the kernel command line and reboot',
    ],
    [
      'that an AMD firmware has turned off',
      processor('AuthenticAMD'),
      'turn AMD-Vi (IOMMU) on in the firmware and reboot',
    ],
    [
      'of another maker',
      {},
      'turn the IOMMU (VT-d, AMD-Vi, SMMU) on in the firmware, on Intel add intel_iommu=on to the kernel command line, and reboot',
    ],
  ])('%s', (_, files, sentence) => {
    expect(turnIommuOn(new FakeTree(files))).toBe(sentence);
  });
});

describe('binding by hand', () => {
  const address = '0000:01:10.0';
  const kernel = (driver: string): FakeKernel =>
    new FakeKernel(
      {
        ...pciFiles([{ address, class: '0x020000', vendor: '0x8086', driver, group: 7 }]),
        [`/sys/bus/pci/devices/${address}/driver_override`]: driver === 'vfio-pci' ? 'vfio-pci' : '(null)',
        '/sys/bus/pci/drivers/vfio-pci': {},
        '/sys/bus/pci/drivers/igbvf': {},
      },
      { [address]: 'igbvf' },
    );
  /** What a shell does with "echo WORDS > FILE && …". */
  async function type(to: FakeKernel, commands: string): Promise<void> {
    for (const command of commands.split(' && ')) {
      const [, words = '', file = ''] = /^echo ?(.*) > (\S+)$/.exec(command) ?? [];
      await to.write(file, words === '' ? '\n' : words);
    }
  }

  it.each([
    ['igbvf', 'vfio-pci', 'vfio-pci'],
    ['', 'vfio-pci', 'vfio-pci'],
    ['vfio-pci', '', 'igbvf'],
  ])('from %j to %j', async (from, to, after) => {
    const host = kernel(from);
    await type(host, rebind({ address, driver: from }, to));
    expect(host.link(`/sys/bus/pci/devices/${address}/driver`)?.split('/').at(-1)).toBe(after);
  });
});

describe('a smaller BAR', () => {
  const address = '0000:41:00.0';
  const gib = 2 ** 30;
  const of = (resize: string | undefined, driver = ''): string | undefined => {
    const host = new FakeTree({
      ...pciFiles([{ address, class: '0x030200', vendor: '0x1002', driver }]),
      ...(resize === undefined ? {} : { [`/sys/bus/pci/devices/${address}/resource2_resize`]: resize }),
    });
    const [pci] = readPci(host);
    return pci && shrinkBar(host, pci, 2, 16 * gib);
  };
  const file = `/sys/bus/pci/devices/${address}/resource2_resize`;
  it.each([
    ['of the card that can', '0000000000007f00', '', `echo 14 > ${file}`],
    ['of which the next smaller is taken', '0000000000010100', '', `echo 8 > ${file}`],
    [
      'of a card with a driver',
      '0000000000007f00',
      'amdgpu',
      `echo ${address} > /sys/bus/pci/devices/${address}/driver/unbind && echo 14 > ${file}`,
    ],
    ['that is large in any case', '0000000000010000', '', undefined],
    ['of a card that cannot', undefined, '', undefined],
  ])('%s', (_, resize, driver, command) => {
    expect(of(resize, driver)).toBe(command);
  });
});
