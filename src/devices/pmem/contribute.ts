/** Persistent memory in the namespace wall. Pure. */
import type { ContainerEdits } from '../cdi/types.ts';
import type { PmemDevice } from './probe.ts';

/**
 * A file system with DAX is bound to `containerPath`, and MAP_SYNC works through the bind; device-DAX and block modes
 * are a node, which the container maps or formats itself. Undefined when there is nothing to give.
 */
export function contributePmem(device: PmemDevice, containerPath = '/pmem'): ContainerEdits | undefined {
  const direct = device.mounts.find(({ dax }) => dax);
  if (device.mode === 'fsdax' && direct !== undefined) {
    const options = ['rbind', 'rprivate', 'nosuid', 'nodev'];
    return { mounts: [{ hostPath: direct.path, containerPath, type: 'bind', options }] };
  }
  // A block device with a mounted file system is the host's: writing beside it would destroy it.
  if (device.node === '' || device.mounts.length > 0) return undefined;
  return { deviceNodes: [{ path: device.node, permissions: 'rw' }] };
}
