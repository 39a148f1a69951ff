/** A look before a container is made: a cgroup that is in use is somebody else's. */
import { existsSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { isFrozen } from './freeze.ts';
import type { CgroupView } from './path.ts';
import { pidsBelow, processDirectory } from './pids.ts';

/**
 * FailedPrecondition when the container's cgroup exists and has processes (its limits would change, and killing or
 * removing the container would take them along) or is frozen (what joins it stands still for ever). An empty cgroup
 * that was left over, or made beforehand by an operator, is fine.
 */
export function checkUnoccupied(view: CgroupView, id: string): void {
  const directory = processDirectory(view);
  if (directory === undefined || !existsSync(directory)) return;
  const refuse = (reason: string, remedy: string): RuntimeError =>
    new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: `cgroup ${directory}`,
      reason,
      remedy,
      path: directory,
    });
  const pids = pidsBelow(directory);
  if (pids.length > 0) {
    const shown = pids.slice(0, 5).join(', ') + (pids.length > 5 ? ', …' : '');
    throw refuse(`has processes already (pid ${shown})`, 'give the container a cgroupsPath of its own');
  }
  if (isFrozen(view)) throw refuse('is frozen', 'thaw or remove it');
}
