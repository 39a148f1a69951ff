/**
 * A cgroup for one of the runtime's own processes (the shim's, by the option ShimCgroup): made when it is missing, in
 * every hierarchy, without limits.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { posix } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { CgroupLayout } from './host.ts';
import { controllerPath, locateCgroup, parseCgroupsPath, pathsOfView } from './path.ts';

/** The directories to join, absolute; FailedPrecondition names the one that cannot be made. */
export function makeHelperCgroup(op: string, id: string, path: string, layout: CgroupLayout): string[] {
  const { driver, name } = parseCgroupsPath(path, id, op);
  const view = locateCgroup({ driver, name: posix.join('/', name) }, layout);
  const paths = pathsOfView(view);
  const cpuset = controllerPath(view, 'cpuset');
  for (const directory of paths) {
    try {
      mkdirSync(directory, { recursive: true, mode: 0o755 });
      if (directory === cpuset) inheritCpuset(directory);
    } catch (cause) {
      throw new RuntimeError({
        code: ErrorCode.FailedPrecondition,
        op,
        id,
        object: `cgroup ${directory}`,
        reason: cause instanceof Error ? cause.message : String(cause),
        path: directory,
        cause,
      });
    }
  }
  return paths;
}

/** v1: a cpuset takes no process until it has CPUs and memory nodes (cpusets.txt, "cpuset.cpus"). */
function inheritCpuset(directory: string): void {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const own = `${directory}/${file}`;
    if (readFileSync(own, 'utf8').trim() !== '') continue;
    const parent = posix.dirname(directory);
    if (readFileSync(`${parent}/${file}`, 'utf8').trim() === '') inheritCpuset(parent);
    writeFileSync(own, readFileSync(`${parent}/${file}`, 'utf8'));
  }
}
