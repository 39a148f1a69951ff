/**
 * Which PCI functions a container asks for, and by which nodes a function that is bound to vfio-pci is reached.
 *
 *   by name:  bulkhead.io/vfio=0000:41:00.0   the function is bound for the container, and back when it goes
 *   by node:  /dev/vfio/12 in config.json     who made the configuration has bound it (device plugins, driverctl)
 */
import { CdiError } from '../cdi/error.ts';
import type { HostTree } from '../host_tree.ts';
import type { LinuxDevice, LinuxDeviceCgroup, Spec } from '../../oci/types.ts';
import { pciAddress } from '../gpu/nvidia.ts';
import { linkName } from '../host_tree.ts';
import { isBridge, PCI_DEVICES, type PciFunction } from '../pci.ts';

export const VFIO_KIND = 'bulkhead.io/vfio';
export const VFIO_DRIVER = 'vfio-pci';
/** Of all groups: VFIO calls what opens it a container. */
export const CONTAINER_NODE = '/dev/vfio/vfio';
export const IOMMU_NODE = '/dev/iommu';
const ADDRESS = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/;

/** Names of functions apart from those that spec files describe. CdiError for an address that is none. */
export function splitVfioNames(names: readonly string[]): { addresses: string[]; others: string[] } {
  const prefix = `${VFIO_KIND}=`;
  const addresses = names
    .filter((name) => name.startsWith(prefix))
    .map((name) => name.slice(prefix.length).toLowerCase());
  const wrong = addresses.find((address) => !ADDRESS.test(address));
  // NVIDIA's programs write domains of eight digits, sysfs those that need them.
  if (wrong !== undefined) {
    throw new CdiError(`device ${prefix}${wrong}`, 'not a PCI address like 0000:41:00.0');
  }
  return {
    addresses: [...new Set(addresses.map(pciAddress))],
    others: names.filter((name) => !name.startsWith(prefix)),
  };
}

/** The nodes of a function that is bound to vfio-pci; undefined: the kernel has no such interface, or the node is missing. */
export interface VfioNodes {
  address: string;
  /** "/dev/vfio/12". */
  group: string | undefined;
  /** "/dev/vfio/devices/vfio3", for use with /dev/iommu. */
  device: string | undefined;
}

/** Where a function's own node is, if the kernel makes one; undefined: it is not bound to vfio-pci. */
export function functionNode(host: HostTree, address: string): string | undefined {
  const [name] = host.entries(`${PCI_DEVICES}/${address}/vfio-dev`);
  return name === undefined ? undefined : `/dev/vfio/devices/${name}`;
}

export function vfioNodesOf(host: HostTree, address: string): VfioNodes {
  const group = linkName(host, `${PCI_DEVICES}/${address}/iommu_group`);
  const device = functionNode(host, address);
  const present = (path: string): string | undefined => (host.node(path) === undefined ? undefined : path);
  return {
    address,
    group: group === '' ? undefined : present(`/dev/vfio/${group}`),
    // The directory is in sysfs of kernels without iommufd as well (seen with 6.12); only the nodes tell.
    device: device === undefined || present(IOMMU_NODE) === undefined ? undefined : present(device),
  };
}

export function isVfioNode({ path }: LinuxDevice): boolean {
  return path === IOMMU_NODE || path.startsWith('/dev/vfio/');
}

/**
 * The functions behind the VFIO nodes of a configuration: of a group all that are bound to vfio-pci.
 * @throws CdiError for a node that is none of this host's
 */
export function functionsOfNodes(
  host: HostTree,
  pci: readonly PciFunction[],
  nodes: readonly LinuxDevice[],
): string[] {
  const addresses = nodes.filter(isVfioNode).flatMap((node): string[] => {
    const path = hostPath(host, node);
    if (path === CONTAINER_NODE || path === IOMMU_NODE) return [];
    const found = pci
      .filter((each) => each.driver === VFIO_DRIVER && !isBridge(each))
      .filter(({ address }) => {
        const { group, device } = vfioNodesOf(host, address);
        return path !== '' && (group === path || device === path);
      });
    if (found.length === 0) {
      throw new CdiError(
        `device ${node.path}`,
        'no function that is bound to vfio-pci on this host has this node',
      );
    }
    return found.map(({ address }) => address);
  });
  return [...new Set(addresses)];
}

/** A container may have a node under another name: its numbers tell. Empty: it is none of VFIO's. */
function hostPath(host: HostTree, { path, major, minor }: LinuxDevice): string {
  if (major === undefined) return host.node(path) === undefined ? '' : path;
  const same = (candidate: string): boolean => {
    const node = host.node(candidate);
    return node?.major === major && node.minor === minor;
  };
  const known = [
    path,
    IOMMU_NODE,
    ...host.entries('/dev/vfio').map((name) => `/dev/vfio/${name}`),
    ...host.entries('/dev/vfio/devices').map((name) => `/dev/vfio/devices/${name}`),
  ];
  return known.find(same) ?? '';
}

/** A configuration without its VFIO nodes and the device rules for them: for a guest, whose numbers are others. */
export function withoutVfioNodes(spec: Spec): Spec {
  const nodes = (spec.linux?.devices ?? []).filter(isVfioNode);
  if (nodes.length === 0) return spec;
  const isRuleOf = (rule: LinuxDeviceCgroup): boolean =>
    nodes.some(({ major, minor }) => rule.major === major && rule.minor === minor && rule.allow);
  const { devices: rules, ...resources } = spec.linux?.resources ?? {};
  return {
    ...spec,
    linux: {
      ...spec.linux,
      devices: (spec.linux?.devices ?? []).filter((node) => !isVfioNode(node)),
      resources: {
        ...resources,
        ...(rules === undefined ? {} : { devices: rules.filter((rule) => !isRuleOf(rule)) }),
      },
    },
  };
}
