/**
 * Images for containers behind Kata's agent. It mounts a disk when the container is made, so what attach() plugs waits
 * until then. Disks stay plugged until the pod ends: the agent is not told of one that goes.
 */
import type { Machine, Placement } from '../hypervisor/hypervisor.ts';
import type { GuestVolumes } from '../pod_agent.ts';
import type { SandboxRecord } from '../record.ts';
import { volumeConflict, volumeDevice, writableTwin, type Volume } from '../storage.ts';
import { blockStorage, refuseMemory, type Storage } from './storage.ts';

export interface KataVolumesDeps {
  record: SandboxRecord;
  save: () => void;
  machine: () => Promise<Pick<Machine, 'plug'>>;
  /** Unmounts what the pod has in the guest, before its machine ends. */
  unmountAll: (id: string) => Promise<void>;
}

export class KataVolumes implements GuestVolumes {
  readonly #deps: KataVolumesDeps;
  readonly #waiting = new Map<string, Storage[]>();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(deps: KataVolumesDeps) {
    this.#deps = deps;
  }

  attach(id: string, volume: Volume, note: (device: string) => void): Promise<string> {
    const mine = this.#turn.then(() => this.#attach(id, volume, note));
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #attach(id: string, volume: Volume, note: (device: string) => void): Promise<string> {
    refuseMemory(id, volume);
    const { record, save } = this.#deps;
    const plugged = (record.disks ??= []);
    const own = [volume.device, writableTwin(volume)].find((device) => plugged.includes(device));
    if (own !== undefined) {
      note(own);
      return own;
    }
    if (volume.conflicts.some((device) => plugged.includes(device)))
      throw volumeConflict(id, volume, 'read-only');
    note(volume.device);
    plugged.push(volume.device);
    save();
    const placement = await this.#plug(volume).catch((error: unknown) => {
      record.disks = plugged.filter((device) => device !== volume.device);
      save();
      throw error;
    });
    this.#waiting.set(id, [...(this.#waiting.get(id) ?? []), blockStorage(volume, placement)]);
    return volume.device;
  }

  async #plug(volume: Volume): Promise<Placement> {
    return (await this.#deps.machine()).plug(volumeDevice(volume));
  }

  /** What the container's create has to have mounted; told once. */
  take(id: string): Storage[] {
    const storages = this.#waiting.get(id) ?? [];
    this.#waiting.delete(id);
    return storages;
  }

  detach(id: string): Promise<void> {
    this.#waiting.delete(id);
    return Promise.resolve();
  }

  /** There is no call that writes: the agent unmounts what the container has, and then what the pod has. */
  async flush(id: string, devices: readonly string[]): Promise<void> {
    this.#waiting.delete(id);
    if (devices.length > 0) await this.#deps.unmountAll(id);
  }
}
