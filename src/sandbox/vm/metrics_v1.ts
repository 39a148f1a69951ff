/** Metrics of the unified hierarchy in cgroup v1's terms, for hosts whose tools read those. */
import type { MetricsV1, MetricsV2 } from '../../cgroups/index.ts';

/** What v1 says for "no limit". */
const UNLIMITED_V1 = 0x7ffffffffffff000;
const NS_PER_US = 1000;

/** Sizes in bytes, times in nanoseconds; what v1 alone counts is left out. */
export function metricsV1Of({ pids, cpu, memory, memoryEvents }: MetricsV2): MetricsV1 {
  const ns = (us: number | null | undefined): number => (us ?? 0) * NS_PER_US;
  const limit = (value: number | null | undefined): number =>
    value === undefined || value === null || value >= UNLIMITED_V1 ? UNLIMITED_V1 : value;
  return {
    pids: { current: pids?.current ?? 0, limit: limit(pids?.limit) >= UNLIMITED_V1 ? 0 : (pids?.limit ?? 0) },
    cpu: {
      usage: { total: ns(cpu?.usageUsec), user: ns(cpu?.userUsec), kernel: ns(cpu?.systemUsec), perCpu: [] },
      throttling: {
        periods: cpu?.nrPeriods ?? 0,
        throttledPeriods: cpu?.nrThrottled ?? 0,
        throttledTime: ns(cpu?.throttledUsec),
      },
    },
    memory: {
      cache: memory?.file ?? 0,
      rss: memory?.anon ?? 0,
      rssHuge: memory?.anonThp ?? 0,
      mappedFile: memory?.fileMapped ?? 0,
      dirty: memory?.fileDirty ?? 0,
      writeback: memory?.fileWriteback ?? 0,
      pgFault: memory?.pgfault ?? 0,
      pgMajFault: memory?.pgmajfault ?? 0,
      inactiveAnon: memory?.inactiveAnon ?? 0,
      activeAnon: memory?.activeAnon ?? 0,
      inactiveFile: memory?.inactiveFile ?? 0,
      activeFile: memory?.activeFile ?? 0,
      unevictable: memory?.unevictable ?? 0,
      hierarchicalMemoryLimit: limit(memory?.usageLimit),
      totalCache: memory?.file ?? 0,
      totalRss: memory?.anon ?? 0,
      totalInactiveFile: memory?.inactiveFile ?? 0,
      totalActiveFile: memory?.activeFile ?? 0,
      totalInactiveAnon: memory?.inactiveAnon ?? 0,
      totalActiveAnon: memory?.activeAnon ?? 0,
      totalPgFault: memory?.pgfault ?? 0,
      totalPgMajFault: memory?.pgmajfault ?? 0,
      usage: {
        usage: memory?.usage ?? 0,
        limit: limit(memory?.usageLimit),
        max: memory?.maxUsage ?? 0,
        failcnt: memoryEvents?.max ?? 0,
      },
      swap: {},
      kernel: {},
      kernelTcp: {},
    },
    memoryOomControl: { oomKillDisable: 0, underOom: 0, oomKill: memoryEvents?.oomKill ?? 0 },
    blkio: {},
  };
}
