/**
 * Attributes of devices, read by a process of its own before anything else looks at them. Reading one can wait as writing
 * does: driver_override and a namespace's mode take the device's lock, which an unbinding that waits for the last user holds,
 * and a GPU that has fallen off the bus answers nobody. A wait in this process would be one of every container.
 */
import type { HostTree } from './host_tree.ts';

/** These files of every directory in `dir`. */
export interface Attributes {
  dir: string;
  files: readonly string[];
}

export interface Answers {
  /** By path; undefined: there is none, or it cannot be read. */
  texts: ReadonlyMap<string, string | undefined>;
  /** Directories of devices that did not answer in time. */
  stuck: readonly string[];
}

export type ReadApart = (attributes: readonly Attributes[]) => Promise<Answers>;

/** What takes a lock comes last: until then the report has read what a device is. */
export const deviceAttributes: readonly Attributes[] = [
  {
    dir: '/sys/bus/pci/devices',
    files: [
      'class',
      'vendor',
      'device',
      'numa_node',
      'resource',
      'sriov_totalvfs',
      'reset_method',
      'driver_override',
    ],
  },
  { dir: '/sys/bus/nd/devices', files: ['numa_node', 'align', 'resource', 'size', 'mode', 'holder'] },
  { dir: '/proc/driver', files: ['version'] },
  { dir: '/proc/driver/nvidia/gpus', files: ['information'] },
];

/** The tree with these attributes as they were read; what is stuck has none. Without a reader, the tree as it is. */
export async function readAhead(
  host: HostTree,
  read: ReadApart | undefined,
): Promise<{ host: HostTree; stuck: readonly string[] }> {
  if (read === undefined) return { host, stuck: [] };
  const { texts, stuck } = await read(deviceAttributes);
  const isStuck = (path: string): boolean => stuck.some((dir) => path.startsWith(`${dir}/`));
  const text = (path: string): string | undefined => {
    if (texts.has(path)) return texts.get(path)?.trim();
    return isStuck(path) ? undefined : host.text(path);
  };
  const ahead: HostTree = {
    text,
    entries: (path) => host.entries(path),
    link: (path) => host.link(path),
    real: (path) => host.real(path),
    node: (path) => host.node(path),
    exists: (path) => host.exists(path),
  };
  return { host: ahead, stuck };
}
