/**
 * Nodes of config.json that a guest gets as its own: block devices of the host are disks there, device-DAX is an NVDIMM.
 * In the container the guest's node stands where the host's was asked for, with the host's rights. Pure.
 */
import type { bulkhead } from '../../gen/bulkhead.js';
import type { LinuxDevice, LinuxDeviceCgroup, Spec } from '../../oci/types.ts';
import type { HostDevice } from './images.ts';
import { nodeVolume, type Volume } from './storage.ts';

type IDevice = bulkhead.agent.v1.IDevice;

export interface WantedNode {
  /** As config.json has it. */
  node: LinuxDevice;
  volume: Volume;
}

/** @throws RuntimeError for a device that cannot be given; what is none of these kinds is left out */
export function wantedNodes(
  id: string,
  devices: readonly LinuxDevice[],
  find: (node: LinuxDevice) => HostDevice | undefined,
): WantedNode[] {
  return devices.flatMap((node): WantedNode[] => {
    const found = find(node);
    if (found === undefined) return [];
    return [{ node, volume: nodeVolume(id, node.path, found.source, found.image) }];
  });
}

/**
 * The configuration with the guest's numbers. A rule for the host's is taken over with its access, and does not stay: in
 * the guest another device may have these numbers.
 */
export function withGuestNodes(spec: Spec, nodes: readonly { wanted: WantedNode; found: IDevice }[]): Spec {
  if (nodes.length === 0) return spec;
  const { linux = {} } = spec;
  const { resources = {} } = linux;
  const rules = resources.devices ?? [];
  const taken = new Set(nodes.flatMap(({ wanted: { node } }) => rules.filter((rule) => isFor(rule, node))));
  return {
    ...spec,
    linux: {
      ...linux,
      devices: [...(linux.devices ?? []), ...nodes.map(({ wanted, found }) => guestNode(wanted, found))],
      resources: {
        ...resources,
        devices: [
          ...rules.filter((rule) => !taken.has(rule)),
          ...nodes.flatMap(({ wanted: { node }, found }) =>
            rules.filter((rule) => isFor(rule, node)).map((rule) => ({ ...rule, ...numbersOf(found) })),
          ),
        ],
      },
    },
  };
}

function guestNode({ node }: WantedNode, found: IDevice): LinuxDevice {
  return { ...node, ...numbersOf(found) };
}

function numbersOf({ major, minor }: IDevice): { major: number; minor: number } {
  return { major: major ?? 0, minor: minor ?? 0 };
}

function isFor({ type, major, minor }: LinuxDeviceCgroup, node: LinuxDevice): boolean {
  return type === node.type && major === node.major && minor === node.minor;
}
