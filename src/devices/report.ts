/** What this node can pass to which wall, and why not: one row a device, made of probes and checks. */
import type { CdiRegistry } from './cdi/registry.ts';
import { gpuSharingChecks, gpuVmChecks, type GpuSubject } from './gpu/checks.ts';
import { TOPOLOGY } from './gpu/nvml/facts.ts';
import { probeGpus } from './gpu/probe.ts';
import { formatSize, runChecks, wallNames, type Machine, type Refusal, type WallName } from './model.ts';
import { className, isGpu, isNvSwitch } from './pci.ts';
import { pmemChecks } from './pmem/checks.ts';
import { probePmem, type PmemDevice } from './pmem/probe.ts';
import { vfioChecks } from './vfio/checks.ts';
import { probeVfio, vfioDevice, type VfioDevice } from './vfio/probe.ts';

export interface Verdict {
  ok: boolean;
  /** How it goes: "shared by nvidia", "vfio", "DAX file system". Only when ok. */
  as?: string;
  why?: Refusal[];
}

export interface DeviceRow {
  kind: 'gpu' | 'pci' | 'pmem';
  id: string;
  name: string;
  driver?: string;
  iommuGroup?: number;
  numaNode?: number;
  /** What to know, without being a reason against it. */
  notes?: string[];
  walls: Record<WallName, Verdict>;
}

export interface DeviceReport {
  iommu: { on: boolean; interruptRemapping: 'on' | 'off' | 'unknown'; vfioPci: boolean; iommufd: boolean };
  nvidiaDriver?: string;
  /** Why MIG UUIDs and topology are missing, when they are. */
  nvmlUnavailable?: string;
  devices: DeviceRow[];
  cdi: CdiReport;
}

export interface CdiReport {
  /** Qualified names, sorted: "nvidia.com/gpu=0". */
  devices: string[];
  /** What is wrong with a spec file, by its path. */
  errors: Record<string, string[]>;
}

export interface ReportInput {
  machine: Machine;
  registry: CdiRegistry;
  /** Walls that this build has, and that take devices; the others are refused by name. */
  walls: readonly WallName[];
}

export function deviceReport(input: ReportInput): DeviceReport {
  const { machine, registry } = input;
  const facts = probeGpus(machine);
  const gpus = facts.devices.map((gpu) => gpuRow(input, { ...gpu, facts, specs: registry.files }));
  const others = probeVfio(machine)
    .filter(({ pci }) => !isGpu(pci) && !isNvSwitch(pci))
    .map((device) => pciRow(input, device));
  const { on, interruptRemapping, vfioPci, iommufd } = machine.iommu;
  return {
    iommu: { on, interruptRemapping, vfioPci, iommufd },
    ...(facts.nvidia === undefined ? {} : { nvidiaDriver: facts.nvidia.version }),
    ...(facts.nvmlUnavailable === undefined ? {} : { nvmlUnavailable: facts.nvmlUnavailable }),
    devices: [...gpus, ...others, ...probePmem(machine).map((device) => pmemRow(input, device))],
    cdi: cdiReport(registry),
  };
}

export function cdiReport({ names, errors }: CdiRegistry): CdiReport {
  return {
    devices: names,
    errors: Object.fromEntries([...errors].map(([path, faults]) => [path, [...faults]])),
  };
}

function verdicts(
  { walls }: ReportInput,
  look: (wall: WallName) => { as: string; why: Refusal[] },
): Record<WallName, Verdict> {
  const verdict = (wall: WallName): Verdict => {
    const { as, why } = look(wall);
    // The sentry wall's own check says the same of a wall that is there.
    const missing: Refusal[] =
      walls.includes(wall) || wall === 'sentry'
        ? []
        : [
            {
              check: 'wall-absent',
              sentence: `this build has no ${wall} wall that takes devices`,
              fix: `use the ${walls.join(' or ')} wall`,
            },
          ];
    const all = [...missing, ...why];
    return all.length === 0 ? { ok: true, as } : { ok: false, why: all };
  };
  return Object.fromEntries(wallNames.map((wall) => [wall, verdict(wall)])) as Record<WallName, Verdict>;
}

function pciFacts({ pci }: VfioDevice): Pick<DeviceRow, 'driver' | 'iommuGroup' | 'numaNode'> {
  return {
    ...(pci.driver === '' ? {} : { driver: pci.driver }),
    ...(pci.group === undefined ? {} : { iommuGroup: pci.group }),
    ...(pci.numaNode === undefined ? {} : { numaNode: pci.numaNode }),
  };
}

/** What holds for a virtual machine and is no reason against it. */
function vfioNotes({ pci, companions }: VfioDevice): string[] {
  const notes: string[] = [];
  const together = companions.filter(({ class: code }) => code >> 16 !== 0x06).map(({ address }) => address);
  if (together.length > 0) notes.push(`goes together with ${together.join(', ')} (IOMMU group ${pci.group})`);
  if (pci.resetMethods.length === 0) {
    notes.push('the kernel knows no way to reset it: the next user may find what the last one left');
  }
  if (pci.physicalFunction !== '') notes.push(`virtual function of ${pci.physicalFunction}`);
  if (pci.totalVirtualFunctions > 0) notes.push(`up to ${pci.totalVirtualFunctions} virtual functions`);
  return notes;
}

function gpuRow(input: ReportInput, gpu: GpuSubject): DeviceRow {
  const { machine } = input;
  const vfio = vfioDevice(machine, gpu.pci);
  const notes = [...gpuNotes(gpu, machine), ...vfioNotes(vfio)];
  const namespace = runChecks(gpuSharingChecks, gpu, machine, 'namespace');
  return {
    kind: 'gpu',
    id: gpu.pci.address,
    name: gpu.nvSwitch ? 'NVSwitch' : (gpu.nvidia?.model ?? `${gpu.vendor} ${className(gpu.pci)}`),
    ...pciFacts(vfio),
    ...(notes.length > 0 ? { notes } : {}),
    walls: verdicts(input, (wall) =>
      wall === 'namespace'
        ? { as: `shared by ${gpu.pci.driver}`, why: namespace }
        : {
            as: 'vfio',
            why: [
              ...runChecks(vfioChecks, vfio, machine, wall),
              ...runChecks(gpuVmChecks, gpu, machine, wall),
            ],
          },
    ),
  };
}

function gpuNotes({ nvidia, nvSwitch, facts, pci }: GpuSubject, machine: Machine): string[] {
  const notes: string[] = [];
  if (nvidia !== undefined && nvidia.mig.length > 0)
    notes.push(`partitioned by MIG into ${nvidia.mig.length}`);
  if (nvSwitch) notes.push('goes where its GPUs go, all of them together');
  else if (facts.devices.some((other) => other.nvSwitch)) notes.push('connected by NVSwitch');
  for (const { pair, level } of facts.nvidia?.links ?? []) {
    const other = pair.includes(pci.address) ? pair.find((address) => address !== pci.address) : undefined;
    if (other !== undefined) notes.push(`with ${other}: ${TOPOLOGY[level] ?? `level ${level}`}`);
  }
  if (pci.numaNode !== undefined && machine.numaNodes.length > 1) {
    notes.push(`CPUs and memory should be of NUMA node ${pci.numaNode}`);
  }
  return notes;
}

function pciRow(input: ReportInput, device: VfioDevice): DeviceRow {
  const { pci } = device;
  const notes = vfioNotes(device);
  return {
    kind: 'pci',
    id: pci.address,
    name: className(pci),
    ...pciFacts(device),
    ...(notes.length > 0 ? { notes } : {}),
    walls: verdicts(input, (wall) => ({
      as: 'vfio',
      why: runChecks(vfioChecks, device, input.machine, wall),
    })),
  };
}

const pmemAs: Readonly<Record<PmemDevice['mode'], string>> = {
  raw: 'block device without DAX',
  sector: 'block device without DAX',
  fsdax: 'block device',
  devdax: 'character device for mmap',
};

function pmemRow(input: ReportInput, device: PmemDevice): DeviceRow {
  const direct = device.mounts.find(({ dax }) => dax);
  const mounted = device.mounts.map(
    ({ path, type, dax }) => `mounted at ${path} (${type}${dax ? ', dax' : ''})`,
  );
  // What is there already is not looked at: reading a device that somebody stores to would mean nothing.
  const begins = `for a virtual machine it must have been prepared once: bulkhead devices pmem format --mode devdax ${device.node}`;
  const notes = device.mode === 'devdax' && device.node !== '' ? [...mounted, begins] : mounted;
  const as = (wall: WallName): string => {
    if (direct !== undefined)
      return wall === 'vm' ? `NVDIMM from a file in ${direct.path}` : `DAX file system ${direct.path}`;
    if (device.mounts.length > 0) return 'file system without DAX';
    if (wall === 'vm') return device.mode === 'devdax' ? `NVDIMM from ${device.node}` : 'disk';
    return pmemAs[device.mode];
  };
  return {
    kind: 'pmem',
    id: device.id,
    name: `${device.mode} ${formatSize(device.size)}${device.node === '' ? '' : ` ${device.node}`}`,
    ...(device.numaNode === undefined ? {} : { numaNode: device.numaNode }),
    ...(notes.length > 0 ? { notes } : {}),
    walls: verdicts(input, (wall) => ({
      as: as(wall),
      why: runChecks(pmemChecks, device, input.machine, wall),
    })),
  };
}
