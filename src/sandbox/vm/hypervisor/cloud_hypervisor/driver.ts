/**
 * Cloud Hypervisor (https://github.com/cloud-hypervisor/cloud-hypervisor) over its HTTP API: devices by hot-plug, shared
 * directories, growth. Written and tested against the published API; no Cloud Hypervisor has been run with it.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Addon } from '../../../../native/index.ts';
import { HttpApi } from '../http_api.ts';
import type {
  Hypervisor,
  Machine,
  MachineConfig,
  MachineDevice,
  MachineLaunch,
  MachineStatus,
  Placement,
} from '../hypervisor.ts';
import { makeOwnDirectory } from '../own_directory.ts';
import { unable } from '../refuse.ts';
import { ADD, deviceBody, isNvdimm, noNvdimms, vmConfig, VSOCK, vsockPath } from './requests.ts';

export interface CloudHypervisorOptions {
  /** Absolute path of cloud-hypervisor. */
  program: string;
  addon: Pick<Addon, 'mkfifo'>;
  /** Port on which the guest's agent listens on its vsock. */
  agentPort: number;
  deadlineMs?: number;
  /** Until a guest must have let go of a device; default 30 s. */
  unplugDeadlineMs?: number;
}

const WHO = 'cloud-hypervisor';
const API_FD = 3;
const MIB = 2 ** 20;
const UNPLUG_DEADLINE_MS = 30_000;
/** There are no events. */
const UNPLUG_POLL_MS = 20;

interface VmInfo {
  state?: string;
  memory_actual_size?: number;
  config?: { cpus?: { boot_vcpus?: number } };
  device_tree?: Record<string, unknown>;
}

export class CloudHypervisor implements Hypervisor {
  readonly name = 'cloud-hypervisor';
  readonly #options: CloudHypervisorOptions;

  constructor(options: CloudHypervisorOptions) {
    this.#options = options;
  }

  functionPaths(): string[] {
    return [];
  }

  async prepare(config: MachineConfig): Promise<MachineLaunch> {
    if ((config.functions ?? []).length > 0)
      throw unable(config.id, WHO, 'passes no functions of the host here', 'use qemu');
    const { program, addon, agentPort } = this.#options;
    // Refuses now what the API would refuse when the process runs already.
    vmConfig(config);
    const console = join(config.dir, 'console');
    // It makes the socket of its vsock itself.
    makeOwnDirectory(config, [VSOCK]);
    rmSync(console, { force: true });
    addon.mkfifo(console, 0o600);
    return {
      config,
      program,
      args: [WHO, '--seccomp', 'true', '--api-socket', `fd=${API_FD}`],
      env: [],
      listen: [{ path: apiPath(config), descriptor: API_FD }],
      files: [],
      credentials: config.credentials,
      stdio: { stdin: '', stdout: console, stderr: console, terminal: false },
      agent: {
        path: vsockPath(config),
        greeting: { send: `CONNECT ${agentPort}\n`, expect: 'OK ' },
      },
      ready: Promise.resolve(),
      release: () => {},
    };
  }

  async attach({ config }: MachineLaunch): Promise<Machine> {
    const api = this.#api(config);
    await api.call('PUT', '/vm.create', vmConfig(config));
    await api.call('PUT', '/vm.boot');
    return this.#machine(config, api);
  }

  async reattach(config: MachineConfig): Promise<Machine> {
    const machine = this.#machine(config, this.#api(config));
    await machine.status();
    return machine;
  }

  #machine(config: MachineConfig, api: HttpApi): CloudHypervisorMachine {
    return new CloudHypervisorMachine(config, api, this.#options.unplugDeadlineMs ?? UNPLUG_DEADLINE_MS);
  }

  #api(config: MachineConfig): HttpApi {
    const { deadlineMs } = this.#options;
    return new HttpApi({
      id: config.id,
      who: WHO,
      socketPath: apiPath(config),
      base: '/api/v1',
      reasonIn: reasons,
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    });
  }
}

class CloudHypervisorMachine implements Machine {
  readonly config: MachineConfig;
  readonly #api: HttpApi;
  readonly #unplugDeadlineMs: number;

  constructor(config: MachineConfig, api: HttpApi, unplugDeadlineMs: number) {
    this.config = config;
    this.#api = api;
    this.#unplugDeadlineMs = unplugDeadlineMs;
  }

  async plug(device: MachineDevice): Promise<Placement> {
    if (isNvdimm(device)) throw noNvdimms(this.config.id);
    if (device.kind === 'fs' && !this.config.sharedMemory)
      throw unable(this.config.id, WHO, 'cannot share a directory: this machine has private memory');
    const added = await this.#api.call<{ bdf?: string }>(
      'PUT',
      ADD[device.kind],
      deviceBody(this.config.id, device),
    );
    return { pciPath: added?.bdf ?? '' };
  }

  async unplug(id: string): Promise<void> {
    await this.#api.call('PUT', '/vm.remove-device', { id });
    // Answered when the guest has been asked: the device is there until it lets go (vmm/src/device_manager.rs, eject_device).
    const deadline = Date.now() + this.#unplugDeadlineMs;
    while (Object.hasOwn((await this.#info()).device_tree ?? {}, id)) {
      if (Date.now() >= deadline)
        throw new RuntimeError({
          code: ErrorCode.DeadlineExceeded,
          op: 'vm',
          id: this.config.id,
          object: `device "${id}"`,
          reason: `the guest has not let go of it within ${this.#unplugDeadlineMs / 1000} s`,
        });
      await sleep(UNPLUG_POLL_MS);
    }
  }

  async growMemory(mib: number): Promise<void> {
    const { memory_actual_size: now = this.config.size.memoryMib * MIB } = await this.#info();
    await this.#api.call('PUT', '/vm.resize', { desired_ram: now + mib * MIB });
  }

  async addVcpus(count: number): Promise<void> {
    const now = (await this.#info()).config?.cpus?.boot_vcpus ?? this.config.size.vcpus;
    await this.#api.call('PUT', '/vm.resize', { desired_vcpus: now + count });
  }

  async stop(): Promise<void> {
    await this.#api.call('PUT', '/vm.pause');
  }

  async cont(): Promise<void> {
    await this.#api.call('PUT', '/vm.resume');
  }

  async status(): Promise<MachineStatus> {
    const { state = '' } = await this.#info();
    return { running: state === 'Running', state: state.toLowerCase() };
  }

  async quit(): Promise<void> {
    await this.#api.call('PUT', '/vmm.shutdown');
  }

  /** The API has no events; the end of the process is told by its parent. */
  onEvent(): () => void {
    return () => {};
  }

  /** There is no connection to give up: every request has its own. */
  close(): void {}

  async #info(): Promise<VmInfo> {
    return (await this.#api.call<VmInfo>('GET', '/vm.info')) ?? {};
  }
}

function apiPath({ dir }: MachineConfig): string {
  return join(dir, 'api.sock');
}

/** A list of causes, outermost first, or plain text, by version. */
function reasons(body: string): string {
  try {
    const parsed: unknown = JSON.parse(body);
    return Array.isArray(parsed) ? parsed.map(String).join(': ') : body;
  } catch {
    return body;
  }
}
