/**
 * Disks of a guest: mounts of config.json, and root file systems, that are a file system image of the host, in a block
 * device or a file. The guest mounts the image itself; the host's kernel never reads what the guest writes in it.
 *
 *   type ext4, source /dev/vg/data or /images/data.ext4        → virtio-blk
 *   the same with option dax (dax=always, dax=inode)           → virtio-pmem, mounted with DAX: no second page cache
 *   the same in a file that begins as an NVDIMM does           → virtio-pmem, with DAX or without
 *
 * Pure, but for what `inspect` says of a path.
 */
import { createHash } from 'node:crypto';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { parseMountOptions } from '../../oci/mount_options.ts';
import { MOUNT_ATTR_RDONLY } from '../../base/constants.ts';
import type { MachineDevice } from './hypervisor/hypervisor.ts';

/** What the guest's kernel has a driver for; true: it cannot be written to. */
const fileSystems: Readonly<Record<string, boolean>> = {
  ext2: false,
  ext3: false,
  ext4: false,
  erofs: true,
  squashfs: true,
};
const WITH_DAX = ['ext4', 'erofs'];

/** Guests map persistent memory in pieces of this size. */
const PMEM_ALIGN = 2 * 2 ** 20;
const GUEST_VOLUMES = '/run/bulkhead/volumes';

/** A file or block device of the host. */
export interface HostImage {
  kind: 'block' | 'file';
  /** Bytes. */
  size: number;
  /** The same for every name of it. */
  identity: string;
  /** A block device that the host itself has mounted, or that something on it holds. */
  inUse: boolean;
  /** It begins as persistent memory does (devices/pmem/pfn.ts): the file system lies behind that, and is read as memory. */
  pfn?: boolean | undefined;
}

export interface MountLike {
  type?: string | undefined;
  source?: string | undefined;
  options?: readonly string[] | undefined;
}

/** An image to be mounted in the guest. */
export interface Volume {
  /** Id of the machine's device; the same for everybody who asks for the same image in the same way. */
  device: string;
  /** The same image attached in another way: read-only instead of read-write, as memory instead of a disk. */
  conflicts: string[];
  source: string;
  size: number;
  transport: 'block' | 'pmem';
  readOnly: boolean;
  fstype: string;
  /** Options of the superblock. */
  data: string[];
  /** Where the guest has it. */
  target: string;
}

/** Whether a mount is of a file system that lies in an image. */
export function isImageType(type: string | undefined): boolean {
  return type !== undefined && type in fileSystems;
}

/**
 * The volume that a mount asks for; undefined when it is of another kind.
 * @param object what it is, for messages: "mount /data", "rootfs"
 * @throws RuntimeError when the image cannot be given to a guest
 */
export function imageVolume(
  id: string,
  object: string,
  mount: MountLike,
  inspect: (path: string) => HostImage | undefined,
): Volume | undefined {
  const { type = '', source = '' } = mount;
  const alwaysReadOnly = fileSystems[type];
  if (alwaysReadOnly === undefined) return undefined;
  const refuse = (reason: string, remedy?: string, code: ErrorCode = ErrorCode.FailedPrecondition): never => {
    throw new RuntimeError({ code, op: 'create', id, object: `${object}: ${source}`, reason, remedy });
  };
  if (!source.startsWith('/')) refuse('the source of an image must be an absolute path');
  const image = inspect(source) ?? refuse('no such block device or file', undefined, ErrorCode.NotFound);
  if (image.inUse) refuse('the host uses this block device', 'unmount it on the host');
  const options = parseMountOptions([...(mount.options ?? [])]);
  const readOnly = alwaysReadOnly || (options.attributes.set & MOUNT_ATTR_RDONLY) !== 0;
  const data = [...options.superblock, ...options.data].filter((option) => option !== 'loop');
  const dax = data.some((option) => /^dax(=always|=inode)?$/.test(option));
  if (dax && !WITH_DAX.includes(type)) refuse(`file system ${type} has no DAX`);
  const memory = dax || image.pfn === true;
  if (memory && image.size % PMEM_ALIGN !== 0)
    refuse(
      `its size of ${image.size} bytes is no multiple of 2 MiB, in which persistent memory is mapped`,
      'make it larger (truncate -s %2M), or leave the option dax out',
    );
  return volumeOf({ image, source, type, readOnly, data, transport: memory ? 'pmem' : 'block' });
}

interface Wanted {
  image: HostImage;
  source: string;
  type: string;
  readOnly: boolean;
  data: string[];
  transport: Volume['transport'];
}

function volumeOf({ image, source, type, readOnly, data, transport }: Wanted): Volume {
  const ways = [
    ['block', true],
    ['block', false],
    ['pmem', true],
    ['pmem', false],
  ] as const;
  const device = deviceId(image, transport, readOnly);
  const conflicts = ways.map(([way, only]) => deviceId(image, way, only)).filter((other) => other !== device);
  return {
    device,
    // A writable image may be seen read-only: that is the mount's matter.
    conflicts: readOnly
      ? conflicts.filter((other) => other !== deviceId(image, transport, false))
      : conflicts,
    source,
    size: image.size,
    transport,
    readOnly,
    fstype: type,
    data,
    target: volumePath(device),
  };
}

/** At most 20 bytes, which a disk's serial number has; it says all that matters, so that nothing has to be kept. */
function deviceId({ identity }: HostImage, transport: Volume['transport'], readOnly: boolean): string {
  const hash = createHash('sha256').update(identity).digest('hex').slice(0, 16);
  return `${transport === 'block' ? 'b' : 'p'}${readOnly ? 'r' : 'w'}${hash}`;
}

/** Where the guest mounts a device. */
export function volumePath(device: string): string {
  return `${GUEST_VOLUMES}/${device}`;
}

/** The device that is mounted at a path of the guest; undefined: it is no volume. */
export function volumeAt(path: string): string | undefined {
  return path.startsWith(`${GUEST_VOLUMES}/`) ? path.slice(GUEST_VOLUMES.length + 1) : undefined;
}

/** Whether a machine gives the device back while it runs. */
export function canUnplug(device: string): boolean {
  return device.startsWith('b');
}

/** The same volume by a device that is there and writable. */
export function writableTwin({ device }: Volume): string {
  return `${device.slice(0, 1)}w${device.slice(2)}`;
}

/** For the machine. */
export function volumeDevice({ device, source, size, transport, readOnly }: Volume): MachineDevice {
  if (transport === 'block') return { kind: 'block', id: device, path: source, readOnly, serial: device };
  return { kind: 'pmem', id: device, path: source, size, mode: readOnly ? 'read-only' : 'shared' };
}

/** Mount options of the container's own mount of a volume that the guest has mounted already. */
export function bindOptions(options: readonly string[] = []): string[] {
  const parsed = parseMountOptions([...options]);
  const superblock = new Set([...parsed.superblock, ...parsed.data]);
  return ['bind', ...options.filter((option) => !superblock.has(option))];
}
