/** What speaks against memory of the host in this machine, once it is known what the machine is. Pure. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { ALLOW_NONPERSISTENT } from '../../devices/pmem/checks.ts';
import type { Volume } from './storage.ts';

export interface MachineFacts {
  /** TCG: the guest's processor is a program, and its caches are the host's. */
  emulated: boolean;
  /** Functions of the host write to the guest's memory. */
  functions: boolean;
}

/** @throws RuntimeError FailedPrecondition for the first volume that cannot be given to such a machine */
export function checkMemory(id: string, volumes: readonly Volume[], machine: MachineFacts): void {
  for (const volume of volumes) {
    const against = reasonAgainst(volume, machine);
    if (against === undefined) continue;
    const code = ErrorCode.FailedPrecondition;
    throw new RuntimeError({ code, op: 'create', id, object: `PMEM volume ${volume.source}`, ...against });
  }
}

function reasonAgainst(
  { needsFlush, holdable }: Volume,
  { emulated, functions }: MachineFacts,
): { reason: string; remedy: string } | undefined {
  // QEMU's translator makes nothing of clflush and clwb: what a guest has flushed is in a cache of the host still.
  if (needsFlush && emulated)
    return {
      reason:
        'an emulated processor (TCG) does not write its caches back when it is told to; writes would not be durable',
      remedy: `run the machine on KVM, or set the annotation ${ALLOW_NONPERSISTENT}=true to go on`,
    };
  // VFIO holds all of a guest's memory (FOLL_LONGTERM), which the kernel refuses for files; QEMU then ends.
  if (functions && !holdable)
    return {
      reason:
        'a machine with functions of the host holds all of its memory in place, which the kernel does not do with files',
      remedy: 'give device-DAX (/dev/dax…), or leave the option dax out',
    };
  return undefined;
}
