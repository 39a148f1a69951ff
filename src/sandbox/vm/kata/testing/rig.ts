/** A pod with a scripted agent behind a unix socket, without a machine: for tests of what speaks the protocol. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '../../../../base/log.ts';
import { streamTransport, TtrpcClient } from '../../../../rpc/index.ts';
import type { Executor, HeldProcess, ProcessExit } from '../../../executor.ts';
import type { AgentSocket, MachineDevice } from '../../hypervisor/hypervisor.ts';
import type { SandboxRecord } from '../../record.ts';
import { KataAgent } from '../agent.ts';
import type { OpenRpc } from '../rpc.ts';
import { ScriptedAgent } from './scripted_agent.ts';

export const open: OpenRpc = (stream) => new TtrpcClient(streamTransport(stream));

/** Listens where a machine's agent does. */
export class AgentServer implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'bh-kata-'));
  readonly path = join(this.dir, 'agent.sock');
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(serve: (socket: Socket) => void) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket)).on('error', () => {});
      serve(socket);
    });
  }
  async listen(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(this.path, resolve));
    return this;
  }
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.hangUp();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Holds processes, as the monitor's executor does. */
export class HoldingExecutor {
  readonly held = new Map<string, HeldProcess>();
  readonly exits: ProcessExit[] = [];
  readonly #listeners = new Set<(exit: ProcessExit) => void>();

  readonly executor = {
    hold: (key: string, process: HeldProcess) => {
      this.held.set(key, process);
      return (exit: Omit<ProcessExit, 'key'>) => this.tell({ key, ...exit });
    },
    onExit: (listener: (exit: ProcessExit) => void) => {
      this.#listeners.add(listener);
      return () => this.#listeners.delete(listener);
    },
  } as unknown as Executor;

  tell(exit: ProcessExit): void {
    this.exits.push(exit);
    for (const listener of this.#listeners) listener(exit);
  }
  process(key: string): HeldProcess {
    const found = this.held.get(key);
    if (found === undefined) throw new Error(`no process ${key}`);
    return found;
  }
  /** The exit of a process, told already or later. */
  exit(key: string): Promise<ProcessExit> {
    const told = this.exits.find((exit) => exit.key === key);
    if (told !== undefined) return Promise.resolve(told);
    return new Promise((resolve) => {
      const listener = (exit: ProcessExit): void => {
        if (exit.key !== key) return;
        this.#listeners.delete(listener);
        resolve(exit);
      };
      this.#listeners.add(listener);
    });
  }
}

export class KataRig implements AsyncDisposable {
  readonly agent = new ScriptedAgent();
  readonly holder = new HoldingExecutor();
  readonly record: SandboxRecord = { namespace: 'default', group: 'pod', pid: 77, containers: [] };
  readonly plugged: MachineDevice[] = [];
  readonly warnings: string[] = [];
  /** Of the machine, to plug anything. */
  refusal: Error | undefined;
  server: AgentServer = new AgentServer((socket) => this.agent.serve(socket));
  pod: KataAgent = this.#make();

  static async start(): Promise<KataRig> {
    const rig = new KataRig();
    await rig.server.listen();
    await rig.pod.connect(rig.socket);
    return rig;
  }

  get socket(): AgentSocket {
    return { path: this.server.path };
  }

  /** As an engine that has just started. */
  restart(): KataAgent {
    this.pod.close();
    this.pod = this.#make();
    return this.pod;
  }

  #make(): KataAgent {
    const log = createLogger((line) => this.warnings.push(line), 'warning');
    return new KataAgent(
      {
        executor: this.holder.executor,
        record: this.record,
        save: () => {},
        machine: async () => ({
          plug: async (device) => {
            if (this.refusal !== undefined) throw this.refusal;
            this.plugged.push(device);
            return { pciPath: `0000:00:04.${this.plugged.length}/00.0` };
          },
          unplug: async () => {},
        }),
        bootDeadlineMs: 20_000,
        log,
      },
      open,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.pod.close();
    await this.server[Symbol.asyncDispose]();
  }
}
