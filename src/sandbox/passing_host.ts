/** Passing functions of this host: claims below the state root, writes to sysfs by launched processes. */
import type { Logger } from '../base/log.ts';
import { kernelWrite } from '../native/kernel_write.ts';
import { Launcher } from '../native/launcher.ts';
import type { StateStore } from '../state/index.ts';
import { claimsDirectory, DevicePassing } from './passing.ts';

export interface HostPassing {
  root: string;
  /** bulkhead-init. */
  initPath: string;
  store: Pick<StateStore, 'exists'>;
  log: Logger;
}

export function hostPassing({ root, initPath, store, log }: HostPassing): DevicePassing {
  let launcher: Launcher | undefined;
  return new DevicePassing({
    dir: claimsDirectory(root),
    write: (path, data) => kernelWrite((launcher ??= new Launcher(initPath)), path, data),
    isAlive: (owner) => {
      const slash = owner.indexOf('/');
      return slash >= 0 && store.exists(owner.slice(0, slash), owner.slice(slash + 1));
    },
    log,
  });
}
