/** Storages: what Kata's agent mounts in the guest before a container, or the sandbox, is made. Pure. */
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';
import type { bulkhead } from '../../../gen/kata.js';
import type { Placement } from '../hypervisor/hypervisor.ts';
import type { Volume } from '../storage.ts';
import { kataPlaces } from './layout.ts';

export type Storage = bulkhead.kata.v1.IStorage;

/** The directory of the host's files. */
export const shareStorage: Storage = {
  driver: 'virtio-fs',
  source: kataPlaces.shareTag,
  fstype: 'virtiofs',
  mountPoint: kataPlaces.share,
};

/** The pod's /dev/shm; each container that has it counts. */
export function shmStorage(bytes: number): Storage {
  return {
    driver: 'ephemeral',
    source: 'shm',
    fstype: 'tmpfs',
    options: ['noexec', 'nosuid', 'nodev', 'mode=1777', `size=${bytes}`],
    mountPoint: kataPlaces.shm,
  };
}

/** A disk at a place of the PCI bus. It stays until the pod ends, whoever has asked for it first. */
export function blockStorage({ readOnly, data, fstype, target }: Volume, placement: Placement): Storage {
  return {
    driver: 'blk',
    source: kataPciPath(placement),
    fstype,
    options: [...(readOnly ? ['ro'] : []), ...data],
    mountPoint: target,
    shared: true,
  };
}

/** "0000:00:04.1/00.0" as the agent wants it: without the root bus. */
export function kataPciPath({ pciPath }: Placement): string {
  return pciPath.replace(/^0000:00:/, '');
}

/** The agent finds persistent memory by the number that the guest's kernel has given it, which nobody knows beforehand. */
export function refuseMemory(id: string, { source, transport }: Volume): void {
  if (transport === 'block') return;
  throw new RuntimeError({
    code: ErrorCode.Unimplemented,
    op: 'create',
    id,
    object: `volume ${source}`,
    reason: "Kata's agent cannot be told which persistent memory it is",
    remedy: 'leave the option dax out, or use our own agent (vm.agent = "bulkhead")',
  });
}
