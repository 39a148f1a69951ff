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

/** Cgroups of a container that are looked at; a guest that has broken out tells of as many as it likes. */
const MAX_CGROUPS = 2000;
/** Of these at once: the agent reads at most 256 files. */
const AT_ONCE = 100;
/** PID_MAX_LIMIT of the kernel, NAME_MAX. */
const PID_MAX = 2 ** 22;
const NAME_MAX = 255;

/** The directory's own processes and those of cgroups that the container has made in it. */
async function pidsBelow(id: string, agent: GuestAgent, top: string): Promise<number[]> {
  const pids = new Set<number>();
  const directories = [top];
  for (let at = 0; at < directories.length;) {
    const some = directories.slice(at, at + AT_ONCE);
    at += some.length;
    const files = await agent.readFiles(
      'pids',
      id,
      some.flatMap((directory) => [`${directory}/cgroup.procs`, directory]),
    );
    for (const directory of some) {
      for (const pid of linesOf(files.get(`${directory}/cgroup.procs`)).map(Number))
        if (Number.isInteger(pid) && pid > 0 && pid <= PID_MAX) pids.add(pid);
      for (const name of linesOf(files.get(directory)))
        if (isDirectory(name)) directories.push(`${directory}/${name.slice(0, -1)}`);
      if (directories.length > MAX_CGROUPS) throw tooMany(id, top);
    }
  }
  return [...pids];
}

function linesOf(text: string | undefined): string[] {
  return (text ?? '').split('\n');
}

/** Of a directory's names those of directories have a "/" behind. */
function isDirectory(name: string): boolean {
  return /^[^/]+\/$/.test(name) && name.length <= NAME_MAX + 1 && name !== './' && name !== '../';
}

function tooMany(id: string, top: string): RuntimeError {
  const reason = `has more than ${MAX_CGROUPS} cgroups`;
  return new RuntimeError({
    code: ErrorCode.ResourceExhausted,
    op: 'pids',
    id,
    object: `guest ${top}`,
    reason,
  });
}
