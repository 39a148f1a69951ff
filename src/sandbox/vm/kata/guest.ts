/** A guest of Kata's: kernel, image or initrd as its releases have them, and what its runtime tells the kernel. Pure. */
import type { GuestImage, MachineDevice } from '../hypervisor/hypervisor.ts';

export interface KataGuestConfig {
  kernel: string;
  /** Disk image whose first partition is the root; empty: an initrd. */
  image: string;
  initrd: string;
  kernelArguments: string;
}

/** Of an image: the service that starts the agent, and not the network manager that would undo what it sets up. */
const SYSTEMD = [
  'systemd.unit=kata-containers.target',
  'systemd.mask=systemd-networkd.service',
  'systemd.mask=systemd-networkd.socket',
];
/** An agent that is the first process mounts the hierarchy that these name. */
const CGROUPS = ['cgroup_no_v1=all', 'systemd.unified_cgroup_hierarchy=1'];
/** The image is the only disk when the kernel comes up. */
const ROOT = ['root=/dev/vda1', 'rootfstype=ext4', 'rootflags=data=ordered,errors=remount-ro', 'ro'];

export function kataGuest({ kernel, image, initrd, kernelArguments }: KataGuestConfig): {
  image: GuestImage;
  devices: MachineDevice[];
} {
  const root = image === '' ? [] : ROOT;
  const commandLine = [...root, ...SYSTEMD, ...CGROUPS, kernelArguments]
    .filter((part) => part !== '')
    .join(' ');
  return {
    image: { kernel, initrd, commandLine },
    devices: image === '' ? [] : [{ kind: 'block', id: 'image', path: image, readOnly: true }],
  };
}
