/**
 * The model that every kind of device follows. A kind has a probe (reads the host) and a contribution (pure: what a
 * wall adds to its configuration). Between them stand the checks: each is named, looks at one reason why a device
 * cannot go behind a wall, and says what would change that. The same checks make `bulkhead devices` and stand before a
 * start.
 */
import type { HostTree } from './host_tree.ts';
import type { NvmlAnswer } from './gpu/nvml/ask.ts';
import type { PciFunction } from './pci.ts';

export type WallName = 'namespace' | 'vm' | 'sentry';
export const wallNames: readonly WallName[] = ['namespace', 'vm', 'sentry'];

/** Why a device cannot go behind a wall. */
export interface Refusal {
  /** Of the check: "iommu-off". */
  check: string;
  /** Names the device and says why; lower case, no full stop. */
  sentence: string;
  /** What the operator can do: a command, or a change in words. No "no" without one. */
  fix: string;
}

/** What checks know beyond the device: facts of the machine, read once. */
export interface Machine {
  host: HostTree;
  pci: readonly PciFunction[];
  iommu: IommuFacts;
  /** Address bits that a guest's processor has; the host's, for walls that pass its processor on. */
  physicalBits: number | undefined;
  numaNodes: readonly number[];
  /** Processes by the node in /dev that they have open; looked for once, when first asked. */
  openNodes: () => ReadonlyMap<string, readonly string[]>;
  /** Functions that the journal has bound for somebody; undefined: nobody looked. */
  claims?: readonly FunctionClaim[] | undefined;
  /** Directories of devices whose attributes the kernel did not give in time (read_ahead.ts). */
  stuck?: readonly string[] | undefined;
  /** What NVIDIA's management library says; undefined: it was not asked. */
  nvml?: NvmlAnswer | undefined;
}

/** A function that the journal has bound for an owner: "default/web", or nobody's any more ("late"). */
export interface FunctionClaim {
  address: string;
  owner: string;
}

export interface IommuFacts {
  /** Groups exist. */
  on: boolean;
  /** unknown: nothing on this machine tells. */
  interruptRemapping: 'on' | 'off' | 'unknown';
  /** vfio_iommu_type1, or without groups iommufd, was told to do without. */
  unsafeInterrupts: boolean;
  vfioPci: boolean;
  /** /dev/iommu and the functions' own nodes; the vfio-dev directories of sysfs exist without it too. */
  iommufd: boolean;
}

/** A check of one kind's devices for one wall. undefined: nothing speaks against it. */
export interface Check<D> {
  name: string;
  walls: readonly WallName[];
  look: (device: D, machine: Machine, wall: WallName) => Omit<Refusal, 'check'> | undefined;
}

/** The kernel did not answer for the device of this name, in any of its directories. */
export function isStuck({ stuck = [] }: Machine, name: string): boolean {
  return stuck.some((dir) => dir.endsWith(`/${name}`));
}

export const UNRESPONSIVE: Omit<Refusal, 'check' | 'sentence'> & { reason: string } = {
  reason: 'the kernel does not answer for it: a driver holds its lock, or the device is dying',
  fix: 'see what waits for it with: echo w > /proc/sysrq-trigger && dmesg; when nothing can be ended, reboot',
};

/** Every reason why the device cannot go behind the wall, in the order of the checks. */
export function runChecks<D>(
  checks: readonly Check<D>[],
  device: D,
  machine: Machine,
  wall: WallName,
): Refusal[] {
  return checks.flatMap(({ name, walls, look }): Refusal[] => {
    if (!walls.includes(wall)) return [];
    const refusal = look(device, machine, wall);
    return refusal === undefined ? [] : [{ check: name, ...refusal }];
  });
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** A size in the largest unit that gives a number above one: "128 GiB", "1.5 TiB". */
export function formatSize(bytes: number): string {
  const power = bytes <= 0 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  const value = bytes / 2 ** (10 * power);
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[power]}`;
}
