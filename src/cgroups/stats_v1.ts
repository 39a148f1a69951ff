/**
 * Metrics of a container on v1 and hybrid hosts: every field that containerd's own shim fills
 * (containerd/cgroups cgroup1). A controller that is not mounted leaves its part out.
 */
import type { io } from '../gen/containerd.js';
import { readText } from './files.ts';
import { hostRoots, type HostRoots } from './host.ts';
import { hugePageSizes } from './hugepages.ts';
import { parseKeyed, readKeyed, readRdma, readValue, toCount } from './parse.ts';
import { controllerPath, type CgroupView } from './path.ts';

export type MetricsV1 = io.containerd.cgroups.v1.IMetrics;
type MemoryV1 = NonNullable<MetricsV1['memory']>;
type MemoryEntry = NonNullable<MemoryV1['usage']>;
type BlkioV1 = NonNullable<MetricsV1['blkio']>;
type BlkioEntry = NonNullable<BlkioV1['ioServicedRecursive']>[number];

/** Reads everything once; sizes in bytes, times in nanoseconds. */
export function readMetricsV1(view: CgroupView, roots: HostRoots = hostRoots): MetricsV1 {
  const metrics: MetricsV1 = { cpu: readCpu(view), hugetlb: readHugetlb(controllerPath(view, 'hugetlb')) };
  const pids = controllerPath(view, 'pids');
  if (pids !== undefined) metrics.pids = readPids(pids);
  const memory = controllerPath(view, 'memory');
  if (memory !== undefined) {
    metrics.memory = readMemory(memory);
    const oom = readKeyed(`${memory}/memory.oom_control`);
    metrics.memoryOomControl = {
      oomKillDisable: oom['oom_kill_disable'],
      underOom: oom['under_oom'],
      oomKill: oom['oom_kill'],
    };
  }
  const blkio = controllerPath(view, 'blkio');
  if (blkio !== undefined) metrics.blkio = readBlkio(blkio, roots);
  const rdma = controllerPath(view, 'rdma');
  if (rdma !== undefined) metrics.rdma = readRdma(rdma);
  return metrics;
}

/** sysconf(_SC_CLK_TCK) is 100 on every Linux; cpuacct.stat counts in it. */
const nanosecondsPerTick = 1e9 / 100;

function readCpu(view: CgroupView): NonNullable<MetricsV1['cpu']> {
  const cpu: NonNullable<MetricsV1['cpu']> = { usage: {}, throttling: {} };
  const accounting = controllerPath(view, 'cpuacct');
  if (accounting !== undefined) {
    const ticks = readKeyed(`${accounting}/cpuacct.stat`);
    cpu.usage = {
      total: readValue(`${accounting}/cpuacct.usage`),
      user: (ticks['user'] ?? 0) * nanosecondsPerTick,
      kernel: (ticks['system'] ?? 0) * nanosecondsPerTick,
      perCpu: (readText(`${accounting}/cpuacct.usage_percpu`) ?? '')
        .split(' ')
        .filter((word) => word.trim() !== '')
        .map(toCount),
    };
  }
  const scheduling = controllerPath(view, 'cpu');
  if (scheduling !== undefined) {
    const stat = readKeyed(`${scheduling}/cpu.stat`);
    cpu.throttling = {
      periods: stat['nr_periods'],
      throttledPeriods: stat['nr_throttled'],
      throttledTime: stat['throttled_time'],
    };
  }
  return cpu;
}

/** A limit of 0 is "max": cgroup v1's metrics have it so. */
function readPids(directory: string): NonNullable<MetricsV1['pids']> {
  return {
    current: readValue(`${directory}/pids.current`),
    limit: toCount((readText(`${directory}/pids.max`) ?? '').trim()),
  };
}

function readMemory(directory: string): MemoryV1 {
  const stat = parseKeyed(readText(`${directory}/memory.stat`) ?? '');
  return {
    cache: stat['cache'],
    rss: stat['rss'],
    rssHuge: stat['rss_huge'],
    mappedFile: stat['mapped_file'],
    dirty: stat['dirty'],
    writeback: stat['writeback'],
    pgPgIn: stat['pgpgin'],
    pgPgOut: stat['pgpgout'],
    pgFault: stat['pgfault'],
    pgMajFault: stat['pgmajfault'],
    inactiveAnon: stat['inactive_anon'],
    activeAnon: stat['active_anon'],
    inactiveFile: stat['inactive_file'],
    activeFile: stat['active_file'],
    unevictable: stat['unevictable'],
    hierarchicalMemoryLimit: stat['hierarchical_memory_limit'],
    hierarchicalSwapLimit: stat['hierarchical_memsw_limit'],
    totalCache: stat['total_cache'],
    totalRss: stat['total_rss'],
    totalRssHuge: stat['total_rss_huge'],
    totalMappedFile: stat['total_mapped_file'],
    totalDirty: stat['total_dirty'],
    totalWriteback: stat['total_writeback'],
    totalPgPgIn: stat['total_pgpgin'],
    totalPgPgOut: stat['total_pgpgout'],
    totalPgFault: stat['total_pgfault'],
    totalPgMajFault: stat['total_pgmajfault'],
    totalInactiveAnon: stat['total_inactive_anon'],
    totalActiveAnon: stat['total_active_anon'],
    totalInactiveFile: stat['total_inactive_file'],
    totalActiveFile: stat['total_active_file'],
    totalUnevictable: stat['total_unevictable'],
    usage: readMemoryEntry(`${directory}/memory`),
    swap: readMemoryEntry(`${directory}/memory.memsw`),
    kernel: readMemoryEntry(`${directory}/memory.kmem`),
    kernelTcp: readMemoryEntry(`${directory}/memory.kmem.tcp`),
  };
}

function readMemoryEntry(prefix: string): MemoryEntry {
  const usage = readText(`${prefix}.usage_in_bytes`);
  // No swap or kernel memory accounting: one look instead of four.
  if (usage === undefined) return {};
  return {
    usage: toCount(usage),
    max: readValue(`${prefix}.max_usage_in_bytes`),
    failcnt: readValue(`${prefix}.failcnt`),
    limit: readValue(`${prefix}.limit_in_bytes`),
  };
}

/** Throttle counters; CFQ's richer ones went with it in Linux 5.0. The recursive files came in the same version. */
function readBlkio(directory: string, roots: HostRoots): BlkioV1 {
  const bytes = readThrottle(directory, 'io_service_bytes');
  const operations = readThrottle(directory, 'io_serviced');
  if (bytes === '' && operations === '') return {};
  const names = deviceNames(readText(`${roots.proc}/partitions`) ?? '');
  return {
    ioServiceBytesRecursive: parseBlkio(bytes, names),
    ioServicedRecursive: parseBlkio(operations, names),
  };
}

function readThrottle(directory: string, name: string): string {
  const text =
    readText(`${directory}/blkio.throttle.${name}_recursive`) ??
    readText(`${directory}/blkio.throttle.${name}`);
  return text === undefined || text.trim() === 'Total 0' ? '' : text;
}

/** "8:0 Read 4096" lines; the last line, a total of all devices, has no device and is left out. */
export function parseBlkio(text: string, names: ReadonlyMap<string, string>): BlkioEntry[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(\d+):(\d+) (?:(\S+) )?(\d+)$/.exec(line);
    if (match === null) return [];
    const [, major = '', minor = '', op = '', value = ''] = match;
    const device = names.get(`${major}:${minor}`) ?? '';
    return [{ op, device, major: Number(major), minor: Number(minor), value: Number(value) }];
  });
}

/** /proc/partitions: "major minor blocks name". */
export function deviceNames(partitions: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const line of partitions.split('\n')) {
    const match = /^\s*(\d+)\s+(\d+)\s+\d+\s+(\S+)$/.exec(line);
    if (match !== null) names.set(`${match[1] ?? ''}:${match[2] ?? ''}`, `/dev/${match[3] ?? ''}`);
  }
  return names;
}

function readHugetlb(directory: string | undefined): NonNullable<MetricsV1['hugetlb']> {
  if (directory === undefined) return [];
  return hugePageSizes(directory, '.usage_in_bytes').map((pagesize) => ({
    pagesize,
    usage: readValue(`${directory}/hugetlb.${pagesize}.usage_in_bytes`),
    max: readValue(`${directory}/hugetlb.${pagesize}.max_usage_in_bytes`),
    failcnt: readValue(`${directory}/hugetlb.${pagesize}.failcnt`),
  }));
}
