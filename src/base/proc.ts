/** Small facts from procfs. */
import { existsSync, readFileSync } from 'node:fs';

/**
 * Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22): with the pid it names a process for
 * as long as the machine runs. undefined when there is no such process.
 */
export function processStartTime(pid: number): number | undefined {
  const fields = statFields(pid);
  return fields === undefined ? undefined : Number(fields[19]);
}

/** Clock ticks since boot, as start times count them: hundredths of a second (proc_uptime(5), sysconf(3) _SC_CLK_TCK). */
export function bootTicks(): number {
  return Math.floor(Number(readFileSync('/proc/uptime', 'latin1').split(' ')[0]) * 100);
}

/** True while the process runs and is not a zombie; with `startTime` also that it is still the same one. */
export function isAlive(pid: number, startTime?: number): boolean {
  const fields = statFields(pid);
  if (fields === undefined || fields[0] === 'Z' || fields[0] === 'X') return false;
  return startTime === undefined || startTime === 0 || Number(fields[19]) === startTime;
}

/** Whether a thread is one of a process that has not ended. */
export function hasThread(pid: number, tid: number): boolean {
  if (!Number.isSafeInteger(tid) || tid <= 0 || !isAlive(pid)) return false;
  return existsSync(`/proc/${pid}/task/${tid}`);
}

/** Fields of /proc/PID/stat from the state (field 3) on; the name before may hold any character, ")" too. */
function statFields(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** Exit code by the shell's convention of a status as waitpid(2) gives it: 128 + signal when a signal ended it. */
export function exitCodeOf(waitStatus: number): number {
  const signal = waitStatus & 0x7f;
  return signal === 0 ? (waitStatus >> 8) & 0xff : 128 + signal;
}
