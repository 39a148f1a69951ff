/** Metrics of a container in the JSON of `runc events` (sizes in bytes, times in nanoseconds). */
import type { MetricsV1, MetricsV2 } from '../cgroups/index.ts';
import type { ContainerMetrics } from '../metrics/index.ts';

type Count = number | null | undefined;
interface MemoryUse {
  limit?: Count;
  usage?: Count;
  max?: Count;
  failcnt?: Count;
}
interface BlkioEntry {
  major?: Count;
  minor?: Count;
  op?: string | null;
  value?: Count;
}

export function statsJson(metrics: ContainerMetrics): unknown {
  return metrics.version === 1 ? statsV1(metrics.metrics) : statsV2(metrics.metrics);
}

function statsV1({ cpu, memory, pids, blkio, hugetlb }: MetricsV1): unknown {
  return {
    cpu: {
      usage: {
        total: cpu?.usage?.total ?? 0,
        percpu: cpu?.usage?.perCpu ?? [],
        kernel: cpu?.usage?.kernel ?? 0,
        user: cpu?.usage?.user ?? 0,
      },
      throttling: throttling(
        cpu?.throttling?.periods,
        cpu?.throttling?.throttledPeriods,
        cpu?.throttling?.throttledTime,
      ),
    },
    memory: {
      cache: memory?.cache ?? 0,
      usage: memoryUse(memory?.usage),
      swap: memoryUse(memory?.swap),
      kernel: memoryUse(memory?.kernel),
      kernelTCP: memoryUse(memory?.kernelTcp),
      raw: counters(memory ?? {}),
    },
    pids: { current: pids?.current ?? 0, limit: pids?.limit ?? 0 },
    blkio: {
      ioServiceBytesRecursive: blkioEntries(blkio?.ioServiceBytesRecursive),
      ioServicedRecursive: blkioEntries(blkio?.ioServicedRecursive),
      ioQueueRecursive: blkioEntries(blkio?.ioQueuedRecursive),
      ioServiceTimeRecursive: blkioEntries(blkio?.ioServiceTimeRecursive),
      ioWaitTimeRecursive: blkioEntries(blkio?.ioWaitTimeRecursive),
      ioMergedRecursive: blkioEntries(blkio?.ioMergedRecursive),
      ioTimeRecursive: blkioEntries(blkio?.ioTimeRecursive),
      sectorsRecursive: blkioEntries(blkio?.sectorsRecursive),
    },
    hugetlb: Object.fromEntries((hugetlb ?? []).map((entry) => [entry.pagesize ?? '', memoryUse(entry)])),
  };
}

function statsV2({ cpu, memory, pids, io, hugetlb }: MetricsV2): unknown {
  const entries = (io?.usage ?? []).flatMap(({ major, minor, rbytes, wbytes }): BlkioEntry[] => [
    { major, minor, op: 'Read', value: rbytes },
    { major, minor, op: 'Write', value: wbytes },
  ]);
  const nanoseconds = (microseconds: Count): number => (microseconds ?? 0) * 1000;
  return {
    cpu: {
      usage: {
        total: nanoseconds(cpu?.usageUsec),
        kernel: nanoseconds(cpu?.systemUsec),
        user: nanoseconds(cpu?.userUsec),
      },
      throttling: throttling(cpu?.nrPeriods, cpu?.nrThrottled, nanoseconds(cpu?.throttledUsec)),
    },
    memory: {
      cache: memory?.file ?? 0,
      usage: memoryUse({ limit: memory?.usageLimit, usage: memory?.usage, max: memory?.maxUsage }),
      swap: memoryUse({ limit: memory?.swapLimit, usage: memory?.swapUsage, max: memory?.swapMaxUsage }),
      raw: counters(memory ?? {}),
    },
    pids: { current: pids?.current ?? 0, limit: pids?.limit ?? 0 },
    blkio: { ioServiceBytesRecursive: blkioEntries(entries) },
    hugetlb: Object.fromEntries(
      (hugetlb ?? []).map(({ pagesize, current, max }) => [
        pagesize ?? '',
        { usage: current ?? 0, max: max ?? 0 },
      ]),
    ),
  };
}

function throttling(periods: Count, throttledPeriods: Count, throttledTime: Count): unknown {
  return {
    periods: periods ?? 0,
    throttledPeriods: throttledPeriods ?? 0,
    throttledTime: throttledTime ?? 0,
  };
}

function memoryUse(use: MemoryUse | null | undefined): unknown {
  return { limit: use?.limit ?? 0, usage: use?.usage ?? 0, max: use?.max ?? 0, failcnt: use?.failcnt ?? 0 };
}

function blkioEntries(entries: readonly BlkioEntry[] | null | undefined): unknown {
  return (entries ?? []).map(({ major, minor, op, value }) => ({
    major: major ?? 0,
    minor: minor ?? 0,
    ...(op ? { op } : {}),
    value: value ?? 0,
  }));
}

/** Plain counters by the kernel's names: rssHuge is rss_huge. */
function counters(object: object): Record<string, number> {
  const entries = Object.entries(object).filter(
    (entry): entry is [string, number] => typeof entry[1] === 'number',
  );
  return Object.fromEntries(
    entries.map(([name, value]) => [name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]),
  );
}
