/** A container behind Kata's agent. */
import type { CgroupMode } from '../../../cgroups/index.ts';
import { encodeMetrics } from '../../../metrics/index.ts';
import { metricsV1Of } from '../metrics_v1.ts';
import type { GuestContainer } from '../pod_agent.ts';
import { guestResources } from '../spec.ts';
import type { CallScope, MethodName, RequestOf, ResponseOf } from './rpc.ts';
import { kataResources } from './spec.ts';
import { kataMetrics } from './stats.ts';

const SIGKILL = 9;

export interface KataContainerDeps {
  /** That the host knows its processes by. */
  pid: number;
  call: <N extends MethodName>(name: N, request: RequestOf<N>, scope: CallScope) => Promise<ResponseOf<N>>;
  remove: () => Promise<void>;
  warn: (message: string) => void;
  watchOom: (onOom: () => void) => () => void;
}

export function kataContainer(id: string, deps: KataContainerDeps): GuestContainer {
  const { call, warn } = deps;
  const containerId = id;
  const metrics = async (mode: CgroupMode): Promise<ReturnType<typeof encodeMetrics>> => {
    const { cgroupStats } = await call('StatsContainer', { containerId }, { op: 'stats', id });
    const found = kataMetrics(cgroupStats ?? {});
    return encodeMetrics(
      mode === 'v2' ? { version: 2, metrics: found } : { version: 1, metrics: metricsV1Of(found) },
    );
  };
  return {
    freeze: async () => void (await call('PauseContainer', { containerId }, { op: 'pause', id })),
    thaw: async () => void (await call('ResumeContainer', { containerId }, { op: 'resume', id })),
    kill: async () => {
      // No exec id: every process of its cgroup.
      await call('SignalProcess', { containerId, execId: '', signal: SIGKILL }, { op: 'kill', id });
    },
    update: async (resources) => {
      const limits = kataResources('update', id, guestResources(resources), warn);
      await call('UpdateContainer', { containerId, resources: limits }, { op: 'update', id });
    },
    stats: metrics,
    // The agent tells of none.
    pids: () => Promise.resolve([deps.pid]),
    remove: deps.remove,
    watchOom: deps.watchOom,
  };
}
