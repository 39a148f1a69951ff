/**
 * What the lab's machine is made of: a newer QEMU than Debian 12's and a stock Debian kernel, unpacked by set-up, or the
 * kernel of our own guests, which has what Debian's lacks (iommufd).
 */
import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { GuestCache } from '../../src/guest/cache.ts';

export const ROOT = resolve(import.meta.dirname, '../..');
const PEERS = join(ROOT, 'build/peers');
const GUESTS = join(ROOT, 'build/guest-cache');

export interface LabAssets {
  /** QEMU 10 or newer: SR-IOV network cards came with 8.0 (igb), and became usable later. */
  qemu: string;
  /** Directories with firmware, for `-L`. */
  firmware: string[];
  /** bzImage or vmlinux. */
  kernel: string;
  /** Directory with lib/modules/RELEASE; undefined: nothing of the kernel is a module. */
  modules: string | undefined;
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

/** The same machine with the kernel that `make guest` has built. Throws with the remedy when there is none, or a distribution's. */
export function withGuestKernel(stock: LabAssets, guests: string = GUESTS): LabAssets {
  const cache = new GuestCache(guests);
  const { key, release, modules } = cache.selected('lab');
  if (modules.length > 0) throw new Error(`lab: ${guests}: not a kernel of ours; run make guest`);
  return { ...stock, kernel: cache.kernelPath(key), modules: undefined, release };
}
