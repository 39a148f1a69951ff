/** Passing functions of this host: claims below the state root, writes to sysfs by launched processes. */
import type { Logger } from '../base/log.ts';
import type { ReadApart } from '../devices/read_ahead.ts';
import { addon } from '../native/index.ts';
import { readApart } from '../native/kernel_read.ts';
import { kernelWrite } from '../native/kernel_write.ts';
import { Launcher } from '../native/launcher.ts';
import type { StateStore } from '../state/index.ts';
import { claimsDirectory, DevicePassing } from './passing.ts';

/** Owner of what a process takes for itself: "selftest/PID-START", as no container of a namespace "selftest" is called. */
const SELFTEST = /^selftest\/(\d+)-(\d+)$/;

export function selftestOwner(pid: number): string {
  return `selftest/${pid}-${addon().processStartTime(pid)}`;
}

/** A process that has ended, or another one of its number, has no more claim. */
function isRunning(owner: string): boolean {
  const [, pid, start] = SELFTEST.exec(owner) ?? [];
  if (pid === undefined) return false;
  try {
    return String(addon().processStartTime(Number(pid))) === start;
  } catch {
    return false;
  }
}

export interface HostPassing {
  root: string;
  /** bulkhead-init. */
  initPath: string;
  store: Pick<StateStore, 'exists'>;
  log: Logger;
}

/** Reads attributes of devices that may not answer, by launched processes. */
export function deviceReader(initPath: string): ReadApart {
  let launcher: Launcher | undefined;
  return (attributes) => readApart((launcher ??= new Launcher(initPath)), attributes);
}

export function hostPassing({ root, initPath, store, log }: HostPassing): DevicePassing {
  let launcher: Launcher | undefined;
  const dir = claimsDirectory(root);
  return new DevicePassing({
    dir,
    lock: async () => {
      const { lockDirectory } = await import('../devices/lock.ts');
      return lockDirectory(dir, (fd) => addon().flock(fd, true));
    },
    write: (path, data) => kernelWrite((launcher ??= new Launcher(initPath)), path, data),
    read: deviceReader(initPath),
    isAlive: (owner) => {
      if (isRunning(owner)) return true;
      const slash = owner.indexOf('/');
      return slash >= 0 && store.exists(owner.slice(0, slash), owner.slice(slash + 1));
    },
    log,
  });
}
