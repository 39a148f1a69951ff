/**
 * Disks of a guest: mounts of config.json, and root file systems, that are a file system image of the host, in a block
 * device or a file. The guest mounts the image itself; the host's kernel never reads what the guest writes in it.
 *
 *   type ext4, source /dev/vg/data or /images/data.ext4        → virtio-blk
 *   the same with option dax (dax=always, dax=inode)           → virtio-pmem, mounted with DAX: no second page cache
 *   what begins as an NVDIMM does (devices/pmem/pfn.ts),       → NVDIMM, mounted with DAX or without: MAP_SYNC
 *   in a file on a file system with DAX, or device-DAX
 *
 * And nodes of config.json: a block device is a disk, a device-DAX node that begins as one is an NVDIMM, and the guest's
 * own nodes for them stand in their place.
 *
 * Pure, but for what `inspect` says of a path.
 */
import { createHash } from 'node:crypto';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { parseMountOptions } from '../../oci/mount_options.ts';
import { MOUNT_ATTR_RDONLY } from '../../base/constants.ts';
import { ALLOW_NONPERSISTENT } from '../../devices/pmem/checks.ts';
import type { PfnInfo, PfnMode } from '../../devices/pmem/pfn.ts';
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
/** Of the guest's memory, and so of a file system's blocks that are mapped into it. */
const PAGE = 4096;

/** Guests map persistent memory in pieces of this size. */
const PMEM_ALIGN = 2 * 2 ** 20;
const GUEST_VOLUMES = '/run/bulkhead/volumes';

/** A file, block device or device-DAX node of the host. */
export interface HostImage {
  kind: 'block' | 'file' | 'dax';
  /** Bytes. */
  size: number;
  /** The same for every name of it. */
  identity: string;
  /** A block device that the host itself has mounted, or that something on it holds. */
  inUse: boolean;
  /** What its first blocks say that it is: the type of a mount, and bytes of a block; undefined: nothing known. */
  fstype?: string | undefined;
  blockBytes?: number | undefined;
  /** What a file or device-DAX that begins as an NVDIMM does says of itself; undefined: it does not. */
  info?: PfnInfo | undefined;
  /** Of device-DAX: bytes that its mappings are multiples of. */
  align?: number | undefined;
  /** mmap(2) grants MAP_SYNC. */
  sync?: boolean | undefined;
  /** Why stores to its memory are not durable; only looked at where there is `info`. undefined: they are. */
  volatile?: { reason: string; fix: string } | undefined;
  /** They are when the processor's caches have been written back, and not before (no eADR). */
  needsFlush?: boolean | undefined;
}

export interface MountLike {
  type?: string | undefined;
  source?: string | undefined;
  options?: readonly string[] | undefined;
}

/** An image for the guest: to be mounted there, or as a node. */
export interface Volume {
  /** Id of the machine's device; the same for everybody who asks for the same image in the same way. */
  device: string;
  /** The same image attached in another way: read-only instead of read-write, as memory instead of a disk. */
  conflicts: string[];
  source: string;
  size: number;
  transport: 'block' | 'pmem' | 'nvdimm';
  readOnly: boolean;
  /** Of an NVDIMM: what its place is a multiple of, and whether it is mapped with MAP_SYNC. */
  align: number;
  sync: boolean;
  /** Its pages can be held for a function of the host that writes to the guest's memory. */
  holdable: boolean;
  /** Stores are durable only if the processor that made them writes its caches back: a real one does. */
  needsFlush: boolean;
  /** Of a file system. */
  fstype: string;
  /** Options of the superblock. */
  data: string[];
  /** Where the guest has it mounted. */
  target: string;
}

/** Whether a mount is of a file system that lies in an image. */
export function isImageType(type: string | undefined): boolean {
  return type !== undefined && type in fileSystems;
}

/** Whether guests can have the pages of such a file system themselves. */
export function canDax(type: string): boolean {
  return WITH_DAX.includes(type);
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
  const refuse = refusal(id, `${object}: ${source}`);
  if (!source.startsWith('/')) refuse('the source of an image must be an absolute path');
  const image = inspect(source) ?? refuse('no such block device or file', undefined, ErrorCode.NotFound);
  if (image.inUse) refuse('the host uses this block device', 'unmount it on the host');
  const options = parseMountOptions([...(mount.options ?? [])]);
  const readOnly = alwaysReadOnly || (options.attributes.set & MOUNT_ATTR_RDONLY) !== 0;
  const data = [...options.superblock, ...options.data].filter((option) => option !== 'loop');
  const dax = data.some((option) => /^dax(=always|=inode)?$/.test(option));
  if (dax && !canDax(type)) refuse(`file system ${type} has no DAX`);
  if (dax && (image.blockBytes ?? PAGE) !== PAGE)
    refuse(
      `its file system has blocks of ${image.blockBytes} bytes, and DAX needs those of a page, ${PAGE}`,
      `make it anew (mkfs.${type} -b ${PAGE}), or leave the option dax out`,
    );
  if (image.kind === 'dax' && image.info?.mode !== 'fsdax')
    refuse(`does not begin as ${WHAT.fsdax} does`, prepare(source, 'fsdax'));
  if (image.info?.mode === 'devdax')
    refuse('is device-DAX for a guest, and has no file system', prepare(source, 'fsdax'));
  const transport = image.info !== undefined ? 'nvdimm' : dax ? 'pmem' : 'block';
  if (transport !== 'block') checkMemory(image, refuse);
  if (transport === 'nvdimm' && !readOnly) checkDurable(id, source, image);
  const device = deviceId(image, transport, readOnly);
  return {
    ...describe(image, source, { device, transport, readOnly }),
    conflicts: conflictsOf(image, transport, readOnly),
    fstype: type,
    data,
    target: volumePath(device),
  };
}

/** What a device-DAX node or file must begin as, for messages. */
const WHAT = { fsdax: 'persistent memory with a file system', devdax: 'device-DAX of a guest' } as const;

type Refuse = (reason: string, remedy?: string, code?: ErrorCode) => never;

function refusal(id: string, object: string): Refuse {
  return (reason, remedy, code = ErrorCode.FailedPrecondition) => {
    throw new RuntimeError({ code, op: 'create', id, object, reason, remedy });
  };
}

function prepare(source: string, mode: PfnMode): string {
  return `prepare it with: bulkhead devices pmem format --mode ${mode} ${source} (this erases it)`;
}

function checkMemory({ kind, size, align = PMEM_ALIGN, info }: HostImage, refuse: Refuse): void {
  if (size % PMEM_ALIGN !== 0)
    refuse(
      `its size of ${size} bytes is no multiple of 2 MiB, in which persistent memory is mapped`,
      info === undefined
        ? 'make it larger (truncate -s %2M), or leave the option dax out'
        : 'make it larger (truncate -s %2M)',
    );
  if (kind === 'dax' && size % align !== 0)
    refuse(`its size of ${size} bytes is no multiple of its alignment of ${align} bytes`);
}

/** In the words of devices/pmem/checks.ts: the guest would take stores for durable that are not. */
function checkDurable(id: string, source: string, { volatile }: HostImage): void {
  if (volatile === undefined) return;
  const remedy = `${volatile.fix}, or set the annotation ${ALLOW_NONPERSISTENT}=true to go on`;
  refusal(id, `PMEM volume ${source}`)(volatile.reason, remedy);
}

/** A volume that is a node in the guest and not mounted there: a block device, or device-DAX. */
export function nodeVolume(id: string, path: string, source: string, image: HostImage): Volume {
  const refuse = refusal(id, `device ${path}`);
  if (image.inUse) refuse('the host uses this block device', 'unmount it on the host');
  const transport = image.kind === 'dax' ? 'nvdimm' : 'block';
  if (transport === 'nvdimm') {
    if (image.info?.mode === 'fsdax')
      refuse(`begins as ${WHAT.fsdax} does`, `mount it: type ext4, source ${source}, option dax`);
    if (image.info === undefined)
      refuse(
        `does not begin as ${WHAT.devdax} does, and would be memory without DAX there`,
        `${prepare(source, 'devdax')}, or use the namespace wall`,
      );
    checkMemory(image, refuse);
    checkDurable(id, source, image);
  }
  const device = deviceId(image, transport === 'block' ? 'node' : transport, false);
  return {
    ...describe(image, source, { device, transport, readOnly: false }),
    conflicts: [],
    fstype: '',
    data: [],
    target: '',
  };
}

function describe(
  image: HostImage,
  source: string,
  way: Pick<Volume, 'device' | 'transport' | 'readOnly'>,
): Omit<Volume, 'conflicts' | 'fstype' | 'data' | 'target'> {
  const { size, align = PMEM_ALIGN, kind } = image;
  const durable = way.transport === 'nvdimm' && !way.readOnly;
  return {
    ...way,
    source,
    size,
    align: Math.max(align, PMEM_ALIGN),
    sync: durable && kind === 'file' && image.sync === true,
    holdable: way.transport === 'block' || kind === 'dax',
    needsFlush: durable && image.needsFlush === true,
  };
}

const LETTERS = { block: 'b', pmem: 'p', nvdimm: 'n', node: 'd' } as const;
type Way = keyof typeof LETTERS;

/** A writable image may be seen read-only: that is the mount's matter. */
function conflictsOf(image: HostImage, transport: Way, readOnly: boolean): string[] {
  const served = [deviceId(image, transport, readOnly)];
  if (readOnly) served.push(deviceId(image, transport, false));
  return (Object.keys(LETTERS) as Way[])
    .flatMap((way) => [true, false].map((only) => deviceId(image, way, only)))
    .filter((device) => !served.includes(device));
}

/** At most 20 bytes, which a disk's serial number has; it says all that matters, so that nothing has to be kept. */
function deviceId({ identity }: HostImage, way: Way, readOnly: boolean): string {
  const hash = createHash('sha256').update(identity).digest('hex').slice(0, 16);
  return `${LETTERS[way]}${readOnly ? 'r' : 'w'}${hash}`;
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
  return device.startsWith(LETTERS.block) || device.startsWith(LETTERS.node);
}

/** The same volume by a device that is there and writable. */
export function writableTwin({ device }: Volume): string {
  return `${device.slice(0, 1)}w${device.slice(2)}`;
}

/** For the machine. */
export function volumeDevice(volume: Volume): MachineDevice {
  const { device: id, source: path, size, readOnly, align, sync } = volume;
  switch (volume.transport) {
    case 'block':
      return { kind: 'block', id, path, readOnly, serial: id };
    case 'pmem':
      return { kind: 'pmem', id, path, size, mode: readOnly ? 'read-only' : 'shared' };
    case 'nvdimm':
      return { kind: 'nvdimm', id, path, size, align, readOnly, sync };
  }
}

/** Mount options of the container's own mount of a volume that the guest has mounted already. */
export function bindOptions(options: readonly string[] = []): string[] {
  const parsed = parseMountOptions([...options]);
  const superblock = new Set([...parsed.superblock, ...parsed.data]);
  return ['bind', ...options.filter((option) => !superblock.has(option))];
}

/** Two mounts of one volume that a machine cannot have both. @param how the pod has it already */
export function volumeConflict(id: string, { source }: Volume, how: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: `volume ${source}`,
    reason: `the pod has it already, but ${how}`,
    remedy: 'give all its mounts in the pod the same options',
  });
}
