/**
 * VFIO nodes for a program that drives a device itself (DPDK, SPDK) in the namespace wall. Pure; the device is bound to
 * vfio-pci by then. The program must be able to lock the memory that the device reaches.
 */
import type { ContainerEdits } from '../cdi/types.ts';
import type { PosixRlimit } from '../../oci/types.ts';
import { CONTAINER_NODE, IOMMU_NODE, type VfioNodes } from './request.ts';

export interface VfioContribution {
  edits: ContainerEdits;
  rlimits: PosixRlimit[];
}

/** RLIM_INFINITY as config.json has it: 2^64-1, which a double rounds to 2^64. */
const UNLIMITED = 2 ** 64;

/**
 * The nodes that there are: of groups (the container's node and one a group), and of iommufd (its own and one a function).
 * Kernels have the one, the other, or both; then the program chooses.
 */
export function contributeVfio(nodes: readonly VfioNodes[]): VfioContribution {
  const groups = [...new Set(nodes.flatMap(({ group }) => (group === undefined ? [] : [group])))];
  const cdevs = nodes.flatMap(({ device }) => (device === undefined ? [] : [device]));
  const number = (path: string): number => Number(path.slice(path.lastIndexOf('/') + 1));
  const paths = [
    ...(groups.length === 0 ? [] : [CONTAINER_NODE, ...groups.sort((a, b) => number(a) - number(b))]),
    ...(cdevs.length === 0 ? [] : [IOMMU_NODE, ...cdevs]),
  ];
  if (paths.length === 0) return { edits: {}, rlimits: [] };
  return {
    edits: { deviceNodes: paths.map((path) => ({ path, permissions: 'rw' })) },
    rlimits: [{ type: 'RLIMIT_MEMLOCK', soft: UNLIMITED, hard: UNLIMITED }],
  };
}

/** As the SR-IOV device plugin tells a program which functions are its own: PCIDEVICE_<RESOURCE>=address,address. */
export function vfioEnvironment(addresses: readonly string[]): string {
  return `PCIDEVICE_BULKHEAD_IO_VFIO=${addresses.join(',')}`;
}
