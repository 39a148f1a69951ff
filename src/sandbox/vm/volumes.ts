/**
 * Attaches volumes (storage.ts) to a running machine and takes them away again. Devices are named by what they hold,
 * so that containers of a pod share one, and an engine that has just started knows which are there.
 */
import { constants, openSync, closeSync, readFileSync, readSync, statSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { PFN_INFO_OFFSET, PFN_INFO_SIZE, readPfnInfo } from '../../devices/pmem/pfn.ts';
import type { GuestAgent } from './agent.ts';
import type { MachineDevice, Placement } from './hypervisor/hypervisor.ts';
import type { GuestVolumes } from './pod_agent.ts';
import {
  canUnplug,
  volumeAt,
  volumeDevice,
  volumePath,
  writableTwin,
  type HostImage,
  type Volume,
} from './storage.ts';

const MS_RDONLY = 1;
const SECTOR = 512;
/** Of the agent; no symbolic link, which it would not follow. */
const MOUNTS = '/proc/1/mounts';

export interface VolumeDeps {
  plug: (device: MachineDevice) => Promise<Placement>;
  unplug: (device: string) => Promise<void>;
  agent: Pick<GuestAgent, 'mount' | 'unmount' | 'readFiles' | 'call'>;
}

export class Volumes implements GuestVolumes {
  readonly #deps: VolumeDeps;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(deps: VolumeDeps) {
    this.#deps = deps;
  }

  /**
   * Plugs a volume and mounts it in the guest, unless that has been done.
   * @param note called before anything is made, with the device that the container uses
   */
  attach(id: string, volume: Volume, note: (device: string) => void): Promise<string> {
    return this.#inTurn(async () => {
      const present = await this.#present(id);
      const own = [volume.device, writableTwin(volume)].find((device) => present.has(device));
      if (own === undefined && volume.conflicts.some((device) => present.has(device)))
        throw conflict(id, volume);
      note(own ?? volume.device);
      if (own === undefined) await this.#attach(id, volume);
      return own ?? volume.device;
    });
  }

  /** Devices that the guest has mounted. */
  async #present(id: string): Promise<Set<string>> {
    const mounts = await this.#deps.agent.readFiles('create', id, [MOUNTS]);
    const targets = (mounts.get(MOUNTS) ?? '').split('\n').map((line) => line.split(' ')[1] ?? '');
    return new Set(targets.map(volumeAt).filter((device) => device !== undefined));
  }

  async #attach(id: string, volume: Volume): Promise<void> {
    const { plug, unplug, agent } = this.#deps;
    const { pciPath } = await plug(volumeDevice(volume));
    try {
      await agent.mount(id, {
        // Names like /dev/pmem0 depend on the order in which drivers find devices.
        device:
          volume.transport === 'block'
            ? { blockSerial: volume.device }
            : { pciPath: pciPath.replace(/^0000:00:/, ''), subsystem: 'block' },
        target: volume.target,
        fstype: volume.fstype,
        flags: volume.readOnly ? MS_RDONLY : 0,
        data: volume.data.join(','),
      });
    } catch (error) {
      await unplug(volume.device).catch(() => {});
      throw error;
    }
  }

  /**
   * Writes what the guest still holds of these devices to them, and takes them away. Persistent memory stays: QEMU
   * cannot unplug it ("virtio based memory devices cannot be unplugged"), and the next container may want it.
   */
  detach(id: string, devices: readonly string[]): Promise<void> {
    if (devices.length === 0) return Promise.resolve();
    return this.#inTurn(async () => {
      await this.#deps.agent.call('delete', id, { sync: {} });
      for (const device of devices.filter(canUnplug)) {
        await this.#deps.agent.unmount(id, volumePath(device)).catch(() => {});
        await this.#deps.unplug(device).catch((error: unknown) => {
          // It was noted, but not plugged.
          if (!(error instanceof RuntimeError && error.code === ErrorCode.NotFound)) throw error;
        });
      }
    });
  }

  /** Before the machine ends: what the guest still holds is written, and the file systems are clean. */
  flush(id: string, devices: readonly string[]): Promise<void> {
    if (devices.length === 0) return Promise.resolve();
    return this.#inTurn(async () => {
      await this.#deps.agent.call('delete', id, { sync: {} });
      for (const device of devices) await this.#deps.agent.unmount(id, volumePath(device)).catch(() => {});
    });
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(run);
    this.#turn = mine.catch(() => {});
    return mine;
  }
}

function conflict(id: string, { source }: Volume): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: `volume ${source}`,
    reason: 'the pod has it already, but read-only, or with DAX and without',
    remedy: 'give all its mounts in the pod the same options',
  });
}

/** What a path of the host is; undefined when it is neither a block device nor a file. Links are followed. */
export function hostImage(path: string): HostImage | undefined {
  const info = statSync(path, { throwIfNoEntry: false });
  if (info?.isFile() === true)
    return {
      kind: 'file',
      size: info.size,
      identity: `file ${info.dev} ${info.ino}`,
      inUse: false,
      pfn: hasPfnInfo(path),
    };
  if (info?.isBlockDevice() !== true) return undefined;
  const number = deviceNumber(info.rdev);
  return {
    kind: 'block',
    size: Number(readFileSync(`/sys/dev/block/${number}/size`, 'utf8')) * SECTOR,
    identity: `block ${number}`,
    inUse: isHeld(path),
  };
}

function hasPfnInfo(path: string): boolean {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    const block = Buffer.alloc(PFN_INFO_SIZE);
    const length = readSync(fd, block, 0, PFN_INFO_SIZE, PFN_INFO_OFFSET);
    return readPfnInfo(block.subarray(0, length)) !== undefined;
  } finally {
    closeSync(fd);
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

/** "8:1", of a dev_t as glibc has it. */
function deviceNumber(rdev: number): string {
  const value = BigInt(rdev);
  const major = ((value >> 8n) & 0xfffn) | ((value >> 32n) & ~0xfffn & 0xffffffffn);
  const minor = (value & 0xffn) | ((value >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}
