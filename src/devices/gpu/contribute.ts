/**
 * CDI specs of the host's GPUs: what `bulkhead devices cdi generate` writes. Pure but for looking files up in the tree
 * that it is given.
 *
 * What NVIDIA's toolkit does by hooks when a container is created (links, loader cache) is done by mounts here: each
 * library is mounted under its own name and under the names that the host has links for, so nothing has to run in the
 * container. That serves images whose loader searches the same directories.
 */
import type { CdiDevice, CdiMount, CdiSpec, ContainerEdits, DeviceNode } from '../cdi/types.ts';
import { minimumVersion } from '../cdi/version.ts';
import type { HostTree } from '../host_tree.ts';
import type { NvidiaGpu } from './nvidia.ts';
import { nvidiaFiles } from './nvidia_files.ts';
import type { GpuDevice, GpuFacts } from './probe.ts';

const LIBRARY_OPTIONS = ['ro', 'nosuid', 'nodev', 'rbind', 'rprivate'];
const SOCKET_OPTIONS = ['ro', 'nosuid', 'nodev', 'noexec', 'rbind', 'rprivate'];

/** The kinds of CDI devices that this host's GPUs make, with their specs. Empty when no driver of the host has one. */
export function gpuSpecs(facts: GpuFacts, host: HostTree): CdiSpec[] {
  return [nvidiaSpec(facts, host), drmSpec(facts, 'amd', host), drmSpec(facts, 'intel', host)].filter(
    (spec) => spec !== undefined,
  );
}

/**
 * nvidia.com/gpu: devices by index and UUID, and "all". MIG instances are INDEX:INDEX and their UUID where NVML tells, else
 * INDEX:POSITION.
 */
export function nvidiaSpec(facts: GpuFacts, host: HostTree): CdiSpec | undefined {
  const gpus = facts.devices.filter(({ nvidia }) => nvidia !== undefined);
  if (facts.nvidia === undefined || gpus.length === 0) return undefined;
  const devices = gpus.flatMap((gpu, index) => nvidiaDevices(gpu, gpu.nvidia as NvidiaGpu, index, host));
  const everything = devices.flatMap(({ containerEdits }) => containerEdits.deviceNodes ?? []);
  const all: CdiDevice = { name: 'all', containerEdits: { deviceNodes: unique(everything) } };
  return versioned({
    cdiVersion: '',
    kind: 'nvidia.com/gpu',
    devices: [...devices, all],
    containerEdits: nvidiaCommon(facts.nvidia.version, host),
  });
}

/** A GPU that is partitioned is handed out in its parts only. */
function nvidiaDevices(gpu: GpuDevice, facts: NvidiaGpu, index: number, host: HostTree): CdiDevice[] {
  const own = present(host, [`/dev/nvidia${facts.minor}`]);
  if (facts.mig.length > 0) {
    return facts.mig.flatMap((mig, position) => {
      const caps = mig.caps.map((cap) => `/dev/nvidia-caps/nvidia-cap${cap}`);
      const containerEdits = { deviceNodes: [...own, ...present(host, caps)] };
      const names = [`${index}:${mig.index ?? position}`, ...(mig.uuid === undefined ? [] : [mig.uuid])];
      return names.map((name) => ({ name, containerEdits }));
    });
  }
  const containerEdits = { deviceNodes: [...own, ...present(host, gpu.drmNodes)] };
  const names = [String(index), ...(facts.uuid === '' ? [] : [facts.uuid])];
  return own.length === 0 ? [] : names.map((name) => ({ name, containerEdits }));
}

const sharedNodes = ['/dev/nvidiactl', '/dev/nvidia-modeset', '/dev/nvidia-uvm', '/dev/nvidia-uvm-tools'];

function nvidiaCommon(version: string, host: HostTree): ContainerEdits {
  const { libraries, links, programs, firmware, others, sockets } = nvidiaFiles(host, version);
  const same = (path: string, options: string[]): CdiMount => ({
    hostPath: path,
    containerPath: path,
    options,
  });
  return {
    // Images set it to "all" for the toolkit's hook; "void" keeps that from adding what CDI has added already.
    env: ['NVIDIA_VISIBLE_DEVICES=void'],
    deviceNodes: present(host, sharedNodes),
    mounts: [
      ...libraries.map((path) => same(path, LIBRARY_OPTIONS)),
      ...links.map(({ path, library }) => ({
        hostPath: library,
        containerPath: path,
        options: LIBRARY_OPTIONS,
      })),
      ...programs.map((path) => same(path, LIBRARY_OPTIONS)),
      ...firmware.map((path) => same(path, LIBRARY_OPTIONS)),
      ...others.map((path) => same(path, LIBRARY_OPTIONS)),
      ...sockets.map((path) => same(path, SOCKET_OPTIONS)),
    ],
  };
}

/** amd.com/gpu and intel.com/gpu: the nodes of the direct rendering manager, and AMD's one for computing. */
function drmSpec({ devices }: GpuFacts, vendor: 'amd' | 'intel', host: HostTree): CdiSpec | undefined {
  const gpus = devices.filter((gpu) => gpu.vendor === vendor && gpu.shared && gpu.drmNodes.length > 0);
  if (gpus.length === 0) return undefined;
  const named = gpus.map((gpu, index): CdiDevice => ({
    name: String(index),
    containerEdits: withGroups(gpu.drmNodes, host),
  }));
  const nodes = gpus.flatMap((gpu) => gpu.drmNodes);
  const compute = vendor === 'amd' ? present(host, ['/dev/kfd']).map(({ path }) => path) : [];
  return versioned({
    cdiVersion: '',
    kind: `${vendor}.com/gpu`,
    devices: [...named, { name: 'all', containerEdits: withGroups(nodes, host) }],
    ...(compute.length > 0 ? { containerEdits: withGroups(compute, host) } : {}),
  });
}

/**
 * Nodes with the groups that the host gives them (video, render), for programs that are not root. By number: a container
 * has its own names for them.
 */
function withGroups(paths: readonly string[], host: HostTree): ContainerEdits {
  const groups = new Set(paths.map((path) => host.node(path)?.gid ?? 0).filter((gid) => gid !== 0));
  return {
    deviceNodes: paths.map((path) => ({ path })),
    ...(groups.size === 0 ? {} : { additionalGids: [...groups].sort((a, b) => a - b) }),
  };
}

/** Any reader of the oldest version that fits can use the spec. */
function versioned(spec: CdiSpec): CdiSpec {
  return { ...spec, cdiVersion: minimumVersion(spec) };
}

function present(host: HostTree, paths: readonly string[]): DeviceNode[] {
  return paths.filter((path) => host.node(path) !== undefined).map((path) => ({ path }));
}

function unique(nodes: readonly DeviceNode[]): DeviceNode[] {
  return [...new Map(nodes.map((node) => [node.path, node])).values()];
}
