/** Why persistent memory cannot go behind a wall, or would not be persistent there. */
import type { HostTree } from '../host_tree.ts';
import { type Check, type Refusal } from '../model.ts';
import { hasDax, readMounts, type Mount, type PmemDevice } from './probe.ts';

/** Of config.json: "true" starts a container also where its persistent memory is not persistent. */
export const ALLOW_NONPERSISTENT = 'bulkhead.io/allow-nonpersistent';

const subject = ({ id }: PmemDevice): string => `PMEM ${id}`;

function misaligned({ address, align, size }: PmemDevice): boolean {
  return align > 0 && ((address ?? 0) % align !== 0 || size % align !== 0);
}

const hex = (value: number): string => `0x${value.toString(16)}`;

export const pmemChecks: readonly Check<PmemDevice>[] = [
  {
    name: 'pmem-misaligned',
    walls: ['namespace', 'vm'],
    look: (device) => {
      if (device.node !== '' || !misaligned(device)) return undefined;
      const { region, address = 0, align, size } = device;
      return {
        sentence: `${subject(device)}: no driver can map it: ${region} at ${hex(address)}, namespace of ${hex(size)} bytes, not multiples of the alignment ${hex(align)}`,
        fix: 'lay the region out at a multiple of its alignment (in a virtual machine: size less label-size a multiple of 16 MiB)',
      };
    },
  },
  {
    name: 'pmem-no-driver',
    walls: ['namespace', 'vm'],
    look: (device) =>
      device.node !== '' || misaligned(device)
        ? undefined
        : {
            sentence: `${subject(device)}: no driver has taken it`,
            fix: device.mode === 'devdax' ? 'modprobe device_dax' : 'modprobe nd_pmem',
          },
  },
  {
    name: 'pmem-in-use',
    walls: ['vm'],
    look: (device) => {
      const [first] = device.mounts;
      if (first === undefined || device.mode === 'fsdax') return undefined;
      return {
        sentence: `${subject(device)}: the host has its file system mounted at ${first.path}, and a guest would need it for itself`,
        fix: `umount ${first.path}`,
      };
    },
  },
  {
    name: 'pmem-not-mounted',
    walls: ['vm'],
    look: (device) =>
      device.mode !== 'fsdax' || device.node === '' || device.mounts.length > 0
        ? undefined
        : {
            sentence: `${subject(device)}: a guest gets a file of a file system on ${device.node}, and none is mounted`,
            fix: `mkfs.ext4 -b 4096 ${device.node} && mount -o dax=always ${device.node} /mnt`,
          },
  },
  {
    name: 'map-sync',
    walls: ['vm'],
    look: (device, { host }) => {
      const [first] = device.mounts;
      if (device.mode !== 'fsdax' || first === undefined || device.mounts.some(({ dax }) => dax))
        return undefined;
      return noMapSync(host, first.path);
    },
  },
  {
    name: 'wall',
    walls: ['sentry'],
    look: (device) => ({
      sentence: `${subject(device)}: the sentry wall passes no devices of the host`,
      fix: 'use the namespace or the vm wall',
    }),
  },
];

/** @param path of the host; what it is on decides what would change it */
export function noMapSync(host: HostTree, path: string): Omit<Refusal, 'check'> {
  return {
    sentence: `PMEM volume ${path}: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable`,
    fix: mountWithDax(coveringMount(host, path)),
  };
}

/** The option is looked at when a file system is mounted, and refused when it is mounted again with another (ext4, xfs). */
function mountWithDax(mount: Mount | undefined): string {
  if (mount === undefined || !/^\/dev\/pmem[\d.]+$/.test(mount.source)) {
    return 'use a directory of an ext4 or xfs on /dev/pmemN that is mounted with dax=always; bulkhead devices names them';
  }
  const { source, target } = mount;
  return `umount ${target} && mount -o dax=always ${source} ${target}`;
}

/** The mount that a path is in. */
function coveringMount(host: HostTree, path: string): Mount | undefined {
  return (
    readMounts(host)
      .filter(({ target }) => target === '/' || path === target || path.startsWith(`${target}/`))
      // Of two mounts on one place the later one is seen.
      .reduce<Mount | undefined>(
        (best, mount) => (best === undefined || mount.target.length >= best.target.length ? mount : best),
        undefined,
      )
  );
}

/**
 * The refusal of a directory as a persistent volume, by how it is mounted: ext4 or xfs with dax on persistent memory
 * passes, through bind mounts too; an overlay or tmpfs never does. Only mmap(2) with MAP_SYNC would prove it.
 */
export function checkPmemVolume(host: HostTree, path: string): Refusal | undefined {
  const covering = coveringMount(host, path);
  const direct =
    covering !== undefined && ['ext4', 'xfs'].includes(covering.type) && hasDax(covering.options);
  return direct ? undefined : { check: 'map-sync', ...noMapSync(host, path) };
}
