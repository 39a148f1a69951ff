/**
 * What a runtime can leave behind on a machine, as text that can be compared: processes, mounts, cgroups, files of the
 * state root and of the temporary directory, sockets, network namespaces, and descriptors of processes that live on.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cgroupMounts } from '../../e2e/lib/leaks.ts';
import { scratch } from '../../e2e/lib/paths.ts';

/** Parent of all cgroups of this run, in every hierarchy; tools/private.sh removes it. */
export const cgroupParent = (): string => `/${basename(scratch())}-faults`;

export interface Watched {
  /** Directories in which no file may appear, at any depth. */
  directories: readonly string[];
  /** Processes whose descriptors are counted; this one always. */
  pids?: readonly number[];
}

type Snapshot = readonly string[];

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};

const list = (path: string, recursive = false): string[] => {
  try {
    return readdirSync(path, { recursive, withFileTypes: true })
      .filter((entry) => !recursive || !entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name));
  } catch {
    return [];
  }
};

const processes = (): string[] =>
  list('/proc')
    .map((path) => basename(path))
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => `process ${pid} ${/^Name:\s*(.*)$/m.exec(read(`/proc/${pid}/status`))?.[1] ?? ''}`);

const mounts = (): string[] =>
  read('/proc/self/mountinfo')
    .split('\n')
    .map((line) => `mount ${line}`);

const cgroups = (): string[] =>
  cgroupMounts().flatMap((mount) =>
    list(join(mount, cgroupParent()))
      .filter((path) => /\/(cgroup\.procs|tasks)$/.test(`${path}/tasks`) && list(path).length > 0)
      .map((path) => `cgroup ${path}`),
  );

/** What is open, without the numbers of descriptors and inodes, which are reused. */
const descriptors = (pid: number): string[] => {
  const counts = new Map<string, number>();
  for (const path of list(`/proc/${pid}/fd`)) {
    let target: string;
    try {
      target = readlinkSync(path);
    } catch {
      continue;
    }
    if (target.startsWith('/proc/')) continue;
    const kind = target.replace(/\[\d+\]$/, '');
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([kind, count]) => `descriptors of ${pid}: ${count} of ${kind}`);
};

/** Resolves when a launch waits in the fifo of a hanging step (`wait_for_partner` of the kernel's fs/pipe.c). */
export const untilHung = async (): Promise<void> => {
  const end = performance.now() + 60_000;
  const hangs = (path: string): boolean =>
    read(`${path}/comm`) === 'bulkhead-init\n' && read(`${path}/wchan`) === 'wait_for_partner';
  while (!list('/proc').some((path) => /\/\d+$/.test(path) && hangs(path))) {
    if (performance.now() > end) throw new Error('no launch hangs');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
};

const shared = ['/run/netns', '/run/containerd/s', '/run/containerd/fifo'];

/** Everything there is now. */
export const look = (watched: Watched): Snapshot => [
  ...processes(),
  ...mounts(),
  ...cgroups(),
  ...[...shared, ...watched.directories].flatMap((path) => list(path, true).map((file) => `file ${file}`)),
  ...[process.pid, ...(watched.pids ?? [])].flatMap(descriptors),
];

const difference = (before: Snapshot, after: Snapshot): string[] => {
  const known = new Set(before);
  const now = new Set(after);
  return [
    ...after.filter((line) => !known.has(line)).map((line) => `+ ${line}`),
    ...before.filter((line) => !now.has(line)).map((line) => `- ${line}`),
  ];
};

/** State and parent of a process that should not be there. */
const explain = (line: string): string => {
  const pid = /^\+ process (\d+)/.exec(line)?.[1];
  if (pid === undefined) return line;
  const about = read(`/proc/${pid}/status`).match(/^(State|PPid|NSpid|SigPnd|ShdPnd):.*$/gm) ?? [];
  return `${line}; ${about.join(', ').replaceAll('\t', ' ')}; in ${read(`/proc/${pid}/wchan`)}`;
};

/**
 * What has changed since `before`; waits a moment for what is on its way out. Processes are gone when they are reaped:
 * a zombie counts.
 */
export const changesSince = async (before: Snapshot, watched: Watched, ms = 30_000): Promise<string[]> => {
  const end = performance.now() + ms;
  for (;;) {
    const changes = difference(before, look(watched));
    if (changes.length === 0 || performance.now() > end) return changes.map(explain);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
