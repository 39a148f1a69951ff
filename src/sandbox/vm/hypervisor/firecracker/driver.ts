/**
 * Firecracker (https://github.com/firecracker-microvm/firecracker) over its HTTP API. Its machines get their devices
 * before they start (plugging is a developer preview there, and the guest is not told); they have no shared directories. Written and tested against the published API; no
 * Firecracker has been run with it.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Addon } from '../../../../native/index.ts';
import { HttpApi } from '../http_api.ts';
import type { Hypervisor, Machine, MachineConfig, MachineLaunch, MachineStatus } from '../hypervisor.ts';
import { makeOwnDirectory, ownPath } from '../own_directory.ts';
import { unable } from '../refuse.ts';
import { SOCKETS, startRequests, vsockPath } from './requests.ts';

export interface FirecrackerOptions {
  /** Absolute path of firecracker. */
  program: string;
  addon: Pick<Addon, 'mkfifo'>;
  /** Port on which the guest's agent listens on its vsock. */
  agentPort: number;
  deadlineMs?: number;
}

const WHO = 'firecracker';

export class FirecrackerHypervisor implements Hypervisor {
  readonly name = 'firecracker';
  readonly #options: FirecrackerOptions;

  constructor(options: FirecrackerOptions) {
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
    startRequests(config);
    const console = join(config.dir, 'console');
    makeOwnDirectory(config, Object.values(SOCKETS));
    rmSync(console, { force: true });
    addon.mkfifo(console, 0o600);
    return {
      config,
      program,
      // It sets its own seccomp filters and makes its sockets itself, which must not be there.
      args: [WHO, '--api-sock', apiPath(config), '--id', apiId(config.id)],
      env: [],
      listen: [],
      files: [],
      credentials: config.credentials,
      // The guest's serial console is its standard output.
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
    await api.whenReady();
    for (const { method, path, body } of startRequests(config)) await api.call(method, path, body);
    return new FirecrackerMachine(config, api);
  }

  async reattach(config: MachineConfig): Promise<Machine> {
    const machine = new FirecrackerMachine(config, this.#api(config));
    await machine.status();
    return machine;
  }

  #api(config: MachineConfig): HttpApi {
    const { deadlineMs } = this.#options;
    return new HttpApi({
      id: config.id,
      who: WHO,
      socketPath: apiPath(config),
      reasonIn: faultMessage,
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    });
  }
}

class FirecrackerMachine implements Machine {
  readonly config: MachineConfig;
  readonly #api: HttpApi;

  constructor(config: MachineConfig, api: HttpApi) {
    this.config = config;
    this.#api = api;
  }

  plug(): Promise<never> {
    return this.#refuse('takes no devices while it runs');
  }

  unplug(): Promise<never> {
    return this.#refuse('gives up no devices while it runs');
  }

  growMemory(): Promise<never> {
    return this.#refuse('cannot grow');
  }

  addVcpus(): Promise<never> {
    return this.#refuse('cannot grow');
  }

  async stop(): Promise<void> {
    await this.#api.call('PATCH', '/vm', { state: 'Paused' });
  }

  async cont(): Promise<void> {
    await this.#api.call('PATCH', '/vm', { state: 'Resumed' });
  }

  async status(): Promise<MachineStatus> {
    const { state = '' } = (await this.#api.call<{ state?: string }>('GET', '/')) ?? {};
    return { running: state === 'Running', state: state.toLowerCase() };
  }

  quit(): Promise<never> {
    return this.#refuse('cannot be told to end', 'end its process');
  }

  /** The API has no events; the end of the process is told by its parent. */
  onEvent(): () => void {
    return () => {};
  }

  /** There is no connection to give up: every request has its own. */
  close(): void {}

  #refuse(what: string, remedy?: string): Promise<never> {
    return Promise.reject(unable(this.config.id, WHO, what, remedy));
  }
}

function apiPath(config: MachineConfig): string {
  return ownPath(config, SOCKETS.api);
}

/** Firecracker takes letters, digits and dashes, at most 64. */
function apiId(id: string): string {
  return id.replace(/[^A-Za-z0-9-]/g, '-').slice(0, 64);
}

function faultMessage(body: string): string {
  try {
    const { fault_message: reason } = JSON.parse(body) as { fault_message?: unknown };
    return typeof reason === 'string' ? reason : body;
  } catch {
    return body;
  }
}
