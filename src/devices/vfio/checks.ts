/** Why a PCI function cannot be handed over by VFIO: what the kernel or the hypervisor would say later, said before. */
import type { HostTree } from '../host_tree.ts';
import { hostUses, OTHER_ROOT } from '../host_use.ts';
import { holdersOf, unsafeInterruptsFile } from '../machine.ts';
import { LATE } from '../journal.ts';
import { rebind, shrinkBar, turnIommuOn } from '../remedies.ts';
import {
  formatSize,
  isStuck,
  UNRESPONSIVE,
  type Check,
  type FunctionClaim,
  type Machine,
  type Refusal,
} from '../model.ts';
import { className, isBridge, isGpu, isNvSwitch, type PciFunction } from '../pci.ts';
import type { VfioDevice } from './probe.ts';
import { functionNode } from './request.ts';

/** Drivers that leave a device alone, or are made for handing it on. */
const harmless = new Set(['', 'vfio-pci', 'pci-stub', 'pcieport', 'nvgrace_gpu_vfio_pci', 'mlx5_vfio_pci']);

/** "GPU 0000:41:00.0": how sentences begin. */
export function subjectOf(pci: PciFunction): string {
  const what = isGpu(pci) ? 'GPU' : isNvSwitch(pci) ? 'NVSwitch' : className(pci);
  return `${what} ${pci.address}`;
}

/** The other functions of the group that a driver of the host holds. */
export function obstacles({ companions }: VfioDevice): PciFunction[] {
  return companions.filter((other) => !isBridge(other) && !harmless.has(other.driver));
}

const cannot = ({ pci }: VfioDevice): string => `${subjectOf(pci)}: cannot pass by VFIO`;

/**
 * A sixteenth of the guest's address space: its firmware puts the window for 64-bit BARs below an eighth, aligned to
 * the window's own size.
 */
export function windowLimit(physicalBits: number): number {
  return 2 ** (physicalBits - 4);
}

function largestBar(
  machine: Machine,
  { pci }: VfioDevice,
): { index: number; size: number; limit: number } | undefined {
  if (machine.physicalBits === undefined) return undefined;
  const limit = windowLimit(machine.physicalBits);
  const bar = pci.bars.filter(({ large, size }) => large && size > limit)[0];
  return bar === undefined ? undefined : { index: bar.index, size: bar.size, limit };
}

const MORE_BITS = 'run on a processor with more address bits (KVM, not TCG)';

/** Of the function, else of another one in its group: the kernel gives a group to one user. */
function claimOn(machine: Machine, { pci, companions }: VfioDevice): FunctionClaim | undefined {
  const { claims = [] } = machine;
  const on = (address: string): FunctionClaim | undefined => claims.find((each) => each.address === address);
  return on(pci.address) ?? companions.map((each) => on(each.address)).find((claim) => claim !== undefined);
}

/** A container has it. @param cannot how the sentence begins */
export function claimRefusal(
  machine: Machine,
  device: VfioDevice,
  cannot: string,
): Omit<Refusal, 'check'> | undefined {
  const claim = claimOn(machine, device);
  if (claim === undefined) return undefined;
  const { address, group } = device.pci;
  const isGroups = claim.address !== address;
  if (claim.owner === LATE) {
    return {
      sentence: `${cannot}: the driver that was to let go of ${isGroups ? claim.address : 'it'} has not done so yet`,
      fix: 'end the processes that have it open, and try again',
    };
  }
  return {
    sentence: isGroups
      ? `${cannot}: IOMMU group ${group ?? ''} is claimed by ${claim.owner}, which has ${claim.address}`
      : `${cannot}: claimed by ${claim.owner}`,
    fix: endOwner(claim.owner),
  };
}

export const vfioChecks: readonly Check<VfioDevice>[] = [
  {
    name: 'claimed',
    walls: ['vm', 'namespace'],
    look: (device, machine) => claimRefusal(machine, device, cannot(device)),
  },
  {
    name: 'unresponsive',
    walls: ['vm', 'namespace'],
    look: (device, machine) =>
      isStuck(machine, device.pci.address)
        ? { sentence: `${cannot(device)}: ${UNRESPONSIVE.reason}`, fix: UNRESPONSIVE.fix }
        : undefined,
  },
  {
    name: 'iommu-off',
    walls: ['vm', 'namespace'],
    look: (device, { host, iommu }) =>
      iommu.on
        ? undefined
        : {
            sentence: `${cannot(device)}: IOMMU is off (no /sys/kernel/iommu_groups/*)`,
            fix: turnIommuOn(host),
          },
  },
  {
    name: 'no-iommu-group',
    walls: ['vm', 'namespace'],
    look: (device, { iommu }) =>
      !iommu.on || device.pci.group !== undefined
        ? undefined
        : {
            sentence: `${cannot(device)}: it is in no IOMMU group: no IOMMU translates for it`,
            fix: 'turn VT-d or AMD-Vi on for every slot in the firmware, or put the card into another slot',
          },
  },
  {
    name: 'vfio-not-loaded',
    walls: ['vm', 'namespace'],
    look: (device, { iommu }) =>
      iommu.vfioPci
        ? undefined
        : { sentence: `${cannot(device)}: the driver vfio-pci is not loaded`, fix: 'modprobe vfio-pci' },
  },
  {
    name: 'interrupt-remapping',
    walls: ['vm', 'namespace'],
    look: (device, { host, iommu }) => {
      if (!iommu.on || iommu.interruptRemapping !== 'off' || iommu.unsafeInterrupts) return undefined;
      const file = unsafeInterruptsFile(host);
      const call = file.includes('/iommufd/') ? 'VFIO_DEVICE_BIND_IOMMUFD' : 'VFIO_SET_IOMMU';
      return {
        sentence: `${cannot(device)}: interrupt remapping missing; ${call} would fail with EPERM`,
        fix: `turn interrupt remapping on in the firmware and remove intremap=off, or, with guests that are trusted: ${
          // The module is loaded by the first program that uses a group, unless it is part of the kernel.
          host.exists(file) ? `echo Y > ${file}` : 'modprobe vfio_iommu_type1 allow_unsafe_interrupts=1'
        }`,
      };
    },
  },
  {
    name: 'group-not-viable',
    walls: ['vm', 'namespace'],
    look: (device) => {
      const [first] = obstacles(device);
      if (first === undefined) return undefined;
      const others = obstacles(device).map(
        (other) => `${other.address} (${className(other)}, ${other.driver}) is`,
      );
      return {
        sentence: `${cannot(device)}: IOMMU group ${first.group} is not viable: ${others.join(', ')} bound to a host driver`,
        fix: obstacles(device)
          .map((other) => rebind(other, 'vfio-pci'))
          .join(' && '),
      };
    },
  },
  {
    name: 'host-uses-it',
    walls: ['vm', 'namespace'],
    look: (device, machine) => {
      const uses = hostUses(machine, device.pci.address);
      if (uses.length === 0) return undefined;
      return {
        sentence: `${cannot(device)}: the host uses it: ${uses.map(({ what }) => what).join(', ')}`,
        fix: inOrder(uses.map(({ end }) => end)).join(' && '),
      };
    },
  },
  {
    name: 'bar-too-large',
    walls: ['vm'],
    look: (device, machine) => {
      const bar = largestBar(machine, device);
      if (bar === undefined) return undefined;
      const { index, size, limit } = bar;
      return {
        sentence: `${cannot(device)}: BAR${index} is ${formatSize(size)}; guest phys-bits ${machine.physicalBits} allow ${formatSize(limit)}`,
        fix: [shrinkBar(machine.host, device.pci, index, limit), MORE_BITS]
          .filter((each) => each !== undefined)
          .join(', or '),
      };
    },
  },
  {
    name: 'in-use',
    walls: ['vm', 'namespace'],
    look: (device, machine) => {
      const { host } = machine;
      const holders = holdersOf(machine, nodesOf(host, device));
      // What a container has, its program or its hypervisor has open.
      if (holders.length === 0 || claimOn(machine, device) !== undefined) return undefined;
      return {
        sentence: `${subjectOf(device.pci)}: device is in use by process ${holders.join(', ')}; unbinding would block until it is closed`,
        fix: endHolders(holders),
      };
    },
  },
  {
    name: 'wall',
    walls: ['sentry'],
    look: ({ pci }) => ({
      sentence: `${subjectOf(pci)}: the sentry wall passes no devices of the host`,
      fix: 'use the namespace or the vm wall',
    }),
  },
];

/**
 * The command that ends them; holders are as holdersOf has them: "1234 (qemu)". A session's display is held for it by logind,
 * which lives on.
 */
export function endHolders(holders: readonly string[]): string {
  if (holders.some((holder) => holder.endsWith(' (systemd-logind)'))) {
    return 'systemctl isolate multi-user.target';
  }
  return `kill ${holders.map((holder) => holder.split(' ', 1)[0]).join(' ')}`;
}

/** Owners are "NAMESPACE/ID"; containers of the command line have the namespace "cli". */
function endOwner(owner: string): string {
  const [namespace = '', id = ''] = owner.split('/', 2);
  if (namespace === 'selftest')
    return `wait for the self-test: tail --pid=${id.split('-', 1)[0]} -f /dev/null`;
  return namespace === 'cli'
    ? `bulkhead delete --force ${id}`
    : `delete container ${id} of namespace ${namespace}, or name another function`;
}

/** What stands on the same is taken apart once, when everything on it has ended. */
function inOrder(commands: readonly string[][]): string[] {
  const all = commands.flat();
  // Under a root file system nothing can be taken apart.
  if (all.includes(OTHER_ROOT)) return [OTHER_ROOT];
  return all.filter((command, at) => all.lastIndexOf(command) === at);
}

/** Of the group, and of each function in it: all of them stand in the way of whoever opens one by another node. */
function nodesOf(host: HostTree, { pci, companions }: VfioDevice): string[] {
  if (pci.group === undefined) return [];
  return [
    `/dev/vfio/${pci.group}`,
    ...[pci, ...companions].flatMap((each) => functionNode(host, each.address) ?? []),
  ];
}
