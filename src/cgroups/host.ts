/**
 * What cgroup hierarchies the host has: cgroups(7), Documentation/admin-guide/cgroup-v2.rst. Parsing is pure; reading
 * takes injectable roots, so that a directory of text files can stand for any host.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

/** Where the kernel's interfaces are mounted. */
export interface HostRoots {
  cgroup: string;
  proc: string;
}

export const hostRoots: HostRoots = { cgroup: '/sys/fs/cgroup', proc: '/proc' };

export type CgroupMode = 'v1' | 'v2' | 'hybrid';

/** One mounted hierarchy. */
export interface Hierarchy {
  /** v1: controllers ("cpu", "cpuacct") or "name=systemd"; v2: none. */
  names: string[];
  mountPoint: string;
  /** Directory of the hierarchy that the mount shows: "/" but in a container without a cgroup namespace. */
  root: string;
  /** This process's cgroup, from the top of the hierarchy. */
  ownPath: string;
}

export interface UnifiedHierarchy extends Hierarchy {
  /** cgroup.controllers at the mount point. */
  controllers: string[];
  /** Weight files: io.bfq.weight is there when the BFQ scheduler is, io.weight with io.cost. */
  weightFiles: string[];
}

export interface CgroupLayout {
  /** v1: no cgroup2 mount; hybrid: v1 hierarchies and a cgroup2 mount; v2: cgroup2 only (named hierarchies aside). */
  mode: CgroupMode;
  /** v1 hierarchies; empty in mode v2. */
  hierarchies: Hierarchy[];
  unified?: UnifiedHierarchy | undefined;
}

interface CgroupMount {
  version: 1 | 2;
  root: string;
  mountPoint: string;
  options: string[];
}

/**
 * The layout in the text of /proc/self/mountinfo and /proc/self/cgroup. A hierarchy that is mounted several times counts
 * once: the mount below `cgroupRoot` is preferred, else the first. `unified.controllers` and `weightFiles` stay empty.
 */
export function parseLayout(mountinfo: string, ownCgroups: string, cgroupRoot: string): CgroupLayout {
  const own = parseOwnCgroups(ownCgroups);
  const mounts = parseCgroupMounts(mountinfo);
  const preferred = (mount: CgroupMount): number => (isBelow(mount.mountPoint, cgroupRoot) ? 0 : 1);
  mounts.sort((a, b) => preferred(a) - preferred(b));

  const hierarchies: Hierarchy[] = [];
  let unified: UnifiedHierarchy | undefined;
  for (const mount of mounts) {
    if (mount.version === 2) {
      unified ??= {
        names: [],
        mountPoint: mount.mountPoint,
        root: mount.root,
        ownPath: own.find((entry) => entry.names.length === 0)?.path ?? '/',
        controllers: [],
        weightFiles: [],
      };
      continue;
    }
    const entry = own.find(
      ({ names }) => names.length > 0 && names.every((name) => mount.options.includes(name)),
    );
    if (entry === undefined || hierarchies.some(({ names }) => names[0] === entry.names[0])) continue;
    hierarchies.push({
      names: entry.names,
      mountPoint: mount.mountPoint,
      root: mount.root,
      ownPath: entry.path,
    });
  }

  if (unified !== undefined && isV2(unified, hierarchies, cgroupRoot)) {
    return { mode: 'v2', hierarchies: [], unified };
  }
  if (hierarchies.length === 0) {
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'cgroups',
      reason: 'no cgroup hierarchy is mounted',
      remedy: `mount cgroup2 at ${cgroupRoot}`,
    });
  }
  return { mode: unified === undefined ? 'v1' : 'hybrid', hierarchies, unified };
}

/** cgroup2 is in charge when it is mounted at the top, or when nothing but named v1 hierarchies stands beside it. */
function isV2(unified: Hierarchy, hierarchies: Hierarchy[], cgroupRoot: string): boolean {
  return (
    unified.mountPoint === cgroupRoot ||
    hierarchies.every(({ names }) => names[0]?.startsWith('name=') ?? true)
  );
}

function isBelow(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}

/** Lines of /proc/PID/cgroup, "ID:names:path"; the unified hierarchy has no names. */
export function parseOwnCgroups(text: string): { names: string[]; path: string }[] {
  return text
    .split('\n')
    .map((line) => /^\d+:([^:]*):(\/.*)$/.exec(line))
    .filter((match) => match !== null)
    .map(([, names = '', path = '/']) => ({ names: names === '' ? [] : names.split(','), path }));
}

/** The cgroup mounts of proc_pid_mountinfo(5), in the order they were made. */
function parseCgroupMounts(mountinfo: string): CgroupMount[] {
  const mounts: CgroupMount[] = [];
  for (const line of mountinfo.split('\n')) {
    const separator = line.indexOf(' - cgroup');
    if (separator === -1) continue;
    const [fstype = '', , options = ''] = line.slice(separator + 3).split(' ');
    if (fstype !== 'cgroup' && fstype !== 'cgroup2') continue;
    const fields = line.slice(0, separator).split(' ');
    mounts.push({
      version: fstype === 'cgroup2' ? 2 : 1,
      root: unescapeMountPath(fields[3] ?? '/'),
      mountPoint: unescapeMountPath(fields[4] ?? ''),
      options: options.split(','),
    });
  }
  return mounts;
}

/** Space, tab, newline and backslash are octal escapes in mountinfo. */
function unescapeMountPath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}

/** Reads the layout of the host behind `roots`. */
export function readLayout(roots: HostRoots = hostRoots): CgroupLayout {
  const layout = parseLayout(
    readFileSync(join(roots.proc, 'self/mountinfo'), 'utf8'),
    readFileSync(join(roots.proc, 'self/cgroup'), 'utf8'),
    roots.cgroup,
  );
  const { unified } = layout;
  if (unified !== undefined) {
    const text = readFileSync(join(unified.mountPoint, 'cgroup.controllers'), 'utf8').trim();
    unified.controllers = text === '' ? [] : text.split(' ');
    unified.weightFiles = findWeightFiles(unified.mountPoint);
  }
  return layout;
}

/**
 * The root cgroup has no weights, so a child is asked; every host in mode v2 has one (init.scope, system.slice, …). One
 * that is removed meanwhile is not it.
 */
export function findWeightFiles(
  mountPoint: string,
  list: (path: string) => string[] = (path) => readdirSync(path),
): string[] {
  for (const child of readdirSync(mountPoint, { withFileTypes: true })) {
    if (!child.isDirectory()) continue;
    try {
      const files = list(join(mountPoint, child.name));
      return ['io.bfq.weight', 'io.weight'].filter((name) => files.includes(name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return [];
}

const layouts = new Map<string, CgroupLayout>();

/** As `readLayout`, once a process: mounts of cgroups do not change under a running host. */
export function cgroupLayout(roots: HostRoots = hostRoots): CgroupLayout {
  const key = `${roots.cgroup}\n${roots.proc}`;
  let layout = layouts.get(key);
  if (layout === undefined) {
    layout = readLayout(roots);
    layouts.set(key, layout);
  }
  return layout;
}
