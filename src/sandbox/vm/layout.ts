/** Where things lie: on the host below the state root, and in the guest (which the agent makes the top of). */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { CgroupLayout } from '../../cgroups/index.ts';
import type { HostFacts } from '../../plan/inputs.ts';

/** Tag of the shared directory. */
export const SHARE_TAG = 'bulkhead';
/** Where the guest has it. */
export const GUEST_SHARE = '/run/bulkhead/share';
/** The pod's /dev/shm. */
export const GUEST_SHM = '/run/bulkhead/shm';
/** Programs that are brought in; what follows is a key, which begins with a slash. */
export const GUEST_PROGRAMS = '/run/bulkhead/programs';
const GUEST_CGROUPS = '/sys/fs/cgroup';

/** What the monitor calls the guest and the processes that make it; no container's id begins with a slash. */
export const GUEST = 'vm';
export const MACHINE_KEY = '/vm';
export const SHARE_KEY = '/vm/fs';

export interface SandboxPaths {
  /** Holds all else; short, because the path of a socket has 107 bytes. */
  dir: string;
  record: string;
  shareSocket: string;
  /** The fifo that QEMU writes to, and the file of limited size that the engine moves it to. */
  console: string;
  consoleLog: string;
  /** The same of what the daemon of the share says. */
  shareOutput: string;
  shareLog: string;
  /** Mount point that only the daemon of the share sees something on. */
  share: string;
}

/** @param top directory of all virtual machines of the instance */
export function sandboxPaths(top: string, namespace: string, group: string): SandboxPaths {
  const name = createHash('sha256').update(`${namespace}/${group}`).digest('hex').slice(0, 24);
  const dir = join(top, name);
  return {
    dir,
    record: join(dir, 'sandbox.pb'),
    shareSocket: join(dir, 'fs.sock'),
    console: join(dir, 'console'),
    consoleLog: join(dir, 'console.log'),
    shareOutput: join(dir, 'fs'),
    shareLog: join(dir, 'fs.log'),
    share: join(dir, 'share'),
  };
}

/** Directory of a container in the share, on either side below the share's own. */
export function shareDirectory(serial: number): string {
  return `c${serial}`;
}

/** The guest's cgroups: always the unified hierarchy, whatever the host has. */
export const guestLayout: CgroupLayout = {
  mode: 'v2',
  hierarchies: [],
  unified: {
    names: [],
    mountPoint: GUEST_CGROUPS,
    root: '/',
    ownPath: '/',
    controllers: ['cpuset', 'cpu', 'io', 'memory', 'pids'],
    weightFiles: [],
  },
};

/** A container's cgroup in the guest, from the top of the hierarchy. */
export function guestCgroupName(id: string): string {
  return `/bulkhead/${id}`;
}

export function guestCgroup(id: string): string {
  return `${GUEST_CGROUPS}${guestCgroupName(id)}`;
}

const CAP_LAST_CAP = 40;

/** What the agent may do in its guest: everything. */
export const guestFacts: HostFacts = {
  capLastCap: CAP_LAST_CAP,
  kernelRelease: '6.1.0',
  canRaiseLimits: true,
  apparmor: false,
  selinux: false,
};
