/** The checks of functions that go behind a wall together, before anything on the host is changed. */
import { gpuVmChecks } from '../gpu/checks.ts';
import { probeGpus } from '../gpu/probe.ts';
import { ALLOW_HOST_USE } from '../host_use.ts';
import type { Machine, Refusal, WallName } from '../model.ts';
import { runChecks } from '../model.ts';
import { isBridge } from '../pci.ts';
import type { LinuxDevice } from '../../oci/types.ts';
import { claimRefusal, subjectOf, vfioChecks } from './checks.ts';
import { vfioDevice } from './probe.ts';
import { vfioNodesOf } from './request.ts';

/** NVIDIA's driver lets a GPU go only when nobody has its node open: unbinding would wait, with the driver locked. */
function driverInUse(machine: Machine, address: string): Refusal[] {
  const facts = probeGpus(machine);
  const gpu = facts.devices.find(({ pci }) => pci.address === address);
  return gpu === undefined ? [] : runChecks(gpuVmChecks, { ...gpu, facts, specs: [] }, machine, 'vm');
}

/**
 * Every reason against it, of all functions. Functions of one group that go together do not stand in each other's way.
 * @param annotations of the container
 */
export function preflightVfio(
  machine: Machine,
  addresses: readonly string[],
  wall: WallName,
  annotations: Readonly<Record<string, string>> = {},
): Refusal[] {
  const allowed = annotations[ALLOW_HOST_USE] === 'true';
  return functionRefusals(machine, addresses, wall)
    .filter(({ check }) => !(allowed && check === 'host-uses-it'))
    .map((refusal) =>
      refusal.check === 'host-uses-it'
        ? { ...refusal, fix: `${refusal.fix}, or set the annotation ${ALLOW_HOST_USE}=true to go on` }
        : refusal,
    );
}

function functionRefusals(machine: Machine, addresses: readonly string[], wall: WallName): Refusal[] {
  return addresses.flatMap((address): Refusal[] => {
    const pci = machine.pci.find((each) => each.address === address);
    if (pci === undefined) {
      return [
        {
          check: 'no-such-function',
          sentence: `PCI function ${address}: not on this host`,
          fix: 'see what there is with: bulkhead devices',
        },
      ];
    }
    if (isBridge(pci)) {
      return [
        {
          check: 'bridge',
          sentence: `PCI function ${address}: a bridge cannot be given away`,
          fix: 'see what can with: bulkhead devices',
        },
      ];
    }
    const device = vfioDevice(machine, pci);
    const companions = device.companions.filter((other) => !addresses.includes(other.address));
    const own = runChecks(vfioChecks, { ...device, companions }, machine, wall);
    return [...own, ...driverInUse(machine, address)];
  });
}

/** What speaks against nodes of a configuration whose maker has bound their functions: others' claims on these. */
export function refusedNodes(machine: Machine, nodes: readonly LinuxDevice[]): Refusal[] {
  const paths = nodes.map(({ path }) => path);
  return machine.pci.flatMap((pci): Refusal[] => {
    const { group = '', device = '' } = vfioNodesOf(machine.host, pci.address);
    const path = [device, group].find((each) => paths.includes(each));
    if (path === undefined) return [];
    const refusal = claimRefusal(machine, vfioDevice(machine, pci), `${subjectOf(pci)}: cannot pass ${path}`);
    return refusal === undefined ? [] : [{ check: 'claimed', ...refusal }];
  });
}
