/** Looks at what must not grow during a soak: descriptors, memory, threads, calls that nobody answers. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { markedProcesses } from '../e2e/lib/leaks.ts';

export interface Sample {
  role: 'supervisor' | 'monitor' | 'engine';
  pid: number;
  fds: number;
  /** Descriptors of callers that a supervisor remembers, which are not among the others. */
  callers: number;
  threads: number;
  /** kB */
  pss: number;
  /** kB of memory that is this process's own. */
  dirty: number;
}

const text = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};

const number = (from: string, name: string): number =>
  Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(from)?.[1] ?? 0);

/** What a supervisor's descriptors of callers are (native/sentry/known.h). */
const PIDFD = 'anon_inode:[pidfd]';
const MOST_CALLERS = 256;

const linkOf = (path: string): string => {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
};

const sampleOf = (role: Sample['role'], pid: number): Sample[] => {
  try {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const fds = readdirSync(`/proc/${pid}/fd`);
    const remembered =
      role === 'supervisor' ? fds.filter((fd) => linkOf(`/proc/${pid}/fd/${fd}`) === PIDFD).length : 0;
    return [
      {
        role,
        pid,
        fds: fds.length - remembered,
        callers: remembered,
        threads: number(readFileSync(`/proc/${pid}/status`, 'utf8'), 'Threads'),
        pss: number(rollup, 'Pss'),
        dirty: number(rollup, 'Private_Dirty'),
      },
    ];
  } catch {
    // It has just ended.
    return [];
  }
};

/** Every supervisor, monitor and engine of a containerd. */
export const sample = (containerd: PrivateContainerd): Sample[] =>
  markedProcesses(containerd).flatMap(({ pid, command, engine }) => {
    const name = text(`/proc/${pid}/comm`).trim();
    if (name === 'bulkhead-sentry') return sampleOf('supervisor', pid);
    if (engine) return sampleOf('engine', pid);
    return command.includes('shim-bulkhead') ? sampleOf('monitor', pid) : [];
  });

/** Finds tasks that wait for an answer of the supervisor and have been waiting for the same one since the last look. */
export class StuckCalls {
  #last = new Map<string, string>();

  look(containerd: PrivateContainerd): string[] {
    const now = new Map<string, string>();
    for (const { pid } of markedProcesses(containerd)) {
      for (const tid of tasks(pid)) {
        const base = `/proc/${pid}/task/${tid}`;
        if (text(`${base}/wchan`) !== 'seccomp_do_user_notification') continue;
        const switches = number(text(`${base}/status`), 'voluntary_ctxt_switches');
        now.set(tid, `${text(`${base}/syscall`).trim()} after ${switches} switches`);
      }
    }
    const stuck = [...now].filter(([tid, state]) => this.#last.get(tid) === state);
    this.#last = now;
    return stuck.map(([tid, state]) => `task ${tid} waits at ${state}`);
  }
}

const tasks = (pid: number): string[] => {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
};

/** Largest growth allowed between the first and the last samples of one process. */
const limits: Record<Sample['role'], { fds: number; threads: number; dirty: number }> = {
  // A descriptor more may be an exec that is just starting.
  supervisor: { fds: 4, threads: 4, dirty: 256 },
  monitor: { fds: 8, threads: 0, dirty: 512 },
  // The collector of JavaScript's heap works when it likes.
  engine: { fds: 40, threads: 4, dirty: 48 * 1024 },
};

export interface Growth {
  role: Sample['role'];
  pid: number;
  first: Omit<Sample, 'role' | 'pid'>;
  last: Omit<Sample, 'role' | 'pid'>;
  most: Omit<Sample, 'role' | 'pid'>;
}

/** Of processes that were there all the time: medians of the first and the last samples, and the largest of all. */
export const growth = (samples: readonly Sample[][]): Growth[] => {
  const edge = Math.max(3, Math.floor(samples.length / 10));
  const histories = new Map<number, Sample[]>();
  for (const one of samples.flat()) histories.set(one.pid, [...(histories.get(one.pid) ?? []), one]);
  return [...histories.values()]
    .filter((history) => history.length >= samples.length * 0.9)
    .map((history) => ({
      role: history[0]!.role,
      pid: history[0]!.pid,
      first: medians(history.slice(0, edge)),
      last: medians(history.slice(-edge)),
      most: largest(history),
    }));
};

export const faults = (grown: readonly Growth[]): string[] =>
  grown.flatMap(({ role, pid, first, last, most }) => [
    ...(['fds', 'threads', 'dirty'] as const)
      .filter((what) => last[what] - first[what] > limits[role][what])
      .map((what) => `${role} ${pid}: ${what} grew from ${first[what]} to ${last[what]}`),
    ...(most.callers > MOST_CALLERS ? [`${role} ${pid}: remembers ${most.callers} callers`] : []),
  ]);

const fields = ['fds', 'callers', 'threads', 'pss', 'dirty'] as const;

const each = (of: (values: number[]) => number, samples: readonly Sample[]): Growth['first'] =>
  Object.fromEntries(fields.map((name) => [name, of(samples.map((one) => one[name]))])) as Growth['first'];

const medians = (samples: readonly Sample[]): Growth['first'] =>
  each((values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0, samples);

const largest = (samples: readonly Sample[]): Growth['first'] =>
  each((values) => Math.max(...values), samples);
