/** GPUs of the host, whoever made them, and NVSwitches, which go where their GPUs go. */
import type { HostTree } from '../host_tree.ts';
import type { Machine } from '../model.ts';
import { isGpu, isNvSwitch, PCI_DEVICES, type PciFunction } from '../pci.ts';
import { probeNvidia, type NvidiaDriver, type NvidiaGpu } from './nvidia.ts';
import { withNvml } from './nvml/merge.ts';

export type GpuVendor = 'nvidia' | 'amd' | 'intel' | 'other';
const vendors: Readonly<Record<number, GpuVendor>> = { 0x10de: 'nvidia', 0x1002: 'amd', 0x8086: 'intel' };

/** Drivers of the host through which a container can share a GPU. */
const sharing: Readonly<Record<GpuVendor, readonly string[]>> = {
  nvidia: ['nvidia'],
  amd: ['amdgpu'],
  intel: ['i915', 'xe'],
  other: [],
};

export interface GpuDevice {
  pci: PciFunction;
  vendor: GpuVendor;
  nvSwitch: boolean;
  /** The host's driver has it. */
  shared: boolean;
  /** /dev/dri/card0, /dev/dri/renderD128. */
  drmNodes: string[];
  /** What NVIDIA's driver says of it. */
  nvidia: NvidiaGpu | undefined;
}

export interface GpuFacts {
  devices: GpuDevice[];
  /** undefined: not loaded. */
  nvidia: NvidiaDriver | undefined;
  /** Why what only NVML knows is missing; undefined: it is not, or nobody asked. */
  nvmlUnavailable?: string | undefined;
}

export function probeGpus(machine: Machine): GpuFacts {
  const read = probeNvidia(machine.host);
  const merged = read === undefined ? undefined : withNvml(read, machine.nvml);
  const nvidia = merged?.driver;
  const devices = machine.pci
    .filter((pci) => isGpu(pci) || isNvSwitch(pci))
    .map((pci): GpuDevice => {
      const vendor = vendors[pci.vendor] ?? 'other';
      return {
        pci,
        vendor,
        nvSwitch: isNvSwitch(pci),
        shared: sharing[vendor].includes(pci.driver) || (isNvSwitch(pci) && pci.driver === 'nvidia-nvswitch'),
        drmNodes: drmNodes(machine.host, pci.address),
        nvidia: nvidia?.gpus.find(({ address }) => address === pci.address),
      };
    });
  return { devices, nvidia, nvmlUnavailable: merged?.unavailable };
}

function drmNodes(host: HostTree, address: string): string[] {
  return host
    .entries(`${PCI_DEVICES}/${address}/drm`)
    .filter((name) => /^(?:card|renderD)\d+$/.test(name))
    .map((name) => `/dev/dri/${name}`);
}

export { sharing as sharingDrivers };
