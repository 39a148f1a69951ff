/**
 * Kills by the memory limit. v1: an eventfd on memory.oom_control (Documentation/admin-guide/cgroup-v1/memory.rst
 * "OOM Control"); v2: memory.events changes.
 */
import { watch } from 'node:fs';
import type { Addon } from '../native/addon.d.ts';
import { readText } from './files.ts';
import { controllerPath, type CgroupView } from './path.ts';
import { walkCgroups } from './pids.ts';

/** What is needed of the addon. */
export type OomAddon = Pick<Addon, 'watchCgroupV1Event'>;

export interface OomWatch {
  /** Looks a last time, so that a kill is told before the exit that it caused, and ends the watch. */
  close(): void;
}

/**
 * Calls `onOom` once for every burst of kills in the container's cgroup or below. A container without a memory cgroup
 * gets a watch that never calls.
 */
export function watchOom(view: CgroupView, addon: OomAddon, onOom: () => void): OomWatch {
  const v1 = controllerPath(view, 'memory');
  if (v1 !== undefined) return watchV1(v1, addon, onOom);
  if (view.unified !== undefined)
    return watchCounter(`${view.unified.path}/memory.events`, 'oom_kill', onOom);
  return { close: () => {} };
}

/** After a notice: how long until the kill that it announces must show, in milliseconds, look by look. */
const looksV1 = [0, 5, 25, 125, 625];

/**
 * The kernel writes the eventfd before it kills, for every try, to every cgroup below the one that is full (so also when
 * a neighbour in the pod is the victim), and once more when the cgroup is removed. The kill counters (oom_kill, since
 * Linux 4.13) decide therefore, of sub-cgroups too, looked at until they move. With the killer disabled nothing is ever
 * killed: then "under_oom 1" tells.
 */
function watchV1(directory: string, addon: OomAddon, onOom: () => void): OomWatch {
  if (readText(`${directory}/memory.oom_control`) === undefined) return { close: () => {} };
  let kills = killsBelow(directory);
  let stuck = false;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  /** True when there is no need to look again. */
  const tell = (): boolean => {
    const text = readText(`${directory}/memory.oom_control`);
    if (text === undefined) return true;
    const now = killsBelow(directory);
    const nowStuck = counter(text, 'oom_kill_disable') === 1 && counter(text, 'under_oom') === 1;
    const news = now > kills || (nowStuck && !stuck);
    kills = now;
    stuck = nowStuck;
    if (news) onOom();
    return news;
  };
  const look = (round: number): void => {
    timer = undefined;
    if (!tell() && round + 1 < looksV1.length) {
      timer = setTimeout(look, looksV1[round + 1], round + 1).unref();
    }
  };
  const watcher = addon.watchCgroupV1Event(directory, 'memory.oom_control', () => {
    if (closed) return;
    clearTimeout(timer);
    look(0);
  });
  return {
    close: () => {
      if (closed) return;
      closed = true;
      clearTimeout(timer);
      tell();
      // Not while an exit waits to be told: the kernel takes its time.
      setImmediate(() => watcher.close());
    },
  };
}

function killsBelow(directory: string): number {
  let kills = 0;
  walkCgroups(directory, (path) => {
    kills += counter(readText(`${path}/memory.oom_control`) ?? '', 'oom_kill');
  });
  return kills;
}

/**
 * Calls back whenever the counter `name` in a file of "name value" lines has risen; cgroup v2 tells of changes by
 * inotify (cgroup-v2.rst, "memory.events"). Several rises between two looks are one.
 */
export function watchCounter(file: string, name: string, onRise: () => void): OomWatch {
  const before = readText(file);
  if (before === undefined) return { close: () => {} };
  let last = counter(before, name);
  let closed = false;
  const look = (): void => {
    const now = counter(readText(file) ?? '', name);
    const rose = now > last;
    last = Math.max(last, now);
    if (rose) onRise();
  };
  const watcher = watch(file, { persistent: false }, look);
  // The cgroup went away while it was watched.
  watcher.on('error', () => watcher.close());
  return {
    close: () => {
      if (closed) return;
      closed = true;
      look();
      watcher.close();
    },
  };
}

function counter(text: string, name: string): number {
  const value = new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1];
  return value === undefined ? 0 : Number(value);
}
