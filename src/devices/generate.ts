/** CDI specs of everything on this host that a container can be given: what `bulkhead devices cdi generate` writes. */
import type { CdiSpec } from './cdi/types.ts';
import { minimumVersion } from './cdi/version.ts';
import { gpuSpecs } from './gpu/contribute.ts';
import { probeGpus } from './gpu/probe.ts';
import { runChecks, type Machine } from './model.ts';
import { contributePmem } from './pmem/contribute.ts';
import { probePmem } from './pmem/probe.ts';
import { vfioChecks } from './vfio/checks.ts';
import { contributeVfio } from './vfio/contribute.ts';
import { probeVfio } from './vfio/probe.ts';
import { VFIO_DRIVER, VFIO_KIND, vfioNodesOf } from './vfio/request.ts';

/**
 * One spec a kind: GPUs under their maker's (nvidia.com/gpu), persistent memory as bulkhead.io/pmem=namespace0.0,
 * functions that are bound to vfio-pci as bulkhead.io/vfio=0000:41:00.0. Kinds without a device are left out.
 */
export function generateSpecs(machine: Machine): CdiSpec[] {
  return [...gpuSpecs(probeGpus(machine), machine.host), pmemSpec(machine), vfioSpec(machine)].filter(
    (spec) => spec !== undefined,
  );
}

function pmemSpec(machine: Machine): CdiSpec | undefined {
  const devices = probePmem(machine).flatMap((device) => {
    const containerEdits = contributePmem(device, `/pmem/${device.id}`);
    return containerEdits === undefined ? [] : [{ name: device.id, containerEdits }];
  });
  return specOf('bulkhead.io/pmem', devices);
}

function vfioSpec(machine: Machine): CdiSpec | undefined {
  const devices = probeVfio(machine)
    .filter(({ pci }) => pci.driver === VFIO_DRIVER)
    .filter((device) => runChecks(vfioChecks, device, machine, 'namespace').length === 0)
    .map(({ pci }) => ({
      name: pci.address,
      containerEdits: contributeVfio([vfioNodesOf(machine.host, pci.address)]).edits,
    }))
    .filter(({ containerEdits }) => containerEdits.deviceNodes !== undefined);
  return specOf(VFIO_KIND, devices);
}

function specOf(kind: string, devices: CdiSpec['devices']): CdiSpec | undefined {
  if (devices.length === 0) return undefined;
  const spec: CdiSpec = { cdiVersion: '', kind, devices };
  return { ...spec, cdiVersion: minimumVersion(spec) };
}
