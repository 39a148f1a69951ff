import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { eventually } from './exec.ts';

/** What the leak checker needs to know of a containerd. */
export interface Marked {
  /** What was in the shared directories before this containerd started. */
  before: ReadonlySet<string>;
  dir: string;
  namespace: string;
  bulkheadRoot: string;
  pid: number;
}

export interface ProcessInfo {
  pid: number;
  command: string;
  /** True for the one process that may outlive the containers: Bulkhead's engine. */
  engine: boolean;
  containerd: boolean;
}

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};

const list = (path: string): string[] => {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
};

/** The cgroup mount points of this machine, v1 and v2. */
export const cgroupMounts = (): string[] =>
  read('/proc/self/mountinfo')
    .split('\n')
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => line.split(' ')[4] ?? '');

/**
 * The cgroups of this containerd's containers, in every hierarchy: those below its namespace, and pods' (whose parent is
 * named RUN-pods by the tests), without these parents themselves.
 */
export const cgroupsOf = (namespace: string): string[] => {
  const parents = [namespace, `${runName(namespace)}-pods`];
  return cgroupMounts().flatMap((mount) =>
    parents.flatMap((parent) => list(join(mount, parent)).flatMap((name) => directory(mount, parent, name))),
  );
};

/** `bh-x1y2z3` of the containerd namespace `bh-x1y2z3-c-a1b2c3`. */
const runName = (namespace: string): string => namespace.replace(/-c-\w+$/, '');

const directory = (...parts: string[]): string[] => {
  const path = join(...parts);
  return existsSync(path) && statSync(path).isDirectory() ? [path] : [];
};

/**
 * Processes that belong to this containerd: by environment (BULKHEAD_ROOT is handed from containerd to shim to engine),
 * by arguments (shims are told containerd's socket), or by cgroup (containers, whose environment is their own).
 */
export const markedProcesses = (of: Marked): ProcessInfo[] =>
  list('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((name) => {
      const base = join('/proc', name);
      const command = read(join(base, 'cmdline')).replaceAll('\0', ' ').trim();
      const env = read(join(base, 'environ')).split('\0');
      const cgroup = read(join(base, 'cgroup'));
      const marked =
        env.includes(`BULKHEAD_ROOT=${of.bulkheadRoot}`) ||
        command.includes(of.dir) ||
        cgroup.includes(`/${of.namespace}/`) ||
        cgroup.includes(`/${runName(of.namespace)}-pods/`);
      // ctr's own short life, started by a test, is not the runtime's business.
      if (!marked || /(^|\/)(ctr|script|socat)( |$)/.test(command.split(' ')[0] ?? '')) return [];
      return [
        { pid: Number(name), command, engine: isEngine(base, command), containerd: Number(name) === of.pid },
      ];
    });

const isEngine = (base: string, command: string): boolean => {
  try {
    return command.includes('engine.cjs') && readlinkSync(join(base, 'exe')).includes('node');
  } catch {
    return false;
  }
};

/** Mount points below a directory, in the order they were mounted. */
export const mountsBelow = (dir: string): string[] =>
  read('/proc/self/mountinfo')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => point.startsWith(`${dir}/`));

/** Files below a directory, at most a few levels deep. */
const filesBelow = (dir: string): string[] => {
  try {
    return readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => join(dir, name));
  } catch {
    return [];
  }
};

/** What containerd, shims and CNI keep outside their own directories (private to the run, see tools/private.sh). */
export const sharedFiles = (): string[] =>
  ['/run/containerd/s', '/run/containerd/fifo', '/run/netns'].flatMap((dir) =>
    list(dir).map((name) => `${dir}/${name}`),
  );

/** What of the host would still be there although no container is; empty when the runtime has cleaned up. */
export const findLeaks = (of: Marked): string[] => {
  const processes = markedProcesses(of).filter((found) => !found.containerd && !found.engine);
  const shimState = ['io.containerd.runtime.v2.task', 'io.containerd.runtime.v2.shim'];
  const bundles = shimState.flatMap((plugin) =>
    [of.namespace, 'k8s.io'].flatMap((namespace) => list(join(of.dir, 'state', plugin, namespace))),
  );
  return [
    ...processes.map((found) => `process ${found.pid}: ${found.command || '(no command line)'}`),
    ...mountsBelow(join(of.dir, 'state')).map((mount) => `mount ${mount}`),
    ...mountsBelow(of.bulkheadRoot).map((mount) => `mount ${mount}`),
    ...cgroupsOf(of.namespace).map((cgroup) => `cgroup ${cgroup}`),
    ...sharedFiles().filter((path) => !of.before.has(path)),
    ...list(`/run/containerd/runc/${of.namespace}`).map((name) => `runc state ${name}`),
    ...bundles.map((name) => `bundle ${name}`),
    ...filesBelow(join(of.bulkheadRoot, 'tasks'))
      .filter((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === false)
      .map((path) => `state file ${path}`),
  ];
};

/** SIGKILLs what `find` gives, by pid, until nothing is found any more. */
export const killAll = async (find: () => ProcessInfo[]): Promise<void> => {
  await eventually('the last process to end', () => {
    const found = find();
    for (const { pid } of found) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    return found.length === 0;
  });
};
