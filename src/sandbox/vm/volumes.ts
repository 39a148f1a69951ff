/**
 * Attaches volumes (storage.ts) to a running machine and takes them away again. Devices are named by what they hold,
 * so that containers of a pod share one, and an engine that has just started knows which are there.
 */
import type { bulkhead } from '../../gen/bulkhead.js';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { GuestAgent } from './agent.ts';
import type { MachineDevice, Placement } from './hypervisor/hypervisor.ts';
import type { GuestVolumes } from './pod_agent.ts';
import {
  canUnplug,
  volumeAt,
  volumeConflict,
  volumeDevice,
  volumePath,
  writableTwin,
  type Volume,
} from './storage.ts';

type IDevice = bulkhead.agent.v1.IDevice;
type IDeviceMatch = bulkhead.agent.v1.IDeviceMatch;

const MS_RDONLY = 1;
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
        throw volumeConflict(id, volume, 'read-only, or with DAX and without');
      note(own ?? volume.device);
      if (own === undefined) await this.#attach(id, volume);
      return own ?? volume.device;
    });
  }

  /**
   * Plugs what a container gets as a node, unless another container of the pod has it, and waits until the guest has it.
   * @param note as in attach()
   */
  attachNode(id: string, volume: Volume, note: (device: string) => void): Promise<IDevice> {
    return this.#inTurn(async () => {
      note(volume.device);
      const placed = await this.#plug(volume);
      const device = matchOf(volume, placed, 'dax');
      const reply = await this.#deps.agent.call('create', id, { waitDevice: { device } });
      return reply.device ?? {};
    });
  }

  /** Disks are found by their serial number, and need not be plugged twice; an NVDIMM that is there is no error. */
  #plug(volume: Volume): Promise<Placement | undefined> {
    return this.#deps.plug(volumeDevice(volume)).catch((error: unknown) => {
      const isThere = error instanceof RuntimeError && error.code === ErrorCode.AlreadyExists;
      if (isThere && volume.transport !== 'pmem') return undefined;
      throw error;
    });
  }

  /** Devices that the guest has mounted. */
  async #present(id: string): Promise<Set<string>> {
    const mounts = await this.#deps.agent.readFiles('create', id, [MOUNTS]);
    const targets = (mounts.get(MOUNTS) ?? '').split('\n').map((line) => line.split(' ')[1] ?? '');
    return new Set(targets.map(volumeAt).filter((device) => device !== undefined));
  }

  async #attach(id: string, volume: Volume): Promise<void> {
    const { unplug, agent } = this.#deps;
    const placed = await this.#plug(volume);
    try {
      await agent.mount(id, {
        device: matchOf(volume, placed, 'block'),
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
  detach(
    id: string,
    devices: readonly string[],
    isUsed: (device: string) => boolean = () => false,
  ): Promise<void> {
    if (devices.length === 0) return Promise.resolve();
    return this.#inTurn(async () => {
      await this.#deps.agent.call('delete', id, { sync: {} });
      const failures: Error[] = [];
      for (const device of devices.filter((each) => canUnplug(each) && !isUsed(each))) {
        await this.#deps.agent.unmount(id, volumePath(device)).catch(() => {});
        // One that the guest keeps does not keep the others.
        await this.#deps.unplug(device).catch((error: Error) => failures.push(error));
      }
      // One may have been noted, but not plugged.
      const told = failures.find(
        (error) => !(error instanceof RuntimeError && error.code === ErrorCode.NotFound),
      );
      if (told !== undefined) throw told;
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

/** Names like /dev/pmem0 depend on the order in which drivers find devices. @param subsystem of memory */
function matchOf(
  { transport, device }: Volume,
  { pciPath = '', address }: Partial<Placement> = {},
  subsystem: 'block' | 'dax',
): IDeviceMatch {
  if (transport === 'block') return { blockSerial: device };
  if (transport === 'nvdimm') return { pmemAddress: address ?? 0, subsystem };
  return { pciPath: pciPath.replace(/^0000:00:/, ''), subsystem };
}
