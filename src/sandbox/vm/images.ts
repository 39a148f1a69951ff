/** What the host has where a volume or a device of a container comes from: a file, a block device, device-DAX. */
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { ALLOW_NONPERSISTENT } from '../../devices/pmem/checks.ts';
import {
  PFN_ALIGN,
  PFN_INFO_OFFSET,
  PFN_INFO_SIZE,
  readPfnInfo,
  type PfnInfo,
} from '../../devices/pmem/pfn.ts';
import type { Addon } from '../../native/index.ts';
import type { LinuxDevice } from '../../oci/types.ts';
import type { FileKind } from './spec.ts';
import type { HostImage } from './storage.ts';
import { readSuperblock } from './superblock.ts';

const SECTOR = 512;

export type ImageAddon = Pick<Addon, 'mapSync' | 'readMapped'>;

/** A device of the host, and where it is. */
export interface HostDevice {
  source: string;
  image: HostImage;
}

/** How a container's sources are looked at. */
export interface Images {
  inspect: (path: string) => FileKind;
  image: (path: string) => HostImage | undefined;
  device: (node: LinuxDevice) => HostDevice | undefined;
}

/**
 * Each is looked at once: what is refused or taken stays the same however often it is asked for.
 * @param annotations of its configuration: they may allow what is not durable
 */
export function imagesFor(addon: ImageAddon, annotations: Readonly<Record<string, string>> = {}): Images {
  const allowed = annotations[ALLOW_NONPERSISTENT] === 'true';
  const lenient = (image: HostImage): HostImage =>
    allowed ? { ...image, volatile: undefined, needsFlush: false } : image;
  return {
    inspect: once(fileKind),
    image: once((path) => {
      const image = hostImage(path, addon);
      return image && lenient(image);
    }),
    device: once((node) => {
      const found = hostDevice(node, addon);
      return found && { ...found, image: lenient(found.image) };
    }),
  };
}

function once<Key, Found>(look: (key: Key) => Found): (key: Key) => Found {
  const seen = new Map<Key, Found>();
  return (key) => {
    if (!seen.has(key)) seen.set(key, look(key));
    return seen.get(key) as Found;
  };
}

const KNOWN: HostImage = { kind: 'file', size: 0, identity: '', inUse: false };

/** Of a container that is there: what it came from has been looked at, and may be gone. */
export const knownImages: Images = {
  inspect: () => 'file',
  image: () => KNOWN,
  device: () => ({ source: '', image: KNOWN }),
};

/** What a path of the host is; undefined when it is none of the three. Links are followed. */
export function hostImage(path: string, addon: ImageAddon): HostImage | undefined {
  const info = statSync(path, { throwIfNoEntry: false });
  if (info?.isFile() === true) return fileImage(path, info, addon);
  if (info?.isBlockDevice() === true) return blockImage(path, deviceNumber(info.rdev));
  if (info?.isCharacterDevice() === true) return daxImage(path, deviceNumber(info.rdev), addon);
  return undefined;
}

/** The host's device behind a node of config.json, which only says its numbers; undefined: no such block device or DAX. */
export function hostDevice(
  { type, major, minor }: Pick<LinuxDevice, 'type' | 'major' | 'minor'>,
  addon: ImageAddon,
): HostDevice | undefined {
  if (type !== 'b' && type !== 'c') return undefined;
  const directory = `/sys/dev/${type === 'b' ? 'block' : 'char'}/${major}:${minor}`;
  const name = /^DEVNAME=(.+)$/m.exec(textOf(`${directory}/uevent`) ?? '')?.[1];
  if (name === undefined || (type === 'c' && !isDax(directory))) return undefined;
  const source = `/dev/${name}`;
  const image = hostImage(source, addon);
  return image === undefined ? undefined : { source, image };
}

function fileImage(
  path: string,
  { size, dev, ino }: { size: number; dev: number; ino: number },
  addon: ImageAddon,
): HostImage {
  const head = headOf(path);
  const info = readPfnInfo(head.subarray(PFN_INFO_OFFSET));
  const image: HostImage = {
    kind: 'file',
    size,
    identity: `file ${dev} ${ino}`,
    inUse: false,
    ...(info === undefined ? readSuperblock(head) : {}),
  };
  if (info === undefined) return image;
  const sync = grantsMapSync(path, PFN_ALIGN, addon);
  const needsFlush = !keepsCaches(`/sys/dev/block/${deviceNumber(dev)}`);
  return { ...image, info, sync, needsFlush, ...(sync ? {} : { volatile: NO_MAP_SYNC }) };
}

const NO_MAP_SYNC = {
  reason: 'MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable',
  fix: 'put it on a file system that is mounted with dax',
};

/** All that tells what a file is lies in its first bytes. */
function headOf(path: string): Buffer {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    const block = Buffer.alloc(PFN_INFO_OFFSET + PFN_INFO_SIZE);
    return block.subarray(0, readSync(fd, block, 0, block.length, 0));
  } finally {
    closeSync(fd);
  }
}

function grantsMapSync(path: string, length: number, { mapSync }: ImageAddon): boolean {
  try {
    mapSync(path, length);
    return true;
  } catch {
    return false;
  }
}

function blockImage(path: string, number: string): HostImage {
  return {
    kind: 'block',
    size: Number(readFileSync(`/sys/dev/block/${number}/size`, 'utf8')) * SECTOR,
    identity: `block ${number}`,
    inUse: isHeld(path),
  };
}

/** Its size and alignment are in sysfs (Documentation/ABI/testing/sysfs-bus-dax); it can always be mapped with MAP_SYNC. */
function daxImage(path: string, number: string, addon: ImageAddon): HostImage | undefined {
  const directory = `/sys/dev/char/${number}`;
  if (!isDax(directory)) return undefined;
  const size = Number(textOf(`${directory}/size`) ?? '0');
  const align = Number(textOf(`${directory}/align`) ?? PFN_ALIGN);
  return {
    kind: 'dax',
    size,
    align,
    identity: `dax ${number}`,
    inUse: false,
    info: readDaxInfo(path, size, align, addon),
    sync: true,
    needsFlush: !keepsCaches(directory),
  };
}

export function readDaxInfo(
  path: string,
  size: number,
  align: number,
  addon: Pick<Addon, 'readMapped'>,
): PfnInfo | undefined {
  if (size < align) return undefined;
  return readPfnInfo(addon.readMapped(path, PFN_INFO_OFFSET, align, PFN_INFO_SIZE));
}

function isDax(directory: string): boolean {
  try {
    return readlinkSync(`${directory}/subsystem`).endsWith('/dax');
  } catch {
    return false;
  }
}

/** Whether what a processor's caches hold outlives a power cut (eADR), as the region of a device says. */
function keepsCaches(directory: string): boolean {
  try {
    const [region] = /^.*\/region\d+(?=\/)/.exec(realpathSync(directory)) ?? [];
    return region !== undefined && textOf(`${region}/persistence_domain`) === 'cpu_cache';
  } catch {
    return false;
  }
}

/** open(2): O_EXCL of a block device without O_CREAT fails with EBUSY when the system uses it. */
function isHeld(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_EXCL));
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBUSY';
  }
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

/** "8:1", of a dev_t as glibc has it. */
function deviceNumber(rdev: number): string {
  const value = BigInt(rdev);
  const major = ((value >> 8n) & 0xfffn) | ((value >> 32n) & ~0xfffn & 0xffffffffn);
  const minor = (value & 0xffn) | ((value >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

/** Bytes that a file system holds. */
export function sizeOf(path: string): number {
  const { blocks, bsize } = statfsSync(path);
  return blocks * bsize;
}

/** What a path of the host leads to; links are followed, as mounting does. */
export function fileKind(path: string): FileKind {
  const info = statSync(path, { throwIfNoEntry: false });
  if (info === undefined) return 'missing';
  if (info.isDirectory()) return 'directory';
  if (info.isCharacterDevice()) return 'character device';
  if (info.isBlockDevice()) return 'block device';
  if (info.isSocket()) return 'socket';
  return info.isFIFO() ? 'fifo' : 'file';
}
