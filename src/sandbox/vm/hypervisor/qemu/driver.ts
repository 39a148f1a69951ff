/** The QEMU driver: what to launch for a configuration, and the machine behind its QMP socket. */
import { closeSync, constants, fstatSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Addon } from '../../../../native/index.ts';
import type { Hypervisor, Machine, MachineConfig, MachineLaunch } from '../hypervisor.ts';
import { renderArguments } from './arguments.ts';
import { FD, MAX_PORTS, qemuSwitches, type MemorySource } from './command_line.ts';
import { QemuMachine } from './machine.ts';
import { Qmp } from './qmp.ts';
import { restore } from './restore.ts';

export interface QemuOptions {
  /** Absolute path of qemu-system-x86_64. */
  program: string;
  addon: Pick<Addon, 'connectUnix' | 'sendFdOver' | 'memfd' | 'sealMemfd' | 'copySparse' | 'mkfifo'>;
  /** Milliseconds that QEMU gets for an answer; default 10 s. */
  deadlineMs?: number;
}

/** A start on a loaded machine: dynamic linking alone takes some 15 ms. */
const START_DEADLINE_MS = 20_000;

export class QemuHypervisor implements Hypervisor {
  readonly name = 'qemu';
  readonly #options: QemuOptions;
  /** Templates' memory by path, as sealed memory files that all machines map privately. */
  readonly #sealed = new Map<string, Promise<number>>();

  constructor(options: QemuOptions) {
    this.#options = options;
  }

  async prepare(config: MachineConfig): Promise<MachineLaunch> {
    check(config);
    const { addon, program } = this.#options;
    const console = join(config.dir, 'console');
    rmSync(console, { force: true });
    addon.mkfifo(console, 0o600);
    const memory = await this.#memory(config);
    const restored = config.template !== undefined;
    const paused = restored || (config.devices ?? []).length > 0;
    const switches = qemuSwitches({ config, memory: memory.source, restore: restored, paused });
    return {
      config,
      program,
      args: ['qemu', ...renderArguments(switches)],
      // One arena: QEMU's threads allocate little, and each further arena costs memory that is never used.
      env: ['MALLOC_ARENA_MAX=1'],
      listen: [
        { path: controlPath(config), descriptor: FD.monitor },
        { path: agentPath(config), descriptor: FD.agent },
      ],
      files: [
        // The monitor holds the reading end: opening does not wait, and what is said survives QEMU.
        { path: console, flags: constants.O_WRONLY | constants.O_NONBLOCK, descriptor: FD.console },
        ...memory.files,
        ...(config.template === undefined
          ? []
          : [{ path: config.template.state, flags: constants.O_RDONLY, descriptor: FD.state }]),
      ],
      credentials: config.credentials,
      stdio: { stdin: '', stdout: console, stderr: console, terminal: false },
      agent: { path: agentPath(config) },
      ready: memory.ready,
      release: memory.release,
    };
  }

  async attach(launch: MachineLaunch): Promise<Machine> {
    const { config } = launch;
    const qmp = await this.#connect(config);
    try {
      await launch.ready;
      if (config.template !== undefined) await restore(qmp, config.id);
      const machine = new QemuMachine(config, qmp, this.#options.addon);
      for (const device of config.devices ?? []) await machine.plug(device);
      if (config.template !== undefined || (config.devices ?? []).length > 0) await machine.cont();
      return machine;
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  async reattach(config: MachineConfig): Promise<Machine> {
    const qmp = await this.#connect(config);
    try {
      const machine = new QemuMachine(config, qmp, this.#options.addon);
      await machine.recall();
      return machine;
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  #connect(config: MachineConfig): Promise<Qmp> {
    const { addon, deadlineMs = START_DEADLINE_MS } = this.#options;
    return Qmp.connect(controlPath(config), {
      id: config.id,
      deadlineMs,
      connect: (path) => addon.connectUnix(path),
      sendFd: (socket, fd, message) => addon.sendFdOver(socket, fd, message),
    });
  }

  async #memory(config: MachineConfig): Promise<PreparedMemory> {
    const { template } = config;
    if (template === undefined) return { source: { kind: 'anonymous' }, files: [], ready: done, release: () => {} };
    if (!config.sharedMemory) {
      const fd = await this.#sealedMemory(template.memory);
      return { source: { kind: 'file', share: false }, files: [memoryFile(fd)], ready: done, release: () => {} };
    }
    const sealed = await this.#sealedMemory(template.memory);
    const { addon } = this.#options;
    const fd = addon.memfd(`bulkhead ${config.id}`.slice(0, 200), config.size.memoryMib * 2 ** 20);
    // Takes as long as QEMU takes to start.
    const ready = addon.copySparse(sealed, fd);
    // Told by attach(), which may never come.
    ready.catch(() => {});
    return {
      source: { kind: 'file', share: true },
      files: [memoryFile(fd)],
      ready,
      release: () => closeSync(fd),
    };
  }

  /**
   * QEMU wants to open memory for writing, also where it maps it privately, and one machine must not be able to change
   * what all later ones begin as: it gets a copy in memory that is sealed against writing (F_SEAL_WRITE).
   */
  #sealedMemory(path: string): Promise<number> {
    const known = this.#sealed.get(path);
    if (known !== undefined) return known;
    const made = this.#copyOf(path);
    this.#sealed.set(path, made);
    made.catch(() => this.#sealed.delete(path));
    return made;
  }

  async #copyOf(path: string): Promise<number> {
    const { addon } = this.#options;
    const source = openSync(path, 'r');
    let fd: number | undefined;
    try {
      fd = addon.memfd('bulkhead template', fstatSync(source).size);
      await addon.copySparse(source, fd);
      addon.sealMemfd(fd, true);
      return fd;
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      throw error;
    } finally {
      closeSync(source);
    }
  }
}

interface PreparedMemory {
  source: MemorySource;
  files: MachineLaunch['files'];
  ready: Promise<void>;
  release: () => void;
}

const done = Promise.resolve();

/** By the name that it has in this process: the launch plan's executor opens it anew. */
function memoryFile(fd: number): MachineLaunch['files'][number] {
  return { path: `/proc/${process.pid}/fd/${fd}`, flags: constants.O_RDWR, descriptor: FD.memory };
}

export function controlPath({ dir }: MachineConfig): string {
  return join(dir, 'qmp.sock');
}

export function agentPath({ dir }: MachineConfig): string {
  return join(dir, 'agent.sock');
}

/** sockaddr_un's sun_path, with its end. */
const MAX_SOCKET_PATH = 108;

function check(config: MachineConfig): void {
  const refuse = (object: string, reason: string): never => {
    throw new RuntimeError({ code: ErrorCode.InvalidArgument, op: 'vm', id: config.id, object, reason });
  };
  const { memoryMib, maxMemoryMib, vcpus, maxVcpus } = config.size;
  const whole = (value: number): boolean => Number.isInteger(value) && value > 0;
  if (!whole(memoryMib) || memoryMib < 32) refuse(`memory ${memoryMib} MiB`, 'at least 32 MiB are needed');
  if (!whole(vcpus)) refuse(`vcpus ${vcpus}`, 'not a positive number');
  if (maxVcpus !== undefined && !whole(maxVcpus)) refuse(`vcpus ${maxVcpus}`, 'not a positive number');
  if (maxMemoryMib !== undefined && !whole(maxMemoryMib)) refuse(`memory ${maxMemoryMib} MiB`, 'not a positive number');
  if (!Number.isInteger(config.ports) || config.ports < 0 || config.ports > MAX_PORTS)
    refuse(`ports ${config.ports}`, `not between 0 and ${MAX_PORTS}`);
  if (Buffer.byteLength(agentPath(config)) >= MAX_SOCKET_PATH)
    refuse(`directory ${config.dir}`, 'too long for the path of a socket');
  if (config.type === 'microvm' && config.template !== undefined && config.ports > 0)
    refuse('machine microvm', 'has no ports');
}
