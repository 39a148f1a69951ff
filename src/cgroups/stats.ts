/** Metrics of a container, in the kind that the host's cgroups give. */
import { existsSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { hostRoots, type HostRoots } from './host.ts';
import type { CgroupView } from './path.ts';
import { processDirectory } from './pids.ts';
import { readMetricsV1, type MetricsV1 } from './stats_v1.ts';
import { readMetricsV2, type MetricsV2 } from './stats_v2.ts';

/** Metrics of one container, by the kind of cgroups they were read from. */
export type ContainerMetrics = { version: 1; metrics: MetricsV1 } | { version: 2; metrics: MetricsV2 };

/** One pass over the container's files, at once. NotFound when its cgroups are gone. */
export function readMetrics(view: CgroupView, id: string, roots: HostRoots = hostRoots): ContainerMetrics {
  const directory = processDirectory(view);
  if (directory === undefined || !existsSync(directory)) {
    throw new RuntimeError({
      code: ErrorCode.NotFound,
      op: 'stats',
      id,
      object: directory === undefined ? undefined : `cgroup ${directory}`,
      reason: 'the container has no cgroup any more',
      path: directory,
    });
  }
  return view.mode === 'v2' && view.unified !== undefined
    ? { version: 2, metrics: readMetricsV2(view.unified.path) }
    : { version: 1, metrics: readMetricsV1(view, roots) };
}
