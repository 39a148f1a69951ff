/**
 * V8 interprets a function until it has been called some hundred times. The first containers of a node, and the first
 * after an engine's restart, would pay for that (docs/decisions/008). So an engine that has nothing to do plays lives of
 * a container through: a monitor that only answers stands on one side, a caller on the other, and all that is between
 * them, from the frame to the launch plan and back, is what a real one goes through. Nothing is launched and no cgroup
 * is made; what is written goes below `root` and away again.
 */
import type { Socket } from 'node:net';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { silentLogger } from '../base/log.ts';
import { bulkhead } from '../gen/bulkhead.js';
import { containerd } from '../gen/containerd.js';
import { defaultSpec } from '../oci/spec.ts';
import type { Router } from '../rpc/router.ts';
import type { Transport } from '../rpc/transport.ts';
import { TtrpcClient } from '../rpc/ttrpc/client.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import { backendHost } from '../sandbox/host.ts';
import { NamespaceBackend } from '../sandbox/namespace/backend.ts';
import { BackendRegistry } from '../sandbox/registry.ts';
import { StateStore } from '../state/index.ts';
import type { TaskPeer } from './bind.ts';
import { FrameReader } from '../base/frames.ts';
import { MonitorSession } from './monitor_session.ts';

const { ToEngine, ToMonitor } = bulkhead.executor.v1;
const t = containerd.task.v3;

/** Enough for what every create calls to be optimised; 150 lives save no more time and cost 4 MB more (docs/decisions/008). */
const LIVES = 40;
/** After the last message of a real monitor: longer than the gaps within one `ctr run`. */
const QUIET_MS = 30;
/** Between two lives. */
const PAUSE_MS = 5;
const ID = 'rehearsal';

export interface RehearsalOptions {
  router: Router<TaskPeer>;
  /** A directory of its own, made and removed here. */
  root: string;
  /** Milliseconds since a real monitor said something. */
  quietMs: () => number;
}

/** Resolves when all lives were played, or when one went wrong (with the error). Holds no process back from exiting. */
export async function rehearse({ router, root, quietMs }: RehearsalOptions, lives = LIVES): Promise<void> {
  rmSync(root, { recursive: true, force: true });
  const bundle = join(root, 'bundle');
  try {
    mkdirSync(join(bundle, 'rootfs'), { recursive: true, mode: 0o700 });
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(defaultSpec()));
    const stage = new Stage(router, join(root, 'state'));
    for (let life = 0; life < lives; life++) {
      do await pause();
      while (quietMs() < QUIET_MS);
      await stage.play(bundle);
    }
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, PAUSE_MS).unref());
}

/** The event loop goes round: what was asked has been taken in. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Compiles as the namespace wall does; what it would do to this host's cgroups it leaves. */
class StageBackend extends NamespaceBackend {
  protected override checkCgroupsFree(): void {}
  override killAll(): Promise<void> {
    return Promise.resolve();
  }
  override watchOom(): () => void {
    return () => {};
  }
  override destroy(): Promise<void> {
    return Promise.resolve();
  }
}

class Stage {
  readonly #session: MonitorSession;
  readonly #caller: TtrpcClient;
  readonly #frames = new FrameReader();
  #answer: (bytes: Uint8Array) => void = () => {};

  constructor(router: Router<TaskPeer>, root: string) {
    const backends = new BackendRegistry();
    backends.register(new StageBackend(backendHost(() => {})));
    const store = new StateStore(root);
    const ctx: RuntimeContext = { store, backends, log: silentLogger, now: Date.now, savesLater: true };
    const events = { publish: () => {}, flush: () => Promise.resolve() };
    const acceptGrpc = (): Promise<void> => Promise.reject(new Error('no gRPC in a rehearsal'));
    const deps = { ctx, router, acceptGrpc, eventsFor: () => events, isHeld: () => false, log: silentLogger };
    const socket = { write: (bytes: Buffer) => this.#heard(bytes) } as unknown as Socket;
    this.#session = new MonitorSession(deps, socket, { wall: 'namespace', namespace: ID, group: ID });
    this.#say({ streamOpen: { conn: 1 } });
    this.#caller = new TtrpcClient(this.#transport());
  }

  /** One container with one exec, from create to delete. */
  async play(bundle: string): Promise<void> {
    const process = { typeUrl: 'Process', value: Buffer.from(JSON.stringify(defaultSpec().process)) };
    await this.#call('Create', t.CreateTaskRequest.encode({ id: ID, bundle }));
    await this.#call('Start', t.StartRequest.encode({ id: ID }));
    await this.#call('State', t.StateRequest.encode({ id: ID }));
    await this.#call('Exec', t.ExecProcessRequest.encode({ id: ID, execId: 'e', spec: process }));
    await this.#call('Start', t.StartRequest.encode({ id: ID, execId: 'e' }));
    await this.#end(`${ID}/e`, t.WaitRequest.encode({ id: ID, execId: 'e' }));
    await this.#call('Delete', t.DeleteRequest.encode({ id: ID, execId: 'e' }));
    await this.#end(ID, t.WaitRequest.encode({ id: ID }));
    await this.#call('Delete', t.DeleteRequest.encode({ id: ID }));
  }

  async #end(key: string, wait: { finish(): Uint8Array }): Promise<void> {
    const waiting = this.#call('Wait', wait);
    await turn();
    this.#say({ exited: { key, pid: process.pid, exitedAtNs: Date.now() * 1e6 } });
    await waiting;
  }

  async #call(method: string, request: { finish(): Uint8Array }): Promise<void> {
    await this.#caller.call('containerd.task.v2.Task', method, request.finish());
  }

  /** What the engine sends to its monitor; several messages may come at once. */
  #heard(bytes: Buffer): boolean {
    for (const message of this.#frames.push(bytes)) {
      const decoded = ToMonitor.decode(message);
      setImmediate(() => this.#react(decoded));
    }
    return true;
  }

  #react({ streamData, launch, continue: proceed, signal, forget }: bulkhead.executor.v1.ToMonitor): void {
    const { pid } = process;
    if (streamData) this.#answer(streamData.data ?? new Uint8Array());
    else if (launch)
      this.#say({ launched: { request: launch.request, key: launch.key, pid, pausedAt: 'start' } });
    else if (proceed) this.#say({ started: { request: proceed.request, key: proceed.key, pid } });
    else if (signal) this.#say({ reply: { request: signal.request, errno: 3 } });
    else if (forget) this.#say({ reply: { request: forget.request } });
  }

  #say(message: bulkhead.executor.v1.IToEngine): void {
    this.#session.handle(ToEngine.decode(ToEngine.encode(message).finish()));
  }

  #transport(): Transport {
    return {
      send: (data) => this.#say({ streamData: { conn: 1, data } }),
      onData: (callback) => (this.#answer = callback),
      onClose: () => {},
      close: () => {},
    };
  }
}
