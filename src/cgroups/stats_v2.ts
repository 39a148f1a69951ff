/** Metrics of a container in the unified hierarchy: every field that containerd's own shim fills (cgroup2). */
import type { io } from '../gen/containerd.js';
import { readText } from './files.ts';
import { hugePageSizes } from './hugepages.ts';
import { parseKeyed, readKeyed, readRdma, readValue, toCount, type Read } from './parse.ts';

export type MetricsV2 = io.containerd.cgroups.v2.IMetrics;
type PressureStats = NonNullable<NonNullable<MetricsV2['cpu']>['psi']>;
type IoEntry = NonNullable<NonNullable<MetricsV2['io']>['usage']>[number];

/** All files that `readMetricsV2` reads, those of huge pages apart. */
export const metricsFilesV2: readonly string[] = [
  ...['pids.current', 'pids.max', 'cpu.stat', 'io.stat', 'rdma.current', 'rdma.max'],
  ...['memory.stat', 'memory.current', 'memory.max', 'memory.peak', 'memory.events'],
  ...['memory.swap.current', 'memory.swap.max', 'memory.swap.peak'],
  ...['cpu.pressure', 'memory.pressure', 'io.pressure'],
];

/**
 * Reads everything once from the container's directory; sizes in bytes, times in microseconds. `read` is for files of
 * another kernel; then there are none of huge pages.
 */
export function readMetricsV2(directory: string, read: Read = readText): MetricsV2 {
  const sizes = read === readText ? hugePageSizes(directory, '.max') : [];
  const metrics: MetricsV2 = {
    pids: {
      current: readValue(`${directory}/pids.current`, read),
      limit: readValue(`${directory}/pids.max`, read),
    },
    cpu: readCpu(directory, read),
    memory: readMemory(directory, read),
    io: { usage: parseIo(read(`${directory}/io.stat`) ?? ''), psi: readPressure(directory, 'io', read) },
    hugetlb: sizes.map((pagesize) => ({
      pagesize,
      current: readValue(`${directory}/hugetlb.${pagesize}.current`),
      max: readValue(`${directory}/hugetlb.${pagesize}.max`),
      failcnt: readKeyed(`${directory}/hugetlb.${pagesize}.events`)['max'],
    })),
    rdma: readRdma(directory, read) ?? {},
  };
  const events = read(`${directory}/memory.events`);
  if (events !== undefined) {
    const counts = parseKeyed(events);
    metrics.memoryEvents = {
      low: counts['low'],
      high: counts['high'],
      max: counts['max'],
      oom: counts['oom'],
      oomKill: counts['oom_kill'],
      oomGroupKill: counts['oom_group_kill'],
    };
  }
  return metrics;
}

function readCpu(directory: string, read: Read): NonNullable<MetricsV2['cpu']> {
  const stat = readKeyed(`${directory}/cpu.stat`, read);
  return {
    usageUsec: stat['usage_usec'],
    userUsec: stat['user_usec'],
    systemUsec: stat['system_usec'],
    nrPeriods: stat['nr_periods'],
    nrThrottled: stat['nr_throttled'],
    throttledUsec: stat['throttled_usec'],
    nrBursts: stat['nr_bursts'],
    burstUsec: stat['burst_usec'],
    psi: readPressure(directory, 'cpu', read),
  };
}

function readMemory(directory: string, read: Read): NonNullable<MetricsV2['memory']> {
  const text = read(`${directory}/memory.stat`);
  // No memory controller in this cgroup.
  if (text === undefined) return {};
  const stat = parseKeyed(text);
  return {
    anon: stat['anon'],
    file: stat['file'],
    kernelStack: stat['kernel_stack'],
    slab: stat['slab'],
    sock: stat['sock'],
    shmem: stat['shmem'],
    fileMapped: stat['file_mapped'],
    fileDirty: stat['file_dirty'],
    fileWriteback: stat['file_writeback'],
    anonThp: stat['anon_thp'],
    inactiveAnon: stat['inactive_anon'],
    activeAnon: stat['active_anon'],
    inactiveFile: stat['inactive_file'],
    activeFile: stat['active_file'],
    unevictable: stat['unevictable'],
    slabReclaimable: stat['slab_reclaimable'],
    slabUnreclaimable: stat['slab_unreclaimable'],
    pgfault: stat['pgfault'],
    pgmajfault: stat['pgmajfault'],
    workingsetRefault: stat['workingset_refault'],
    workingsetActivate: stat['workingset_activate'],
    workingsetNodereclaim: stat['workingset_nodereclaim'],
    pgrefill: stat['pgrefill'],
    pgscan: stat['pgscan'],
    pgsteal: stat['pgsteal'],
    pgactivate: stat['pgactivate'],
    pgdeactivate: stat['pgdeactivate'],
    pglazyfree: stat['pglazyfree'],
    pglazyfreed: stat['pglazyfreed'],
    thpFaultAlloc: stat['thp_fault_alloc'],
    thpCollapseAlloc: stat['thp_collapse_alloc'],
    workingsetRefaultAnon: stat['workingset_refault_anon'],
    workingsetRefaultFile: stat['workingset_refault_file'],
    workingsetActivateAnon: stat['workingset_activate_anon'],
    workingsetActivateFile: stat['workingset_activate_file'],
    usage: readValue(`${directory}/memory.current`, read),
    usageLimit: readValue(`${directory}/memory.max`, read),
    maxUsage: readValue(`${directory}/memory.peak`, read),
    swapUsage: readValue(`${directory}/memory.swap.current`, read),
    swapLimit: readValue(`${directory}/memory.swap.max`, read),
    swapMaxUsage: readValue(`${directory}/memory.swap.peak`, read),
    psi: readPressure(directory, 'memory', read),
  };
}

/** "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …" lines. */
export function parseIo(text: string): IoEntry[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(\d+):(\d+) (.+)$/.exec(line);
    if (match === null) return [];
    const values: Record<string, number> = {};
    for (const pair of (match[3] ?? '').split(' ')) {
      const [key = '', value = ''] = pair.split('=');
      values[key] = toCount(value);
    }
    return [
      {
        major: Number(match[1]),
        minor: Number(match[2]),
        rbytes: values['rbytes'],
        wbytes: values['wbytes'],
        rios: values['rios'],
        wios: values['wios'],
      },
    ];
  });
}

/** Documentation/accounting/psi.rst. undefined without the file, or with PSI turned off (reading says EOPNOTSUPP). */
function readPressure(
  directory: string,
  resource: 'cpu' | 'memory' | 'io',
  read: Read,
): PressureStats | undefined {
  let text: string | undefined;
  try {
    text = read(`${directory}/${resource}.pressure`);
  } catch {
    return undefined;
  }
  return text === undefined ? undefined : parsePressure(text);
}

/** "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" lines: percentages, and microseconds. */
export function parsePressure(text: string): PressureStats {
  const stats: PressureStats = {};
  for (const line of text.split('\n')) {
    const match = /^(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)/.exec(line);
    if (match === null) continue;
    const [, kind, avg10, avg60, avg300, total] = match;
    const data = { avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300), total: Number(total) };
    if (kind === 'some') stats.some = data;
    else stats.full = data;
  }
  return stats;
}
