/**
 * Files of the host as memory of the guest: the back end that virtio-pmem and NVDIMMs share, and NVDIMMs themselves, which
 * have slots of the board instead of PCI ports and stay until their machine ends (QEMU cannot unplug them).
 */
import { closeSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Credentials, Placement } from '../hypervisor.ts';
import { addedFd, memoryDevices } from './answers.ts';
import { lendFile, type Lender } from './lend.ts';
import type { Qmp } from './qmp.ts';

export interface MemoryObject {
  /** Of the back end. */
  id: string;
  /** File or device. */
  path: string;
  size: number;
  share: boolean;
  readOnly: boolean;
  /** Bytes that its address is a multiple of; absent: a page. */
  align?: number;
  /** Mapped with MAP_SYNC; QEMU needs libpmem for that, and says so. */
  sync?: boolean;
}

/** By a descriptor that is lent: QEMU opens memory by path. Its own descriptor stays when ours is taken back. */
export async function memoryObject(
  qmp: Qmp,
  tools: Lender,
  credentials: Credentials | undefined,
  { id, path, size, share, readOnly, align, sync = false }: MemoryObject,
): Promise<void> {
  const fd = await lendFile(tools, path, credentials, readOnly);
  let lent: { set: number; fd: number };
  try {
    lent = await qmp.ask(addedFd, 'add-fd', { opaque: id }, { fd });
  } finally {
    closeSync(fd);
  }
  const takeBack = (): Promise<unknown> => qmp.execute('remove-fd', { 'fdset-id': lent.set });
  try {
    await qmp.execute('object-add', {
      'qom-type': 'memory-backend-file',
      id,
      size,
      'mem-path': `/proc/self/fd/${lent.fd}`,
      share,
      readonly: readOnly,
      ...(align === undefined ? {} : { align }),
      ...(sync ? { pmem: true } : {}),
    });
  } catch (error) {
    await takeBack().catch(() => {});
    throw error;
  }
  await takeBack();
}

/** Plugs an NVDIMM whose back end is there, and asks where the guest has it. */
export async function plugNvdimm(
  qmp: Qmp,
  machine: string,
  { id, memdev, readOnly }: { id: string; memdev: string; readOnly: boolean },
): Promise<Placement> {
  // The firmware's table then says that it takes no stores (NFIT, "not armed").
  await qmp.execute('device_add', { driver: 'nvdimm', id, memdev, ...(readOnly ? { unarmed: true } : {}) });
  const placed = await findDimm(qmp, id);
  if (placed !== undefined) return placed;
  throw new RuntimeError({
    code: ErrorCode.Internal,
    op: 'vm',
    id: machine,
    object: `device "${id}"`,
    reason: 'qemu does not say where the guest has it',
  });
}

/** Where the guest has a memory device; undefined: there is none of that id. */
export async function findDimm(qmp: Qmp, id: string): Promise<Placement | undefined> {
  const present = await qmp.ask(memoryDevices, 'query-memory-devices');
  const found = present.find((device) => device.id === id);
  return found === undefined ? undefined : { pciPath: '', address: found.addr };
}
