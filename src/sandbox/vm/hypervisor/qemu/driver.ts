/** The QEMU driver: what to launch for a configuration, and the machine behind its QMP socket. */
import { closeSync, constants, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Addon } from '../../../../native/index.ts';
import type { Launcher } from '../../../../native/launcher.ts';
import { hostNode } from '../../../../devices/host_node.ts';
import type { FunctionAccess, Hypervisor, Machine, MachineConfig, MachineLaunch } from '../hypervisor.ts';
import { VHOST_VSOCK, vsockPath } from '../agent_socket.ts';
import { renderArguments } from './arguments.ts';
import { FD, MAX_PORTS, portAddress, qemuSwitches, type MemorySource } from './command_line.ts';
import { functionFiles, groupNodes } from './functions.ts';
import { QemuMachine, type MachineTools } from './machine.ts';
import { Qmp } from './qmp.ts';
import { restoreState, saveState } from './state.ts';
import { TemplateMemory, type MemoryAddon } from './template_memory.ts';

export interface QemuOptions {
  /** Absolute path of qemu-system-x86_64. */
  program: string;
  addon: MachineTools['addon'] & MemoryAddon & Pick<Addon, 'sendFdOver' | 'mkfifo'>;
  /** bulkhead-init's; without it persistent memory must be readable by the machine's credentials. */
  launcher?: Launcher | undefined;
  /** Milliseconds that QEMU gets for an answer; default 60 s. */
  deadlineMs?: number;
  /**
   * The same for a machine with functions of the host; the longer one counts. Before it answers at all, QEMU locks the
   * guest's memory and maps it for them, which takes the longer the more there is.
   */
  pinDeadlineMs?: number;
}

/** The first start after a boot comes from the disk; on a busy machine that takes its time. */
const START_DEADLINE_MS = 60_000;

export class QemuHypervisor implements Hypervisor {
  readonly name = 'qemu';
  readonly program: string;
  readonly templates: TemplateMemory;
  readonly #options: QemuOptions;

  constructor(options: QemuOptions) {
    this.#options = options;
    this.program = options.program;
    this.templates = new TemplateMemory(options.addon);
  }

  functionPaths({ ports, functions = [] }: MachineConfig): string[] {
    return functions.map((_, index) => `${portAddress(ports + index)}/00.0`);
  }

  async prepare(config: MachineConfig): Promise<MachineLaunch> {
    check(config);
    const memory = await this.#memory(config);
    const restore = config.template !== undefined;
    try {
      return this.#launch(config, memory, { restore, paused: restore || hasDevices(config) });
    } catch (error) {
      memory.release();
      throw error;
    }
  }

  /** A machine that boots in a memory file, to be saved as a template. The descriptor is the caller's. */
  prepareTemplate(config: MachineConfig): { launch: MachineLaunch; memory: number } {
    check(config);
    const fd = this.#options.addon.memfd('bulkhead new template', config.size.memoryMib * 2 ** 20);
    const memory: PreparedMemory = {
      source: { kind: 'file', share: true },
      files: [memoryFile(fd)],
      ready: done,
      release: () => {},
    };
    try {
      return { launch: this.#launch(config, memory, { restore: false, paused: false }), memory: fd };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Stops a machine of prepareTemplate() and writes its devices' state to a new file. */
  async saveTemplate(config: MachineConfig, path: string): Promise<void> {
    const qmp = await this.#connect(config);
    try {
      await saveState(qmp, config.id, path, this.#deadlineMs);
    } finally {
      qmp.close();
    }
  }

  async attach(launch: MachineLaunch): Promise<Machine> {
    const { config } = launch;
    const qmp = await this.#connect(config);
    try {
      await launch.ready;
      if (config.template !== undefined) await restoreState(qmp, config.id, this.#deadlineMs);
      const machine = new QemuMachine(config, qmp, this.#options);
      for (const device of config.devices ?? []) await machine.plug(device);
      if (config.template !== undefined || hasDevices(config)) await machine.cont();
      return machine;
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  async reattach(config: MachineConfig): Promise<Machine> {
    const qmp = await this.#connect(config);
    try {
      const machine = new QemuMachine(config, qmp, this.#options);
      await machine.recall();
      return machine;
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  #launch(
    config: MachineConfig,
    memory: PreparedMemory,
    { restore, paused }: { restore: boolean; paused: boolean },
  ): MachineLaunch {
    const console = join(config.dir, 'console');
    rmSync(console, { force: true });
    this.#options.addon.mkfifo(console, 0o600);
    const state = config.template?.state;
    const { vsockCid } = config;
    const vsock = vsockCid !== undefined;
    return {
      config,
      program: this.program,
      args: ['qemu', ...renderArguments(qemuSwitches({ config, memory: memory.source, restore, paused }))],
      // One arena: QEMU's threads allocate little, and each further arena costs memory that is never used.
      env: ['MALLOC_ARENA_MAX=1'],
      listen: [
        { path: controlPath(config), descriptor: FD.monitor },
        ...(vsock ? [] : [{ path: agentPath(config), descriptor: FD.agent }]),
      ],
      files: [
        // The monitor holds the reading end: opening does not wait, and what was said outlives QEMU.
        { path: console, flags: constants.O_WRONLY | constants.O_NONBLOCK, descriptor: FD.console },
        ...(vsock ? [{ path: VHOST_VSOCK, flags: constants.O_RDWR, descriptor: FD.agent }] : []),
        ...memory.files,
        ...functionFiles(config).map((file) => ({ ...file, flags: constants.O_RDWR })),
        ...(state === undefined ? [] : [{ path: state, flags: constants.O_RDONLY, descriptor: FD.state }]),
      ],
      credentials: config.credentials,
      access: functionAccess(config),
      stdio: { stdin: '', stdout: console, stderr: console, terminal: false },
      agent: { path: vsock ? vsockPath(vsockCid) : agentPath(config) },
      ready: memory.ready,
      release: memory.release,
    };
  }

  get #deadlineMs(): number {
    return this.#options.deadlineMs ?? START_DEADLINE_MS;
  }

  #connect(config: MachineConfig): Promise<Qmp> {
    const deadlineMs = this.#deadlineMs;
    const { addon, pinDeadlineMs = deadlineMs } = this.#options;
    const pins = (config.functions ?? []).length > 0;
    return Qmp.connect(controlPath(config), {
      id: config.id,
      deadlineMs: pins ? Math.max(deadlineMs, pinDeadlineMs) : deadlineMs,
      connect: (path) => addon.connectUnix(path),
      sendFd: (socket, fd, message) => addon.sendFdOver(socket, fd, message),
    });
  }

  async #memory({ id, template, sharedMemory }: MachineConfig): Promise<PreparedMemory> {
    if (template === undefined)
      return { source: { kind: 'anonymous' }, files: [], ready: done, release: () => {} };
    if (!sharedMemory) {
      const sealed = await this.templates.sealed(template);
      // One of its own until the launch has opened it: a template that is discarded meanwhile closes the other.
      const fd = openSync(`/proc/self/fd/${sealed}`, constants.O_RDWR);
      const release = once(() => closeSync(fd));
      return { source: { kind: 'file', share: false }, files: [memoryFile(fd)], ready: done, release };
    }
    // Takes about as long as QEMU takes to start.
    const { fd, ready } = await this.templates.copy(template, `bulkhead ${id}`.slice(0, 200));
    // Told by attach(), which may never come.
    ready.catch(() => {});
    return {
      source: { kind: 'file', share: true },
      files: [memoryFile(fd)],
      ready,
      release: once(() => closeSync(fd)),
    };
  }
}

interface PreparedMemory {
  source: MemorySource;
  files: MachineLaunch['files'];
  ready: Promise<void>;
  release: () => void;
}

const done = Promise.resolve();

function once(run: () => void): () => void {
  let ran = false;
  return () => {
    if (!ran) run();
    ran = true;
  };
}

function hasDevices({ devices }: MachineConfig): boolean {
  return devices !== undefined && devices.length > 0;
}

/** By the name that it has in this process: the launch plan's executor opens it anew. */
function memoryFile(fd: number): MachineLaunch['files'][number] {
  return { path: `/proc/${process.pid}/fd/${fd}`, flags: constants.O_RDWR, descriptor: FD.memory };
}

/** The nodes' numbers are looked up now: they are made when a function is bound. */
function functionAccess(config: MachineConfig): FunctionAccess | undefined {
  const { functions = [], size, id } = config;
  if (functions.length === 0) return undefined;
  const nodes = groupNodes(config).map((path) => {
    const node = hostNode(path);
    if (node !== undefined) return { path, major: node.major, minor: node.minor };
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'vm',
      id,
      object: path,
      reason: 'no such device node: no function of that group is bound to vfio-pci',
    });
  });
  return { nodes, lockedBytes: size.memoryMib * 2 ** 20 };
}

export function controlPath({ dir }: MachineConfig): string {
  return join(dir, 'qmp.sock');
}

export function agentPath({ dir }: MachineConfig): string {
  return join(dir, 'agent.sock');
}

/** sockaddr_un's sun_path, with its end. */
const MAX_SOCKET_PATH = 108;
const MIN_MEMORY_MIB = 48;

function check(config: MachineConfig): void {
  const { size, ports, dir, type, functions = [], iommu, template } = config;
  const whole = (value: number | undefined): boolean =>
    value === undefined || (Number.isInteger(value) && value > 0);
  const rules: [ok: boolean, object: string, reason: string][] = [
    [
      whole(size.memoryMib) && size.memoryMib >= MIN_MEMORY_MIB,
      `memory ${size.memoryMib} MiB`,
      `less than ${MIN_MEMORY_MIB} MiB`,
    ],
    [whole(size.maxMemoryMib), `memory ${size.maxMemoryMib} MiB`, 'not a positive whole number'],
    [whole(size.vcpus) && whole(size.maxVcpus), `${size.vcpus} vcpus`, 'not a positive whole number'],
    [
      Number.isInteger(ports) && ports >= 0 && ports <= MAX_PORTS,
      `${ports} ports`,
      `not between 0 and ${MAX_PORTS}`,
    ],
    [
      Buffer.byteLength(agentPath(config)) < MAX_SOCKET_PATH,
      `directory ${dir}`,
      'too long for the path of a socket',
    ],
    [
      ports + functions.length <= MAX_PORTS,
      `${functions.length} functions of the host`,
      `more than there is room for (${MAX_PORTS - ports})`,
    ],
    [
      type === 'q35' || functions.length === 0,
      'machine microvm',
      'takes no functions of the host; use machine q35',
    ],
    [
      template === undefined || functions.length === 0,
      'template',
      'a machine with functions of the host cannot begin as a copy of a template',
    ],
    [
      iommu !== true || functions.length > 0,
      'an IOMMU of the guest',
      'is there for functions of the host, and the machine has none',
    ],
    [type === 'q35' || !hasDevices(config), 'machine microvm', 'takes no devices; use machine q35'],
  ];
  for (const [ok, object, reason] of rules)
    if (!ok)
      throw new RuntimeError({ code: ErrorCode.InvalidArgument, op: 'vm', id: config.id, object, reason });
}
