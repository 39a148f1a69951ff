/** What VFIO can hand to a virtual machine, or to a program that drives devices itself (Documentation/driver-api/vfio.rst). */
import type { Machine } from '../model.ts';
import { isBridge, type PciFunction } from '../pci.ts';

export interface VfioDevice {
  pci: PciFunction;
  /** The other functions of its IOMMU group, which go wherever it goes. */
  companions: PciFunction[];
}

export function vfioDevice(machine: Machine, pci: PciFunction): VfioDevice {
  return {
    pci,
    companions:
      pci.group === undefined
        ? []
        : machine.pci.filter((other) => other.group === pci.group && other.address !== pci.address),
  };
}

/** Every function that is no bridge. */
export function probeVfio(machine: Machine): VfioDevice[] {
  return machine.pci.filter((pci) => !isBridge(pci)).map((pci) => vfioDevice(machine, pci));
}
