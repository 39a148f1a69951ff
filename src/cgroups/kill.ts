/** SIGKILL to everything in a container's cgroups, whatever namespaces it is in and however fast it forks. */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { cgroupError, isGone, readText, writeText } from './files.ts';
import { controllerPath, type CgroupView } from './path.ts';
import { containerPids, pidsBelow, walkCgroups } from './pids.ts';

export interface KillOptions {
  id: string;
  /** How long to wait until the cgroups are empty. Default 30 s. */
  deadlineMs?: number;
  /** kill(2); tests inject their own. */
  kill?: (pid: number, signal: NodeJS.Signals) => void;
}

/**
 * Kills all and resolves when no process is left (zombies aside: those are their parent's). cgroup.kill (Linux 5.14)
 * does it in one write, atomically, also on hybrid hosts; else the cgroup is frozen so that nothing forks away.
 * DeadlineExceeded, naming the pids, when some will not die.
 */
export async function killCgroup(view: CgroupView, options: KillOptions): Promise<void> {
  const { id, deadlineMs = 30_000, kill = (pid, signal) => void process.kill(pid, signal) } = options;
  const deadline = Date.now() + deadlineMs;
  try {
    let left = killOnce(view, kill);
    for (let pause = 0; left.length > 0; pause = Math.min(pause + 1, 20)) {
      if (Date.now() > deadline) throw stillAlive(id, left);
      await new Promise((resolve) => setTimeout(resolve, pause));
      left = allPids(view).filter(isRunning);
      if (left.length > 0 && pause % 5 === 4) left = killOnce(view, kill);
    }
  } catch (error) {
    throw cgroupError('kill', id, 'cgroup', error);
  }
}

/** Sends one round of signals; the processes there were. */
function killOnce(view: CgroupView, kill: (pid: number, signal: NodeJS.Signals) => void): number[] {
  if (view.unified !== undefined) writeIfThere(`${view.unified.path}/cgroup.kill`, '1');
  // A process may have left the unified cgroup (a privileged container can), and v1 has no cgroup.kill.
  if (allPids(view).length === 0) return [];
  const freezer = controllerPath(view, 'freezer');
  if (freezer !== undefined) writeIfThere(`${freezer}/freezer.state`, 'FROZEN');
  else if (view.unified !== undefined) writeIfThere(`${view.unified.path}/cgroup.freeze`, '1');
  const pids = allPids(view).filter(isRunning);
  try {
    for (const pid of pids) signalIfThere(pid, kill);
  } finally {
    thawAll(view, freezer);
  }
  return pids;
}

/** A container may have frozen cgroups of its own: a frozen v1 process does not die of SIGKILL until it is thawed. */
function thawAll(view: CgroupView, freezer: string | undefined): void {
  if (freezer !== undefined) walkCgroups(freezer, (path) => writeIfThere(`${path}/freezer.state`, 'THAWED'));
  else if (view.unified !== undefined)
    walkCgroups(view.unified.path, (path) => writeIfThere(`${path}/cgroup.freeze`, '0'));
}

function allPids(view: CgroupView): number[] {
  const pids = containerPids(view);
  if (view.unified === undefined || view.mode === 'v2') return pids;
  return [...new Set([...pids, ...pidsBelow(view.unified.path)])];
}

/** A zombie stays in its cgroup's list on v1 until its parent reaps it. */
function isRunning(pid: number): boolean {
  const stat = readText(`/proc/${pid}/stat`);
  if (stat === undefined) return false;
  const state = stat.charAt(stat.lastIndexOf(')') + 2);
  return state !== 'Z' && state !== 'X';
}

function writeIfThere(path: string, value: string): void {
  try {
    writeText(path, value);
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

function signalIfThere(pid: number, kill: (pid: number, signal: NodeJS.Signals) => void): void {
  try {
    kill(pid, 'SIGKILL');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

function stillAlive(id: string, pids: number[]): RuntimeError {
  const shown = pids.slice(0, 10).join(', ') + (pids.length > 10 ? `, … (${pids.length})` : '');
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op: 'kill',
    id,
    reason: `processes did not die in time: pid ${shown}`,
  });
}
