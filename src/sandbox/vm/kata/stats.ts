/** What Kata's agent says of a container's cgroup, in the unified hierarchy's terms. Pure. */
import type { MetricsV2 } from '../../../cgroups/index.ts';
import type { bulkhead } from '../../../gen/kata.js';

type ICgroupStats = bulkhead.kata.v1.ICgroupStats;
type IBlkioEntry = bulkhead.kata.v1.IBlkioEntry;

const NS_PER_US = 1000;

/** Guests have either hierarchy: the keys of memory.stat are those of v2, or of v1. */
export function kataMetrics({ cpu, memory, pids, blkio }: ICgroupStats): MetricsV2 {
  const stat = memory?.stats ?? {};
  const first = (...names: string[]): number => {
    const name = names.find((each) => Object.hasOwn(stat, each));
    return name === undefined ? 0 : (stat[name] ?? 0);
  };
  const usec = (ns: number | null | undefined): number => Math.floor((ns ?? 0) / NS_PER_US);
  return {
    pids: { current: pids?.current ?? 0, limit: pids?.limit ?? 0 },
    cpu: {
      usageUsec: usec(cpu?.usage?.total),
      userUsec: usec(cpu?.usage?.user),
      systemUsec: usec(cpu?.usage?.kernel),
      nrPeriods: cpu?.throttling?.periods ?? 0,
      nrThrottled: cpu?.throttling?.throttledPeriods ?? 0,
      throttledUsec: usec(cpu?.throttling?.throttledTime),
    },
    memory: {
      anon: first('anon', 'total_rss', 'rss'),
      file: first('file', 'total_cache', 'cache'),
      fileMapped: first('file_mapped', 'total_mapped_file', 'mapped_file'),
      fileDirty: first('file_dirty', 'total_dirty', 'dirty'),
      fileWriteback: first('file_writeback', 'total_writeback', 'writeback'),
      anonThp: first('anon_thp', 'total_rss_huge', 'rss_huge'),
      inactiveAnon: first('inactive_anon'),
      activeAnon: first('active_anon'),
      inactiveFile: first('inactive_file'),
      activeFile: first('active_file'),
      unevictable: first('unevictable'),
      pgfault: first('pgfault'),
      pgmajfault: first('pgmajfault'),
      slab: first('slab'),
      kernelStack: first('kernel_stack'),
      usage: memory?.usage?.usage ?? 0,
      usageLimit: memory?.usage?.limit ?? 0,
      maxUsage: memory?.usage?.maxUsage ?? 0,
      swapUsage: memory?.swap?.usage ?? 0,
      swapLimit: memory?.swap?.limit ?? 0,
    },
    io: { usage: ioUsage(blkio?.bytes ?? [], blkio?.operations ?? []) },
  };
}

function ioUsage(
  bytes: readonly IBlkioEntry[],
  operations: readonly IBlkioEntry[],
): NonNullable<NonNullable<MetricsV2['io']>['usage']> {
  const found = new Map<
    string,
    { major: number; minor: number; rbytes: number; wbytes: number; rios: number; wios: number }
  >();
  const add = (entries: readonly IBlkioEntry[], read: 'rbytes' | 'rios', write: 'wbytes' | 'wios'): void => {
    for (const { major, minor, op, value } of entries) {
      const key = `${major ?? 0}:${minor ?? 0}`;
      const device = found.get(key) ?? {
        major: major ?? 0,
        minor: minor ?? 0,
        rbytes: 0,
        wbytes: 0,
        rios: 0,
        wios: 0,
      };
      found.set(key, device);
      const kind = (op ?? '').toLowerCase();
      if (kind === 'read' || kind === read) device[read] += value ?? 0;
      if (kind === 'write' || kind === write) device[write] += value ?? 0;
    }
  };
  add(bytes, 'rbytes', 'wbytes');
  add(operations, 'rios', 'wios');
  return [...found.values()];
}
