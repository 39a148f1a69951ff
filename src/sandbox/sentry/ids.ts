/** The ids of a pod under the sentry wall: a range of its own, so that nothing in it is anybody on the host. */
import { createHash } from 'node:crypto';
import type { LinuxIDMapping } from '../../oci/types.ts';

/** As many ids as images use; what CRI gives a pod too. */
export const RANGE_SIZE = 65_536;
/** Above everything that useradd(8), systemd and directories hand out. The ids are never written to a disk. */
const FIRST = 0x8000_0000;
const RANGES = 32_766;

/**
 * The range of a pod, by its name: every container of it gets the same. Two of 50 pods share one with a probability
 * of 4 %; they are still in different user, pid and mount namespaces.
 */
export function podMapping(namespace: string, group: string): LinuxIDMapping[] {
  const hash = createHash('sha256').update(`${namespace}/${group}`).digest().readUInt32BE(0);
  return [{ containerID: 0, hostID: FIRST + (hash % RANGES) * RANGE_SIZE, size: RANGE_SIZE }];
}
