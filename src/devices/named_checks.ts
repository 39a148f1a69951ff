/**
 * Checks of devices that a container asks for by their CDI names, right before its start: what a spec file promises may
 * have ceased to be true since it was written.
 */
import type { FoundDevice } from './cdi/registry.ts';
import type { DeviceNode } from './cdi/types.ts';
import { gpuSharingChecks, staleSpec, staleSpecs } from './gpu/checks.ts';
import { probeNvidia } from './gpu/nvidia.ts';
import { probeGpus, type GpuDevice, type GpuFacts } from './gpu/probe.ts';
import type { HostTree } from './host_tree.ts';
import { readMachine } from './machine.ts';
import { isStuck, runChecks, type Refusal, type WallName } from './model.ts';
import { ALLOW_NONPERSISTENT, noMapSync } from './pmem/checks.ts';
import { subjectOf } from './vfio/checks.ts';

/** mmap(2), and open(2) with O_TMPFILE on file systems that cannot have DAX either. */
const notDurable = new Set(['EOPNOTSUPP', 'EINVAL', 'EISDIR']);
const PMEM_KIND = 'bulkhead.io/pmem';

export interface NamedChecks {
  host: HostTree;
  /** Directories of devices that did not answer. */
  stuck?: readonly string[] | undefined;
  /** Throws with `code` EOPNOTSUPP when stores to memory mapped from the path are not durable. */
  mapSync: (path: string) => void;
  annotations: Readonly<Record<string, string>>;
  wall: WallName;
}

/** The first reason against the devices; undefined: none. */
export function checkNamed(devices: readonly FoundDevice[], input: NamedChecks): Refusal | undefined {
  return staleDriver(devices, input) ?? notShared(devices, input) ?? notPersistent(devices, input);
}

/** Kinds of `bulkhead devices cdi generate` and of the makers' own programs, which agree on them. */
const gpuKinds: Readonly<Record<string, GpuDevice['vendor']>> = {
  'nvidia.com/gpu': 'nvidia',
  'amd.com/gpu': 'amd',
  'intel.com/gpu': 'intel',
};

/** Whether attributes of devices are looked at, not only files of the root file system. */
export function looksAtDevices(devices: readonly FoundDevice[]): boolean {
  return devices.some(({ file }) => gpuKinds[file.spec.kind] !== undefined);
}

/** What `bulkhead devices` says of the GPUs behind the nodes of the specs. */
function notShared(devices: readonly FoundDevice[], { host, stuck, wall }: NamedChecks): Refusal | undefined {
  const asked = devices.filter(({ file }) => gpuKinds[file.spec.kind] !== undefined);
  if (asked.length === 0) return undefined;
  const machine = { ...readMachine(host), stuck };
  const facts = probeGpus(machine);
  for (const { file, device } of asked) {
    const vendor = gpuKinds[file.spec.kind];
    const nodes = device.containerEdits.deviceNodes ?? [];
    const isUnnamed = (gpu: GpuDevice): boolean => isStuck(machine, gpu.pci.address);
    for (const gpu of gpusOf(nodes, facts, vendor, { missing: isMissing(host), isUnnamed })) {
      if (wall !== 'namespace') return wholeOnly(gpu, wall);
      const refusals = runChecks(gpuSharingChecks, { ...gpu, facts, specs: [file] }, machine, wall);
      // A spec may give the node's numbers: then the container's is made of these, wherever the host has its own.
      const [first] = refusals.filter(({ check }) => check !== 'node-missing' || nodes.some(isMissing(host)));
      if (first !== undefined) return first;
    }
  }
  return undefined;
}

const isMissing =
  (host: HostTree) =>
  ({ path, hostPath = '', type = '', major = 0 }: DeviceNode): boolean =>
    (type === '' || major === 0) && host.node(hostPath === '' ? path : hostPath) === undefined;

function wholeOnly({ pci }: GpuDevice, wall: WallName): Refusal {
  return {
    check: 'gpu-shared',
    sentence: `${subjectOf(pci)}: its driver is the host’s, which the ${wall} wall shares with no container`,
    fix: `use the namespace wall, or give the GPU away whole: --device bulkhead.io/vfio=${pci.address}`,
  };
}

/**
 * The GPUs that nodes belong to. A node that is missing and of none that the driver has stands for those that it does not
 * have: it was one of them when the spec was written. One that no GPU is known by may be of one that does not answer.
 */
function gpusOf(
  nodes: readonly DeviceNode[],
  { devices }: GpuFacts,
  vendor: GpuDevice['vendor'] | undefined,
  { missing, isUnnamed }: { missing: (node: DeviceNode) => boolean; isUnnamed: (gpu: GpuDevice) => boolean },
): GpuDevice[] {
  const own = devices.filter((gpu) => gpu.vendor === vendor && !gpu.nvSwitch);
  const nodesOf = (gpu: GpuDevice): string[] => [
    ...gpu.drmNodes,
    ...(gpu.nvidia === undefined ? [] : [`/dev/nvidia${gpu.nvidia.minor}`]),
  ];
  const known = new Set(own.flatMap(nodesOf));
  const wanted = nodes.filter(({ path }) => /^\/dev\/(?:nvidia|dri\/card|dri\/renderD)\d+$/.test(path));
  const paths = new Set(wanted.map(({ path }) => path));
  const others = wanted.filter(({ path }) => !known.has(path));
  return own.filter(
    (gpu) =>
      nodesOf(gpu).some((path) => paths.has(path)) ||
      (others.some(missing) && !gpu.shared) ||
      (others.length > 0 && isUnnamed(gpu)),
  );
}

function staleDriver(devices: readonly FoundDevice[], { host }: NamedChecks): Refusal | undefined {
  const files = [...new Set(devices.map(({ file }) => file))];
  if (!files.some(({ spec }) => spec.kind === 'nvidia.com/gpu')) return undefined;
  const loaded = probeNvidia(host)?.version;
  if (loaded === undefined) return undefined;
  const [stale] = staleSpecs(files, loaded);
  return stale === undefined ? undefined : { check: 'cdi-stale', ...staleSpec(stale, loaded) };
}

/** A file system is tried, not believed: mount options say dax where the file's own flags or the device do not. */
function notPersistent(
  devices: readonly FoundDevice[],
  { host, mapSync, annotations, wall }: NamedChecks,
): Refusal | undefined {
  if (annotations[ALLOW_NONPERSISTENT] === 'true') return undefined;
  const paths = devices
    .filter(({ file }) => file.spec.kind === PMEM_KIND)
    .flatMap(({ device }) => (device.containerEdits.mounts ?? []).map(({ hostPath }) => hostPath));
  const allow = `set the annotation ${ALLOW_NONPERSISTENT}=true to go on`;
  for (const path of paths) {
    if (wall === 'vm') return { check: 'map-sync', ...overVirtioFs(path, allow) };
    try {
      mapSync(path);
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      // Nothing else speaks of durability: a read-only file system takes no writes, a missing one fails the mount.
      if (!notDurable.has(code)) continue;
      const { sentence, fix } = noMapSync(host, path);
      return { check: 'map-sync', sentence, fix: `${fix}, or ${allow}` };
    }
  }
  return undefined;
}

/** A directory of the host is shared with a guest, and what is shared is not mapped. */
function overVirtioFs(path: string, allow: string): Omit<Refusal, 'check'> {
  return {
    sentence: `PMEM volume ${path}: MAP_SYNC not supported (a guest has a directory over virtio-fs, without DAX); writes would not be durable`,
    fix: `make a volume in it (bulkhead devices pmem format ${path}/VOLUME --size SIZE) and mount that with type ext4 and option dax, or ${allow}`,
  };
}
