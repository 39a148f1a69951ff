/** The checks of functions that go behind a wall together, before anything on the host is changed. */
import type { Machine, Refusal, WallName } from '../model.ts';
import { runChecks } from '../model.ts';
import { isBridge } from '../pci.ts';
import { vfioChecks } from './checks.ts';
import { vfioDevice } from './probe.ts';

/** Every reason against it, of all functions. Functions of one group that go together do not stand in each other's way. */
export function preflightVfio(machine: Machine, addresses: readonly string[], wall: WallName): Refusal[] {
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
      return [{ check: 'bridge', sentence: `PCI function ${address}: a bridge cannot be given away` }];
    }
    const device = vfioDevice(machine, pci);
    const companions = device.companions.filter((other) => !addresses.includes(other.address));
    return runChecks(vfioChecks, { ...device, companions }, machine, wall);
  });
}
