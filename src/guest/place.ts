/** Where the guest's parts lie: beside the bundle when installed, else in the tree. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Installed, everything is in this module's directory; a bundle that is not lies in dist/, a source two levels down. */
function find(installed: string, inTree: string): string {
  const here = import.meta.dirname;
  const places = [join(here, installed), join(here, '..', inTree), join(here, '..', '..', inTree)];
  return places.find((path) => existsSync(path)) ?? places[0] ?? '';
}

/** Path of bulkhead-agent or bulkhead-init. */
export function guestProgram(name: string): string {
  return find(name, join('build', 'native', name));
}

/** The kernel's configuration fragment. */
export function kernelFragment(): string {
  return find(join('guest', 'kernel.config'), join('guest', 'kernel.config'));
}
