/** What VFIO can hand to a virtual machine, or to a program that drives devices itself (Documentation/driver-api/vfio.rst). */
import type { HostTree } from '../host_tree.ts';
import type { Machine } from '../model.ts';
import { isBridge, type PciFunction } from '../pci.ts';

/** Stands among mount points for swap. */
export const SWAP = 'swap';

export interface VfioDevice {
  pci: PciFunction;
  /** The other functions of its IOMMU group, which go wherever it goes. */
  companions: PciFunction[];
  /** Mount points of file systems on it, "swap" among them. */
  mounts: string[];
  /** The default route goes over it. */
  defaultRoute: boolean;
}

export function vfioDevice(machine: Machine, pci: PciFunction): VfioDevice {
  const { host } = machine;
  return {
    pci,
    companions:
      pci.group === undefined
        ? []
        : machine.pci.filter((other) => other.group === pci.group && other.address !== pci.address),
    mounts: mountsOn(host, pci.address),
    defaultRoute: carriesDefaultRoute(host, pci.address),
  };
}

/** Every function that is no bridge. */
export function probeVfio(machine: Machine): VfioDevice[] {
  return machine.pci.filter((pci) => !isBridge(pci)).map((pci) => vfioDevice(machine, pci));
}

/** Block devices below a function and their partitions, by where sysfs says that they are. */
function mountsOn(host: HostTree, address: string): string[] {
  const own = new Set(
    host
      .entries('/sys/class/block')
      .filter((name) => (host.real(`/sys/class/block/${name}`) ?? '').includes(`/${address}/`)),
  );
  if (own.size === 0) return [];
  const isOwn = (source: string): boolean => source.startsWith('/dev/') && own.has(source.slice(5));
  const table = (file: string): string[][] =>
    (host.text(file) ?? '').split('\n').map((line) => line.split(/\s+/));
  const mounted = table('/proc/mounts').flatMap(([source = '', target = '']) =>
    isOwn(source) ? [target] : [],
  );
  const swaps = table('/proc/swaps').flatMap(([source = '']) => (isOwn(source) ? [SWAP] : []));
  return [...mounted, ...swaps];
}

function carriesDefaultRoute(host: HostTree, address: string): boolean {
  const interfaces = host.entries(`/sys/bus/pci/devices/${address}/net`);
  return (host.text('/proc/net/route') ?? '')
    .split('\n')
    .map((line) => line.split('\t'))
    .some(([name = '', destination]) => destination === '00000000' && interfaces.includes(name));
}
