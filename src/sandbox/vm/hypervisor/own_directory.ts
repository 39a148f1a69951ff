/**
 * Hypervisors that make their sockets themselves need a directory that they may write to. The machine's own is not one:
 * it holds the engine's sockets and records.
 */
import { chownSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';
import type { MachineConfig } from './hypervisor.ts';

/** sockaddr_un's sun_path, with its end. */
const MAX_SOCKET_PATH = 108;

/** A file of the hypervisor's own. */
export function ownPath({ dir }: MachineConfig, name: string): string {
  return join(dir, 'own', name);
}

/**
 * Makes the directory anew, for the machine's credentials alone.
 * @param sockets that the hypervisor will make in it
 * @throws RuntimeError InvalidArgument when the path of one is too long
 */
export function makeOwnDirectory(config: MachineConfig, sockets: readonly string[]): void {
  const { id, dir, credentials } = config;
  const long = sockets.find((name) => Buffer.byteLength(ownPath(config, name)) >= MAX_SOCKET_PATH);
  if (long !== undefined)
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'vm',
      id,
      object: `directory ${dir}`,
      reason: 'too long for the path of a socket',
    });
  const own = ownPath(config, '');
  rmSync(own, { recursive: true, force: true });
  mkdirSync(own, { mode: 0o700 });
  if (credentials !== undefined) chownSync(own, credentials.uid, credentials.gid);
}
