/**
 * Where the memory and the processors of a machine with functions of the host are: its memory in huge pages, and on the
 * NUMA node of its devices; each vCPU on a processor of the pod's cpuset. Pure, but for the files of the host that it is
 * handed.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { HostTree } from '../../devices/host_tree.ts';
import { formatSize } from '../../devices/model.ts';
import { parseCpuList } from '../../oci/cpu_list.ts';
import type { Spec } from '../../oci/types.ts';
import type { Machine, MachineConfig, MemoryPlacement, PassedFunction } from './hypervisor/hypervisor.ts';

/** "2M", "1G": sizes of huge pages that x86-64 has; arm64 has others, named by the operator in the same way. */
export function hugePageBytes(name: string): number | undefined {
  const [, count = '', unit = ''] = /^([1-9]\d{0,3})([KMG])$/.exec(name) ?? [];
  const factor = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[unit];
  return factor === undefined ? undefined : Number(count) * factor;
}

/**
 * Where the memory of a machine with functions is: on their node, and in huge pages if the operator has set some aside.
 * @param warn told when devices, processors and memory are not together
 * @throws RuntimeError ResourceExhausted when there are too few huge pages
 */
export function placed(
  host: HostTree,
  { id, spec, functions, size, hugePage }: Wanted,
  warn: (reason: string) => void,
): MemoryPlacement | undefined {
  const placement = memoryPlacement(functions, hugePage);
  const bytes = size.memoryMib * 2 ** 20;
  const missing = placement === undefined ? undefined : hugePagesMissing(host, bytes, placement);
  if (missing !== undefined) {
    throw new RuntimeError({ code: ErrorCode.ResourceExhausted, op: 'create', id, ...missing });
  }
  const far = farApart(host, functions, spec.linux?.resources?.cpu ?? {});
  if (far !== undefined) warn(far);
  return placement;
}

export interface Wanted {
  id: string;
  spec: Spec;
  functions: readonly PassedFunction[];
  size: MachineConfig['size'];
  /** Bytes. */
  hugePage: number | undefined;
}

/** undefined: wherever the kernel puts it. Devices on several nodes bind it to none. */
export function memoryPlacement(
  functions: readonly PassedFunction[],
  hugePage: number | undefined,
): MemoryPlacement | undefined {
  const nodes = new Set(functions.flatMap(({ node }) => (node === undefined ? [] : [node])));
  const [node] = nodes.size === 1 ? nodes : [];
  if (hugePage === undefined && node === undefined) return undefined;
  return { hugePage, node };
}

/** Why the memory cannot be had in huge pages, with what would change that; undefined: it can. */
export function hugePagesMissing(
  host: HostTree,
  bytes: number,
  { hugePage, node }: MemoryPlacement,
): { object: string; reason: string; remedy: string } | undefined {
  if (hugePage === undefined) return undefined;
  const name = `hugepages-${hugePage / 1024}kB`;
  const sysfs =
    node === undefined
      ? `/sys/kernel/mm/hugepages/${name}`
      : `/sys/devices/system/node/node${node}/hugepages/${name}`;
  const object = `huge pages of ${formatSize(hugePage)}`;
  const wanted = Math.ceil(bytes / hugePage);
  const free = host.text(`${sysfs}/free_hugepages`);
  if (free === undefined) {
    return { object, reason: 'this kernel has none of that size', remedy: otherSizes(host) };
  }
  if (Number(free) >= wanted) return undefined;
  const where = node === undefined ? '' : ` on NUMA node ${node}`;
  return {
    object,
    reason: `${wanted} are needed${where} and ${free} are free`,
    // The file counts those in use too.
    remedy: `echo ${Number(host.text(`${sysfs}/nr_hugepages`) ?? 0) + wanted - Number(free)} > ${sysfs}/nr_hugepages`,
  };
}

function otherSizes(host: HostTree): string {
  const sizes = host
    .entries('/sys/kernel/mm/hugepages')
    .flatMap((entry) => Number(/^hugepages-(\d+)kB$/.exec(entry)?.[1] ?? NaN) || [])
    .sort((a, b) => a - b)
    .map((kib) =>
      kib % 2 ** 20 === 0 ? `"${kib / 2 ** 20}G"` : `"${kib % 1024 === 0 ? `${kib / 1024}M` : `${kib}K`}"`,
    );
  return sizes.length === 0
    ? 'remove vm.huge_pages: it has no huge pages at all'
    : `set vm.huge_pages to ${sizes.join(' or ')}`;
}

/** Processors for each vCPU: one of its own when there are enough, else all of them. Empty: no list, or a bad one. */
export function vcpuMasks(cpus: string | undefined, vcpus: number): Uint8Array[] {
  const all = cpus === undefined || cpus === '' ? undefined : parseCpuList(cpus);
  if (all === undefined) return [];
  const numbers = cpuNumbers(all);
  return Array.from({ length: vcpus }, (_, index) => {
    const own = numbers.length >= vcpus ? numbers[index] : undefined;
    return (own === undefined ? undefined : parseCpuList(String(own))) ?? all;
  });
}

/**
 * Whoever gives a pod devices and a cpuset of its own counts on each vCPU having a processor. Never rejects.
 * @param machine with the hypervisor's process: what it tells may be of a guest that has broken out, and only its own
 *   threads are pinned
 */
export async function pinVcpus(
  machine: Pick<Machine, 'vcpuThreads'> & { isOwnThread: (tid: number) => boolean },
  { functions = [], size }: Pick<MachineConfig, 'functions' | 'size'>,
  { linux }: Spec,
  setAffinity: (tid: number, mask: Uint8Array) => void,
  warn: (message: string, fields: Record<string, string>) => void,
): Promise<void> {
  const masks = functions.length === 0 ? [] : vcpuMasks(linux?.resources?.cpu?.cpus, size.vcpus);
  if (masks.length === 0) return;
  try {
    const threads = (await machine.vcpuThreads?.()) ?? [];
    const stranger = threads.find((tid) => !machine.isOwnThread(tid));
    if (stranger !== undefined) throw new Error(`thread ${stranger} is none of the hypervisor's`);
    threads.forEach((tid, index) => {
      const mask = masks[index];
      if (mask !== undefined) setAffinity(tid, mask);
    });
  } catch (error) {
    warn('vCPUs not pinned', { error: (error as Error).message });
  }
}

function cpuNumbers(mask: Uint8Array): number[] {
  return [...mask].flatMap((byte, at) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit) & 1).map((bit) => at * 8 + bit),
  );
}

/** What is worth saying when devices, processors and memory are not together; undefined: they are, or nothing tells. */
export function farApart(
  host: HostTree,
  functions: readonly PassedFunction[],
  { cpus = '', mems = '' }: { cpus?: string; mems?: string },
): string | undefined {
  const located = functions.filter(({ node }) => node !== undefined);
  const nodes = [...new Set(located.map(({ node }) => node ?? 0))].sort((a, b) => a - b);
  if (nodes.length === 0) return undefined;
  const faults: string[] = [];
  if (nodes.length > 1) faults.push(`its devices are on NUMA nodes ${nodes.join(', ')}`);
  const at = (which: string, list: readonly number[]): void => {
    const far = list.filter((node) => !nodes.includes(node));
    if (far.length > 0)
      faults.push(`${which} of NUMA node ${far.join(', ')}, its devices are on ${nodes.join(', ')}`);
  };
  at('it has processors', nodesOfCpus(host, cpus));
  const memory = mems === '' ? undefined : parseCpuList(mems);
  at('it may have memory', memory === undefined ? [] : cpuNumbers(memory));
  return faults.length === 0 ? undefined : faults.join('; ');
}

function nodesOfCpus(host: HostTree, cpus: string): number[] {
  const wanted = cpus === '' ? undefined : parseCpuList(cpus);
  if (wanted === undefined) return [];
  const numbers = new Set(cpuNumbers(wanted));
  return host.entries('/sys/devices/system/node').flatMap((name) => {
    if (!/^node\d+$/.test(name)) return [];
    const own = parseCpuList(host.text(`/sys/devices/system/node/${name}/cpulist`) ?? '');
    return own !== undefined && cpuNumbers(own).some((cpu) => numbers.has(cpu))
      ? [Number(name.slice(4))]
      : [];
  });
}
