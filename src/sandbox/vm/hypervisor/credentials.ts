/** Who a pod's hypervisor runs as: nobody else, so that what breaks out of a guest is nobody on the host. */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
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

const GROUP_READ_WRITE = 0o060;

/**
 * The groups by which a process that is nobody may open /dev/kvm: the device's own (Debian: "kvm", 0660); none where its
 * group may not, or is root's, which a hypervisor is never to be in.
 */
export function kvmGroups(path = '/dev/kvm'): number[] {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined || found.gid === 0) return [];
  return (found.mode & GROUP_READ_WRITE) === GROUP_READ_WRITE ? [found.gid] : [];
}
