/** PCI functions as sysfs shows them (Documentation/ABI/testing/sysfs-bus-pci). */
import { linkName, type HostTree } from './host_tree.ts';

export const PCI_DEVICES = '/sys/bus/pci/devices';

export interface Bar {
  index: number;
  /** Bytes. */
  size: number;
  /** 64-bit and prefetchable: what goes into a root port's large window. */
  large: boolean;
}

export interface PciFunction {
  /** "0000:41:00.0". */
  address: string;
  /** 24 bits: class, subclass, programming interface. */
  class: number;
  vendor: number;
  device: number;
  /** Empty: none is bound. */
  driver: string;
  /** IOMMU group; undefined without an IOMMU. */
  group: number | undefined;
  /** undefined: the firmware does not say. */
  numaNode: number | undefined;
  /** As the kernel would try them: "flr", "pm", "bus". */
  resetMethods: string[];
  bars: Bar[];
  /** Address of the physical function when this is a virtual one. */
  physicalFunction: string;
  /** How many virtual functions it can have. */
  totalVirtualFunctions: number;
}

const IORESOURCE_MEM = 0x200;
const IORESOURCE_PREFETCH = 0x2000;
const IORESOURCE_MEM_64 = 0x100000;
/** The first six lines of `resource` are BARs; then come the ROM and windows of bridges. */
const BAR_COUNT = 6;

export function readPci(host: HostTree): PciFunction[] {
  return host.entries(PCI_DEVICES).map((address) => readFunction(host, address));
}

function readFunction(host: HostTree, address: string): PciFunction {
  const at = `${PCI_DEVICES}/${address}`;
  const number = (file: string): number => Number(host.text(`${at}/${file}`) ?? '0');
  const group = linkName(host, `${at}/iommu_group`);
  const numaNode = Number(host.text(`${at}/numa_node`) ?? '-1');
  return {
    address,
    class: number('class'),
    vendor: number('vendor'),
    device: number('device'),
    driver: linkName(host, `${at}/driver`),
    group: group === '' ? undefined : Number(group),
    numaNode: numaNode < 0 ? undefined : numaNode,
    resetMethods: (host.text(`${at}/reset_method`) ?? '').split(' ').filter((method) => method !== ''),
    bars: parseBars(host.text(`${at}/resource`) ?? ''),
    physicalFunction: linkName(host, `${at}/physfn`),
    totalVirtualFunctions: number('sriov_totalvfs'),
  };
}

/** Lines "start end flags", all zero for a BAR that is not there. Memory only: I/O ports need no window. */
export function parseBars(resource: string): Bar[] {
  return resource
    .split('\n')
    .slice(0, BAR_COUNT)
    .flatMap((line, index): Bar[] => {
      const [start = 0n, end = 0n, bits = 0n] = line.split(' ').map((word) => BigInt(word || '0'));
      const flags = Number(bits & 0xffffffffn);
      if ((flags & IORESOURCE_MEM) === 0) return [];
      const large = (flags & IORESOURCE_MEM_64) !== 0 && (flags & IORESOURCE_PREFETCH) !== 0;
      return [{ index, size: Number(end - start + 1n), large }];
    });
}

/** Host bridges and PCI-to-PCI bridges: part of the fabric, never given away. */
export function isBridge({ class: code }: PciFunction): boolean {
  return code >> 16 === 0x06 && code >> 8 !== 0x0680;
}

/** VGA, 3D and other display controllers, processing accelerators. */
export function isGpu({ class: code }: PciFunction): boolean {
  return code >> 16 === 0x03 || code >> 8 === 0x1200;
}

/** NVIDIA's NVSwitch calls itself "bridge, other". */
export function isNvSwitch({ class: code, vendor }: PciFunction): boolean {
  return code >> 8 === 0x0680 && vendor === 0x10de;
}

const classNames: readonly (readonly [number, string])[] = [
  [0x0100, 'SCSI controller'],
  [0x0106, 'SATA controller'],
  [0x0108, 'NVMe controller'],
  [0x0200, 'Ethernet controller'],
  [0x0207, 'InfiniBand controller'],
  [0x0300, 'VGA controller'],
  [0x0302, '3D controller'],
  [0x0380, 'display controller'],
  [0x0403, 'audio function'],
  [0x0502, 'CXL memory'],
  [0x0680, 'bridge, other'],
  [0x0b40, 'co-processor'],
  [0x0c03, 'USB controller'],
  [0x1200, 'accelerator'],
];

/** What a class is called in sentences. */
export function className({ class: code }: PciFunction): string {
  return classNames.find(([known]) => known === code >> 8)?.[1] ?? 'PCI function';
}
