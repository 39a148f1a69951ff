/** What the lab's machine is made of: a newer QEMU than Debian 12's and a stock Debian kernel, unpacked by set-up. */
import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const ROOT = resolve(import.meta.dirname, '../..');
const PEERS = join(ROOT, 'build/peers');

export interface LabAssets {
  /** QEMU 10 or newer: SR-IOV network cards came with 8.0 (igb), and became usable later. */
  qemu: string;
  /** Directories with firmware, for `-L`. */
  firmware: string[];
  /** bzImage. */
  kernel: string;
  /** Directory with lib/modules/RELEASE. */
  modules: string;
  /** Kernel release, "6.12.107+deb13-amd64". */
  release: string;
}

/** The assets below `peers`. Throws with the remedy when set-up has not been run. */
export function labAssets(peers: string = PEERS): LabAssets {
  const qemuDir = join(peers, 'lab-qemu');
  // The guest's PID 1 binds it before the chroot, where a link that is absolute would lead elsewhere.
  const modules = join(existsSync(peers) ? realpathSync(peers) : peers, 'lab-kernel');
  const qemu = join(qemuDir, 'usr/bin/qemu-system-x86_64');
  const releases = existsSync(join(modules, 'lib/modules')) ? readdirSync(join(modules, 'lib/modules')) : [];
  const [release] = releases;
  if (!existsSync(qemu) || release === undefined || releases.length !== 1) {
    throw new Error(`lab: ${peers}: no machine to boot; run tools/setup.sh`);
  }
  return {
    qemu,
    firmware: ['usr/share/qemu', 'usr/share/seabios', 'usr/lib/ipxe/qemu'].map((path) => join(qemuDir, path)),
    kernel: join(modules, 'boot', `vmlinuz-${release}`),
    modules,
    release,
  };
}
