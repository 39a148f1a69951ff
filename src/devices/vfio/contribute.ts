/**
 * VFIO nodes for a program that drives a device itself (DPDK, SPDK) in the namespace wall. Pure; the device is bound to
 * vfio-pci by then. The program must be able to lock the memory that the device reaches.
 */
import type { ContainerEdits } from '../cdi/types.ts';
import type { PosixRlimit } from '../../oci/types.ts';
import type { VfioDevice } from './probe.ts';
import type { VfioNodes } from './request.ts';

export interface VfioContribution {
  edits: ContainerEdits;
  rlimits: PosixRlimit[];
}

/** RLIM_INFINITY as config.json has it: 2^64-1, which a double rounds to 2^64. */
const UNLIMITED = 2 ** 64;

/** Legacy groups (the container's node and one node a group), and where the kernel has iommufd, its nodes too. */
export function contributeVfio(
  devices: readonly VfioDevice[],
  nodes: readonly Pick<VfioNodes, 'device'>[] = [],
): VfioContribution {
  const groups = [...new Set(devices.flatMap(({ pci }) => (pci.group === undefined ? [] : [pci.group])))];
  if (groups.length === 0) return { edits: {}, rlimits: [] };
  const cdevs = nodes.flatMap(({ device }) => (device === undefined ? [] : [device]));
  const paths = [
    '/dev/vfio/vfio',
    ...groups.sort((a, b) => a - b).map((group) => `/dev/vfio/${group}`),
    ...(cdevs.length === 0 ? [] : ['/dev/iommu', ...cdevs]),
  ];
  return {
    edits: { deviceNodes: paths.map((path) => ({ path, permissions: 'rw' })) },
    rlimits: [{ type: 'RLIMIT_MEMLOCK', soft: UNLIMITED, hard: UNLIMITED }],
  };
}

/** As the SR-IOV device plugin tells a program which functions are its own: PCIDEVICE_<RESOURCE>=address,address. */
export function vfioEnvironment(addresses: readonly string[]): string {
  return `PCIDEVICE_BULKHEAD_IO_VFIO=${addresses.join(',')}`;
}
