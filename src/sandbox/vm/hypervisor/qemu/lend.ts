/**
 * Files that QEMU opens by itself although it may not: guest memory is opened by path (memory-backend-file), and QEMU
 * runs as nobody. It gets a descriptor on a mount of the file alone that shows QEMU as the owner, and opens that by
 * /proc/self/fd; the file keeps its owner, and QEMU cannot reach any other.
 */
import { closeSync, constants, openSync, statSync } from 'node:fs';
import { CLONE_NEWUSER } from '../../../../base/constants.ts';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Addon } from '../../../../native/index.ts';
import type { Launcher } from '../../../../native/launcher.ts';
import { encodePlan } from '../../../../plan/encode.ts';
import type { Credentials } from '../hypervisor.ts';

export interface Lender {
  /** bulkhead-init: a process is needed to make a user namespace. Without it only files of everybody can be lent. */
  launcher?: Launcher | undefined;
  addon: Pick<Addon, 'lendFile' | 'lendDevice'>;
}

/** A descriptor for processes with the credentials; the caller closes it. Without credentials it is simply opened. */
export async function lendFile(
  { launcher, addon }: Lender,
  path: string,
  credentials: Credentials | undefined,
  readOnly: boolean,
): Promise<number> {
  if (credentials === undefined || launcher === undefined)
    return openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
  const { uid, gid } = credentials;
  const status = statSync(path);
  if (status.isBlockDevice() || status.isCharacterDevice()) return addon.lendDevice(path, uid, gid, readOnly);
  if (!status.isFile())
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'vm',
      object: path,
      reason: 'neither a file nor a device',
    });
  const namespace = await userNamespace(
    launcher,
    { owner: status.uid, uid },
    { owner: status.gid, uid: gid },
  );
  try {
    return addon.lendFile(path, namespace, readOnly);
  } finally {
    closeSync(namespace);
  }
}

interface IdPair {
  owner: number;
  uid: number;
}

/** A user namespace that maps one user and one group: alive as long as its descriptor. */
async function userNamespace(launcher: Launcher, user: IdPair, group: IdPair): Promise<number> {
  const map = ({ owner, uid }: IdPair): { containerId: number; hostId: number; size: number }[] => [
    { containerId: owner, hostId: uid, size: 1 },
  ];
  const clone = { namespaces: CLONE_NEWUSER, uidMaps: map(user), gidMaps: map(group) };
  const launched = launcher.launch({
    plan: encodePlan({ version: 1, id: 'id map', steps: [{ clone }, { gate: { point: 'mapped' } }] }),
  });
  try {
    const { pid } = await launched.advance();
    return openSync(`/proc/${pid}/ns/user`, 'r');
  } finally {
    launched.abandon();
    await launched.exited;
  }
}
