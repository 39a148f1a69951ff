/**
 * Makes a file or a device-DAX node what a guest takes for an NVDIMM with DAX: the info block (pfn.ts), and an ext4 file
 * system behind it. All of it is erased: what a device held before is not handed to a guest.
 */
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { HostTree } from '../host_tree.ts';
import { holdersOf, openNodesOf } from '../machine.ts';
import { PFN_ALIGN, PFN_INFO_OFFSET, writePfnInfo, type PfnMode } from './pfn.ts';

export interface FormatRequest {
  /** Absolute; a file that is not there is made. */
  path: string;
  mode: PfnMode;
  /** Bytes of a file; undefined: as large as it is. */
  size?: number | undefined;
  /** "none": the guest makes a file system itself. */
  fstype: 'ext4' | 'none';
  /** Also when there are data. */
  force: boolean;
}

export interface FormatTools {
  host: HostTree;
  readMapped: (path: string, offset: number, align: number, length: number) => Uint8Array;
  writeMapped: (path: string, offset: number, align: number, data: Uint8Array) => void;
  /** Runs mke2fs(8); throws with its words. */
  mke2fs: (args: readonly string[]) => void;
  /** 16 bytes. */
  uuid: () => Uint8Array;
}

/** What is made, in bytes. */
export interface Formatted {
  size: number;
  dataOffset: number;
}

/** Written at once to device-DAX. */
const CHUNK = 32 << 20;
const ERASES = 'give --force to erase them';

/** @throws RuntimeError with nothing changed, or (mke2fs, a full file system) with a new file removed again */
export function formatPmem(request: FormatRequest, tools: FormatTools): Formatted {
  const { path } = request;
  const info = statSync(path, { throwIfNoEntry: false });
  if (info?.isCharacterDevice() === true) return formatDax(request, tools);
  if (info !== undefined && !info.isFile())
    throw refuse(
      path,
      'neither a file nor device-DAX',
      'make a file on a file system with dax, or use /dev/dax…',
    );
  if (request.mode === 'devdax')
    throw refuse(
      path,
      'a file is no node that a container could ask for',
      'give --mode fsdax, or use /dev/dax…',
    );
  return formatFile(request, tools, info?.size);
}

function formatFile(request: FormatRequest, tools: FormatTools, present: number | undefined): Formatted {
  const { path, force, fstype } = request;
  const size = request.size ?? present ?? 0;
  checkSize(path, size, PFN_ALIGN, present === undefined && request.size === undefined);
  const fd = openSync(path, present === undefined ? 'wx+' : 'r+', 0o600);
  try {
    if (present !== undefined && !force && !isEmpty(headOfFile(fd)))
      throw refuse(path, 'there are data', ERASES);
    // Both: what was there is a hole, and reads as zeros.
    ftruncateSync(fd, 0);
    ftruncateSync(fd, size);
    if (fstype === 'ext4') tools.mke2fs(ext4Arguments(path, size - PFN_ALIGN, PFN_ALIGN));
    // Last: what has been interrupted is no NVDIMM.
    writeSync(fd, writePfnInfo(size, tools.uuid(), request.mode), 0, undefined, PFN_INFO_OFFSET);
    fsyncSync(fd);
  } catch (error) {
    if (present === undefined) rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  return { size, dataOffset: PFN_ALIGN };
}

/** It has no write(2), which mke2fs needs: the file system is made in a sparse file and copied. */
function formatDax(request: FormatRequest, tools: FormatTools): Formatted {
  const { path, mode, force } = request;
  const { host } = tools;
  const directory = `/sys/bus/dax/devices/${path.slice('/dev/'.length)}`;
  const size = Number(host.text(`${directory}/size`) ?? '0');
  const align = Number(host.text(`${directory}/align`) ?? PFN_ALIGN);
  if (size === 0) throw refuse(path, 'is no device-DAX', 'see what there is with: bulkhead devices');
  if (request.size !== undefined) throw refuse(path, 'a device has the size it has', 'leave --size out');
  checkSize(path, size, Math.max(align, PFN_ALIGN), false);
  const holders = holdersOf({ openNodes: openNodesOf(host) }, [path]);
  if (holders.length > 0) throw refuse(path, `is in use by process ${holders.join(', ')}`, 'end it first');
  if (!force && !isEmpty(tools.readMapped(path, 0, align, PFN_ALIGN)))
    throw refuse(path, 'there are data', ERASES);
  const withFs = mode === 'fsdax' && request.fstype === 'ext4';
  const dir = mkdtempSync(join(tmpdir(), 'bulkhead-pmem-'));
  try {
    const image = join(dir, 'image');
    const fd = openSync(image, 'wx+', 0o600);
    try {
      ftruncateSync(fd, size);
      if (withFs) tools.mke2fs(ext4Arguments(image, size - PFN_ALIGN, PFN_ALIGN));
      copyAll(fd, size, (offset, data) => tools.writeMapped(path, offset, align, data));
    } finally {
      closeSync(fd);
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  tools.writeMapped(path, PFN_INFO_OFFSET, align, writePfnInfo(size, tools.uuid(), mode));
  return { size, dataOffset: PFN_ALIGN };
}

function copyAll(fd: number, size: number, write: (offset: number, data: Uint8Array) => void): void {
  const chunk = Buffer.alloc(Math.min(CHUNK, size));
  for (let at = 0; at < size; at += chunk.length) {
    const length = readSync(fd, chunk, 0, chunk.length, at);
    write(at, chunk.subarray(0, length));
  }
}

/** Blocks of 4 KiB are what DAX takes. */
function ext4Arguments(path: string, bytes: number, offset: number): string[] {
  const features = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-E', `offset=${offset}`];
  return [...features, path, `${Math.floor(bytes / 1024)}k`];
}

function checkSize(path: string, size: number, align: number, missing: boolean): void {
  if (missing) throw refuse(path, 'no such file, and no size for a new one', 'give --size');
  if (!Number.isSafeInteger(size) || size % align !== 0 || size < 2 * PFN_ALIGN)
    throw refuse(
      path,
      `${size} bytes: not a multiple of ${align >> 20} MiB of at least 4 MiB`,
      'give --size in whole units of that',
    );
}

function headOfFile(fd: number): Uint8Array {
  const head = Buffer.alloc(PFN_ALIGN);
  return head.subarray(0, readSync(fd, head, 0, PFN_ALIGN, 0));
}

function isEmpty(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

function refuse(path: string, reason: string, remedy: string): RuntimeError {
  const code = ErrorCode.FailedPrecondition;
  return new RuntimeError({ code, op: 'format', object: path, path, reason, remedy });
}
