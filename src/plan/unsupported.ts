/** Parts of the configuration that are valid and that this version does not carry out: refused by name, never ignored. */
import type { CreateContext } from './context.ts';

export function refuseUnsupported({ linux, refuse }: CreateContext): void {
  const version = 'is not supported by this version';
  if (linux.intelRdt !== undefined) refuse('config.json: linux.intelRdt', version);
  if (linux.memoryPolicy !== undefined) refuse('config.json: linux.memoryPolicy', version);
  if (Object.keys(linux.netDevices ?? {}).length > 0) refuse('config.json: linux.netDevices', version);
}
