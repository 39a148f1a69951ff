/** A running QEMU behind QMP. Devices are plugged onto empty root ports, one after the other. */
import { closeSync, constants, openSync, statSync } from 'node:fs';
import { errnoNumber, errnoText } from '../../../../base/errno.ts';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Addon } from '../../../../native/index.ts';
import type {
  BlockDevice,
  FsDevice,
  Machine,
  MachineConfig,
  MachineDevice,
  MachineEvent,
  MachineStatus,
  NetDevice,
  NvdimmDevice,
  Placement,
  PmemDevice,
} from '../hypervisor.ts';
import { addedFd, cpuThreads, fdSets, qomEntries, runState, textAnswer } from './answers.ts';
import { portAddress, portName } from './command_line.ts';
import type { Device } from './arguments.ts';
import { plugMemory, plugVcpus } from './grow.ts';
import type { Lender } from './lend.ts';
import { findDimm, memoryObject, plugNvdimm, type MemoryObject } from './memory_device.ts';
import { QmpCommandError, type Qmp, type QmpEvent } from './qmp.ts';

/** Prefix of our devices' ids: QEMU wants a letter first. */
const PREFIX = 'dev-';
const UNPLUG_DEADLINE_MS = 30_000;

/** What is plugged onto a port: all but NVDIMMs. */
type PortDevice = Exclude<MachineDevice, NvdimmDevice>;

/** How to undo what a device's back end needed, by its kind; derived from the id, so that nothing has to be kept. */
const REMOVE_BACKEND: Record<PortDevice['kind'], (qmp: Qmp, id: string) => Promise<void>> = {
  block: async (qmp, id) => {
    await qmp.execute('blockdev-del', { 'node-name': backend('block', id) });
    await removeDescriptorSet(qmp, id);
  },
  pmem: async (qmp, id) => {
    await qmp.execute('object-del', { id: backend('pmem', id) });
  },
  net: async (qmp, id) => {
    await qmp.execute('netdev_del', { id: backend('net', id) });
  },
  fs: async (qmp, id) => {
    await qmp.execute('chardev-remove', { id: backend('fs', id) });
  },
};

const KIND_OF_DRIVER: Record<string, PortDevice['kind']> = {
  'virtio-blk-pci-non-transitional': 'block',
  'virtio-pmem-pci': 'pmem',
  'virtio-net-pci-non-transitional': 'net',
  'vhost-user-fs-pci': 'fs',
};

export interface MachineTools extends Lender {
  addon: Lender['addon'] & Pick<Addon, 'connectUnix'>;
}

export class QemuMachine implements Machine {
  readonly config: MachineConfig;
  readonly #qmp: Qmp;
  readonly #tools: MachineTools;
  /** By port; undefined: empty. */
  readonly #ports: ({ id: string; kind: PortDevice['kind'] } | undefined)[];
  #turn: Promise<unknown> = Promise.resolve();

  constructor(config: MachineConfig, qmp: Qmp, tools: MachineTools) {
    this.config = config;
    this.#qmp = qmp;
    this.#tools = tools;
    this.#ports = Array.from({ length: config.type === 'q35' ? config.ports : 0 }, () => undefined);
  }

  /** Learns from QEMU which ports are taken (after an engine restart). */
  async recall(): Promise<void> {
    const objects = await this.#qmp.ask(qomEntries, 'qom-list', { path: '/machine/peripheral' });
    for (const { name, type } of objects) {
      const kind = KIND_OF_DRIVER[/^child<(.*)>$/.exec(type)?.[1] ?? ''];
      if (!name.startsWith(PREFIX) || kind === undefined) continue;
      const bus = await this.#qmp.ask(textAnswer, 'qom-get', {
        path: `/machine/peripheral/${name}`,
        property: 'parent_bus',
      });
      const port = this.#ports.findIndex((_, index) => bus.endsWith(`/${portName(index)}`));
      if (port >= 0) this.#ports[port] = { id: name.slice(PREFIX.length), kind };
    }
  }

  plug(device: MachineDevice): Promise<Placement> {
    return this.#inTurn(async () => {
      this.#check(device);
      if (device.kind === 'nvdimm') return this.#plugNvdimm(device);
      const port = this.#freePort(device);
      this.#ports[port] = { id: device.id, kind: device.kind };
      try {
        const properties = await this.#makeBackend(device);
        try {
          const bus = portName(port);
          await this.#qmp.execute('device_add', { ...properties, id: PREFIX + device.id, bus, addr: '0' });
        } catch (error) {
          await REMOVE_BACKEND[device.kind](this.#qmp, device.id).catch(() => {});
          throw error;
        }
      } catch (error) {
        // Without an answer it may yet be plugged: nothing else goes onto that port.
        if (!isLate(error)) this.#ports[port] = undefined;
        throw error;
      }
      return { pciPath: `0000:00:${portAddress(port)}/00.0` };
    });
  }

  unplug(id: string): Promise<void> {
    return this.#inTurn(async () => {
      const port = this.#ports.findIndex((taken) => taken?.id === id);
      const taken = this.#ports[port];
      if (taken === undefined) throw this.#error(ErrorCode.NotFound, `device "${id}"`, 'no such device');
      await this.#awaitUnplugged(PREFIX + id).catch((error: unknown) => {
        // The guest has thrown it out by itself, or after we had given up waiting.
        if (!(error instanceof QmpCommandError && error.qmpClass === 'DeviceNotFound')) throw error;
      });
      await REMOVE_BACKEND[taken.kind](this.#qmp, id);
      this.#ports[port] = undefined;
    });
  }

  growMemory(mib: number): Promise<void> {
    return this.#inTurn(() => plugMemory(this.#qmp, this.config, mib));
  }

  addVcpus(count: number): Promise<void> {
    return this.#inTurn(() => plugVcpus(this.#qmp, this.config.id, count));
  }

  vcpuThreads(): Promise<number[]> {
    return this.#qmp.ask(cpuThreads, 'query-cpus-fast');
  }

  async stop(): Promise<void> {
    await this.#qmp.execute('stop');
  }

  async cont(): Promise<void> {
    await this.#qmp.execute('cont');
  }

  async status(): Promise<MachineStatus> {
    const { running, status } = await this.#qmp.ask(runState, 'query-status');
    return { running, state: status };
  }

  async quit(): Promise<void> {
    await this.#qmp.execute('quit').catch((error: unknown) => {
      // Gone before it could answer.
      if (this.#qmp.open) throw error;
    });
  }

  onEvent(listener: (event: MachineEvent) => void): () => void {
    let listening = true;
    const end = this.#qmp.onEvent((event) => {
      const told = translate(event);
      if (told !== undefined) listener(told);
    });
    this.#qmp.onClose(({ reason }) => {
      if (listening) listener({ type: 'closed', reason });
    });
    return () => {
      listening = false;
      end();
    };
  }

  close(): void {
    this.#qmp.close();
  }

  #check({ id }: MachineDevice): void {
    if (!/^[A-Za-z0-9._-]{1,24}$/.test(id))
      throw this.#error(ErrorCode.InvalidArgument, `device "${id}"`, 'not a valid id');
    if (this.config.type === 'microvm')
      throw this.#error(
        ErrorCode.Unimplemented,
        `device "${id}"`,
        'machine microvm takes no devices while it runs',
        'use machine q35',
      );
    if (this.#ports.some((taken) => taken?.id === id))
      throw this.#error(ErrorCode.AlreadyExists, `device "${id}"`, 'is plugged already');
  }

  #freePort({ id }: MachineDevice): number {
    const port = this.#ports.indexOf(undefined);
    if (port < 0)
      throw this.#error(
        ErrorCode.ResourceExhausted,
        `device "${id}"`,
        `all ${this.#ports.length} ports are taken`,
        'configure more ports for virtual machines',
      );
    return port;
  }

  #makeBackend(device: PortDevice): Promise<Device> {
    switch (device.kind) {
      case 'block':
        return this.#blockBackend(device);
      case 'pmem':
        return this.#pmemBackend(device);
      case 'net':
        return this.#netBackend(device);
      case 'fs':
        return this.#fsBackend(device);
    }
  }

  /** Opened here and handed over: QEMU has no right to the path, and a change of the path does not matter. */
  async #blockBackend({ id, path, readOnly, serial }: BlockDevice): Promise<Device> {
    const flags = readOnly ? constants.O_RDONLY : constants.O_RDWR;
    const fd = await this.#attempt(path, () => openSync(path, flags));
    const node = backend('block', id);
    let set: number;
    let driver: string;
    try {
      driver = statSync(path).isBlockDevice() ? 'host_device' : 'file';
      ({ set } = await this.#qmp.ask(addedFd, 'add-fd', { opaque: node }, { fd }));
    } finally {
      closeSync(fd);
    }
    try {
      await this.#qmp.execute('blockdev-add', {
        driver: 'raw',
        'node-name': node,
        'read-only': readOnly,
        discard: readOnly ? 'ignore' : 'unmap',
        file: { driver, filename: `/dev/fdset/${set}`, 'read-only': readOnly },
      });
    } catch (error) {
      await removeDescriptorSet(this.#qmp, id).catch(() => {});
      throw error;
    }
    return {
      driver: 'virtio-blk-pci-non-transitional',
      drive: node,
      serial: (serial ?? id).slice(0, 20),
      'num-queues': 1,
    };
  }

  async #pmemBackend({ id, path, size, mode }: PmemDevice): Promise<Device> {
    const name = backend('pmem', id);
    await this.#memoryObject({
      id: name,
      path,
      size,
      share: mode !== 'private',
      readOnly: mode === 'read-only',
    });
    return { driver: 'virtio-pmem-pci', memdev: name };
  }

  /** One that is there already is answered again: it cannot have been taken away since. */
  async #plugNvdimm({ id, path, size, align, readOnly, sync }: NvdimmDevice): Promise<Placement> {
    const device = PREFIX + id;
    const present = await findDimm(this.#qmp, device);
    if (present !== undefined) return present;
    const memdev = backend('nvdimm', id);
    await this.#memoryObject({ id: memdev, path, size, share: true, readOnly, align, sync });
    try {
      return await plugNvdimm(this.#qmp, this.config.id, { id: device, memdev, readOnly });
    } catch (error) {
      await this.#qmp.execute('object-del', { id: memdev }).catch(() => {});
      throw error;
    }
  }

  #memoryObject(object: MemoryObject): Promise<void> {
    const { credentials } = this.config;
    return this.#attempt(object.path, () => memoryObject(this.#qmp, this.#tools, credentials, object));
  }

  async #netBackend({ id, fd, mac, mtu }: NetDevice): Promise<Device> {
    const name = backend('net', id);
    await this.#qmp.execute('getfd', { fdname: name }, { fd });
    try {
      await this.#qmp.execute('netdev_add', { type: 'tap', id: name, fd: name });
    } catch (error) {
      // Refused before it was taken; else there is no such name any more.
      await this.#qmp.execute('closefd', { fdname: name }).catch(() => {});
      throw error;
    }
    return {
      driver: 'virtio-net-pci-non-transitional',
      netdev: name,
      mac,
      romfile: '',
      ...(mtu === undefined ? {} : { host_mtu: mtu }),
    };
  }

  async #fsBackend({ id, socketPath, tag }: FsDevice): Promise<Device> {
    if (!this.config.sharedMemory)
      throw this.#error(
        ErrorCode.FailedPrecondition,
        `device "${id}"`,
        'a shared directory needs memory that its daemon can map, and this machine has private memory',
      );
    const name = backend('fs', id);
    const fd = await this.#attempt(socketPath, () => this.#tools.addon.connectUnix(socketPath));
    try {
      await this.#qmp.execute('getfd', { fdname: name }, { fd });
    } finally {
      closeSync(fd);
    }
    const data = { addr: { type: 'fd', data: { str: name } }, server: false };
    try {
      await this.#qmp.execute('chardev-add', { id: name, backend: { type: 'socket', data } });
    } catch (error) {
      await this.#qmp.execute('closefd', { fdname: name }).catch(() => {});
      throw error;
    }
    return { driver: 'vhost-user-fs-pci', chardev: name, tag, 'queue-size': 1024 };
  }

  /** Our device's end is told by DEVICE_DELETED, when the guest has let go. */
  #awaitUnplugged(device: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () =>
          finish(
            this.#error(ErrorCode.DeadlineExceeded, `device "${device}"`, 'the guest does not let go of it'),
          ),
        UNPLUG_DEADLINE_MS,
      );
      const end = this.#qmp.onEvent(({ event, data }) => {
        if (event === 'DEVICE_DELETED' && data['device'] === device) finish();
      });
      const finish = (error?: Error): void => {
        clearTimeout(timer);
        end();
        if (error === undefined) resolve();
        else reject(error);
      };
      this.#qmp.execute('device_del', { id: device }).catch((error: Error) => {
        // An earlier request is still with the guest: its answer is ours.
        const pending = error instanceof QmpCommandError && error.qmpClass === 'DeviceUnplugPending';
        if (!pending) finish(error);
      });
    });
  }

  /** What the kernel refuses becomes a sentence about the path. */
  async #attempt<T>(path: string, run: () => T | Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (cause) {
      if (cause instanceof RuntimeError) throw cause;
      throw this.#error(ErrorCode.FailedPrecondition, path, reasonOf(cause), undefined, cause);
    }
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(run);
    this.#turn = mine.catch(() => {});
    return mine;
  }

  #error(code: ErrorCode, object: string, reason: string, remedy?: string, cause?: unknown): RuntimeError {
    return new RuntimeError({ code, op: 'vm', id: this.config.id, object, reason, remedy, cause });
  }
}

function isLate(error: unknown): boolean {
  return error instanceof RuntimeError && error.code === ErrorCode.DeadlineExceeded;
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const errno = code === undefined ? undefined : errnoNumber(code);
  return errno === undefined ? message : errnoText(errno);
}

function backend(kind: MachineDevice['kind'], id: string): string {
  return `${kind}-${id}`;
}

/** The set is found by what we said of it when it was made. */
async function removeDescriptorSet(qmp: Qmp, id: string): Promise<void> {
  for (const { set, opaque } of await qmp.ask(fdSets, 'query-fdsets'))
    if (opaque.includes(backend('block', id))) await qmp.execute('remove-fd', { 'fdset-id': set });
}

function translate({ event, data }: QmpEvent): MachineEvent | undefined {
  switch (event) {
    case 'SHUTDOWN':
      return {
        type: 'shutdown',
        guest: data['guest'] === true,
        reason: typeof data['reason'] === 'string' ? data['reason'] : '',
      };
    case 'STOP':
      return { type: 'stopped' };
    case 'RESUME':
      return { type: 'resumed' };
    case 'GUEST_PANICKED':
      return { type: 'panicked' };
    case 'DEVICE_DELETED': {
      const device = data['device'];
      if (typeof device !== 'string' || !device.startsWith(PREFIX)) return undefined;
      return { type: 'unplugged', id: device.slice(PREFIX.length) };
    }
    default:
      return undefined;
  }
}
