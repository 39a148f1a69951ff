/** The processes of a container, sub-cgroups included. */
import { readdirSync, statSync } from 'node:fs';
import { errnoOf, isGone, readText } from './files.ts';
import { controllerPath, type CgroupView } from './path.ts';

/** Directory whose processes are the container's: the one that a privileged container is least likely to leave. */
export function processDirectory(view: CgroupView): string | undefined {
  return (
    controllerPath(view, 'devices') ??
    controllerPath(view, 'pids') ??
    view.unified?.path ??
    view.hierarchies[0]?.path
  );
}

/** Pids of all processes, ascending; none when the cgroup is gone. */
export function containerPids(view: CgroupView): number[] {
  const directory = processDirectory(view);
  return directory === undefined ? [] : pidsBelow(directory);
}

/** Pids in a directory and below, ascending, each once. */
export function pidsBelow(directory: string): number[] {
  const pids = new Set<number>();
  walkCgroups(directory, (path) => {
    for (const pid of pidsIn(path)) pids.add(pid);
  });
  return [...pids].sort((a, b) => a - b);
}

/** Calls `visit` for a directory and everything below it, parents first. A directory that goes away is passed over. */
export function walkCgroups(directory: string, visit: (path: string) => void): void {
  visit(directory);
  for (const child of childCgroups(directory)) walkCgroups(`${directory}/${child}`, visit);
}

/**
 * Names of the sub-cgroups. kernfs counts sub-directories in st_nlink, so that the common case, none, needs no look at
 * the dozens of files.
 */
export function childCgroups(directory: string): string[] {
  try {
    if (statSync(directory).nlink === 2) return [];
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

/** A threaded cgroup has no cgroup.procs to read (EOPNOTSUPP); its threads stand for their processes. */
function pidsIn(directory: string): number[] {
  let text: string | undefined;
  try {
    text = readText(`${directory}/cgroup.procs`);
  } catch (error) {
    if (errnoOf(error) !== 'EOPNOTSUPP' && errnoOf(error) !== 'ENOTSUP') throw error;
    text = readText(`${directory}/cgroup.threads`);
  }
  if (text === undefined || text === '') return [];
  return text
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0);
}
