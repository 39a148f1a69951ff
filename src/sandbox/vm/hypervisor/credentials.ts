/** Who a pod's hypervisor runs as: nobody else, so that what breaks out of a guest is nobody on the host. */
import { createHash } from 'node:crypto';
import type { Credentials } from './hypervisor.ts';

/**
 * Above what useradd(8), directories and systemd's containers use (they end at 0x6fffffff), below the sentry wall's. The
 * ids own nothing on a disk.
 */
const FIRST = 0x7000_0000;
const COUNT = 0x0fff_fff0;

/** By the pod's name: each of its machine's processes gets the same. `gids`: of devices it must open (/dev/kvm). */
export function machineCredentials(
  namespace: string,
  group: string,
  gids: readonly number[] = [],
): Credentials {
  const hash = createHash('sha256').update(`${namespace}/${group}`).digest().readUInt32BE(0);
  const id = FIRST + (hash % COUNT);
  return { uid: id, gid: id, additionalGids: gids };
}
