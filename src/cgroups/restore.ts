/**
 * What must be written to a cgroup file so that it says again what it said before an update. Pure; the formats are those
 * of Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst.
 */

/** What lifts a setting of a device that had none, by file: v2's limits, weights, v1's throttles. */
const lifted: readonly [RegExp, string][] = [
  [/^io\.max$/, 'rbps=max wbps=max riops=max wiops=max'],
  [/^io\.(bfq\.)?weight$/, 'default'],
  [/^blkio\./, '0'],
];

/**
 * @param before the file's text before `written` was written to it
 * @returns undefined when there is no such value
 */
export function restoringValue(file: string, written: string, before: string): string | undefined {
  if (file === 'memory.oom_control') return /^oom_kill_disable (\d)/m.exec(before)?.[1];
  const lines = before.split('\n');
  const lineOf = (key: string): string | undefined => lines.find((line) => line.startsWith(`${key} `));
  const key = /^(\d+:\d+) /.exec(written)?.[1];
  if (key !== undefined) {
    const lift = lifted.find(([pattern]) => pattern.test(file))?.[1];
    return lineOf(key) ?? (lift === undefined ? undefined : `${key} ${lift}`);
  }
  if (file === 'rdma.max') return lineOf(written.split(' ', 1)[0] ?? '');
  // An empty list of processors means its parent's; nothing at all would be no write.
  return lineOf('default') ?? (before.trim() || '\n');
}
