/** A container in its guest, by the files of its cgroup there: what the host's backends do with theirs. */
import {
  metricsFilesV2,
  readMetricsV2,
  resourceSettings,
  restoringValue,
  type CgroupMode,
} from '../../cgroups/index.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { encodeMetrics, type Any } from '../../metrics/index.ts';
import type { LinuxResources } from '../../oci/types.ts';
import type { GuestAgent } from './agent.ts';
import { guestCgroup, guestLayout } from './layout.ts';
import { metricsV1Of } from './metrics_v1.ts';
import type { GuestContainer } from './pod_agent.ts';
import { guestResources } from './spec.ts';

/** @param warn gets what an update asks for and cannot be had in the guest */
export function guestContainer(
  id: string,
  agent: GuestAgent,
  warn: (message: string) => void,
): GuestContainer {
  const cgroup = guestCgroup(id);
  const write = (op: string, file: string, value: string, optional = false): Promise<void> =>
    agent.writeFiles(op, id, [{ path: `${cgroup}/${file}`, data: Buffer.from(value), optional }]);
  return {
    freeze: async () => {
      await write('pause', 'cgroup.freeze', '1');
      await agent
        .awaitFile('pause', id, `${cgroup}/cgroup.events`, 'frozen 1')
        .catch(async (error: unknown) => {
          await write('pause', 'cgroup.freeze', '0', true);
          throw error;
        });
    },
    thaw: () => write('resume', 'cgroup.freeze', '0'),
    // It ends frozen processes too.
    kill: () => write('kill', 'cgroup.kill', '1', true),
    update: (resources) => update(id, cgroup, agent, resources, warn),
    stats: (mode) => stats(id, cgroup, agent, mode),
    pids: async () => (await pidsBelow(id, agent, cgroup)).sort((a, b) => a - b),
    // So that the mounts that its files are end, and not only their names.
    remove: async (shares) => {
      const unmounted = shares.map((path) => agent.unmount(id, path).catch(() => {}));
      await Promise.all([agent.remove(id, [cgroup]), ...unmounted]);
    },
    watchOom: (onOom) => agent.watchOom(id, cgroup, onOom),
  };
}

/** As on the host: a write that is refused is tried again after the others, and in the end all that was written is put back. */
async function update(
  id: string,
  cgroup: string,
  agent: GuestAgent,
  resources: LinuxResources,
  warn: (message: string) => void,
): Promise<void> {
  let pending = resourceSettings(guestResources(resources), { op: 'update', id, layout: guestLayout, warn });
  const paths = pending.map(({ file }) => `${cgroup}/${file}`);
  const present =
    pending.length === 0 ? new Map<string, string>() : await agent.readFiles('update', id, paths);
  const written: { path: string; data: Buffer }[] = [];
  while (pending.length > 0) {
    const refused: { setting: (typeof pending)[number]; error: unknown }[] = [];
    for (const setting of pending) {
      const optional = (setting.ignore ?? []).length > 0;
      const path = `${cgroup}/${setting.file}`;
      const before = restoringValue(setting.file, setting.value, present.get(path) ?? '');
      try {
        await agent.writeFiles('update', id, [{ path, data: Buffer.from(setting.value), optional }]);
        if (before !== undefined && present.has(path)) written.unshift({ path, data: Buffer.from(before) });
      } catch (error) {
        refused.push({ setting, error });
      }
    }
    if (refused.length === pending.length) {
      for (const file of written) {
        await agent.writeFiles('update', id, [file]).catch(() => warn(`${file.path} could not be put back`));
      }
      throw refused[0]?.error;
    }
    pending = refused.map(({ setting }) => setting);
  }
}

async function stats(id: string, cgroup: string, agent: GuestAgent, mode: CgroupMode): Promise<Any> {
  const paths = metricsFilesV2.map((name) => `${cgroup}/${name}`);
  const files = await agent.readFiles('stats', id, paths);
  if (files.size === 0) {
    const reason = 'the container has no cgroup any more';
    throw new RuntimeError({ code: ErrorCode.NotFound, op: 'stats', id, object: `guest ${cgroup}`, reason });
  }
  const metrics = readMetricsV2(cgroup, (path) => files.get(path));
  return encodeMetrics(
    mode === 'v2' ? { version: 2, metrics } : { version: 1, metrics: metricsV1Of(metrics) },
  );
}

/** The directory's own processes and those of cgroups that the container has made in it. */
async function pidsBelow(id: string, agent: GuestAgent, directory: string): Promise<number[]> {
  const procs = `${directory}/cgroup.procs`;
  const files = await agent.readFiles('pids', id, [procs, directory]);
  const own = (files.get(procs) ?? '').split('\n').map(Number);
  const names = (files.get(directory) ?? '').split('\n').filter((name) => name.endsWith('/'));
  const below = await Promise.all(
    names.map((name) => pidsBelow(id, agent, `${directory}/${name.slice(0, -1)}`)),
  );
  return [...own.filter((pid) => pid > 0), ...below.flat()];
}
