/** A shim without a containerd: started by its command line as containerd starts it, asked over its socket. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { containerd, google } from '../../../src/gen/containerd.js';
import { connectTtrpc } from '../../../src/rpc/index.ts';
import { eventually, run, type RunResult } from './exec.ts';
import { makeRootfs } from './image.ts';
import { findLeaks, killAll, markedProcesses, type Marked } from './leaks.ts';
import { prefix, runtime, scratch } from './paths.ts';

const v3 = containerd.task.v3;
const Empty = google.protobuf.Empty;

/** Requests and answers of the task service by method. */
const methods = {
  State: [v3.StateRequest, v3.StateResponse],
  Create: [v3.CreateTaskRequest, v3.CreateTaskResponse],
  Start: [v3.StartRequest, v3.StartResponse],
  Delete: [v3.DeleteRequest, v3.DeleteResponse],
  Pids: [v3.PidsRequest, v3.PidsResponse],
  Pause: [v3.PauseRequest, Empty],
  Resume: [v3.ResumeRequest, Empty],
  Checkpoint: [v3.CheckpointTaskRequest, Empty],
  Kill: [v3.KillRequest, Empty],
  Exec: [v3.ExecProcessRequest, Empty],
  ResizePty: [v3.ResizePtyRequest, Empty],
  CloseIO: [v3.CloseIORequest, Empty],
  Update: [v3.UpdateTaskRequest, Empty],
  Wait: [v3.WaitRequest, v3.WaitResponse],
  Stats: [v3.StatsRequest, v3.StatsResponse],
  Connect: [v3.ConnectRequest, v3.ConnectResponse],
  Shutdown: [v3.ShutdownRequest, Empty],
} as const;

type Method = keyof typeof methods;
type Request<M extends Method> = NonNullable<Parameters<(typeof methods)[M][0]['encode']>[0]>;
type Response<M extends Method> = ReturnType<(typeof methods)[M][1]['decode']>;

/** What an answer is: a code of gRPC (0: it succeeded) and the sentence, or the response. */
export interface Answer<R> {
  code: number;
  message: string;
  response: R | undefined;
}

/** A config.json as a test changes it. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type LooseSpec = any;

/** The shim of one runtime with a directory of its own, where its bundles, sockets and state are. */
export class BareShim implements Marked {
  readonly before: ReadonlySet<string> = new Set();
  readonly dir = mkdtempSync(join(scratch(), 'c-'));
  /** The first part of every cgroup path. */
  readonly namespace = `${basename(scratch())}-${basename(this.dir)}`;
  readonly bulkheadRoot = join(this.dir, 'bulkhead');
  readonly pid = 0;
  readonly address = join(this.dir, 'containerd.sock');
  readonly #name: string;
  readonly #env: NodeJS.ProcessEnv;

  constructor(bulkheadConfig = '', name = runtime) {
    this.#name = name;
    mkdirSync(this.bulkheadRoot, { mode: 0o700 });
    const config = join(this.dir, 'bulkhead.toml');
    writeFileSync(config, bulkheadConfig);
    this.#env = {
      PATH: `${join(prefix, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin`,
      BULKHEAD_ROOT: this.bulkheadRoot,
      BULKHEAD_CONFIG: config,
      TTRPC_ADDRESS: `${this.address}.ttrpc`,
    };
  }

  /** Makes a bundle with a root file system of its own; `change` is given its config.json. */
  async bundle(id: string, change: (spec: LooseSpec) => void = () => {}): Promise<string> {
    const dir = join(this.dir, id);
    mkdirSync(dir);
    await makeRootfs(join(dir, 'rootfs'));
    const spec = plainSpec(`/${this.namespace}/${id}`);
    change(spec);
    writeFileSync(join(dir, 'config.json'), JSON.stringify(spec));
    return dir;
  }

  /** Runs `start` or `delete` of the shim for a bundle. */
  async action(action: 'start' | 'delete', id: string, bundle: string): Promise<RunResult> {
    const [name = '', version = ''] = this.#name.split('.').slice(-2);
    const binary = `containerd-shim-${name}-${version}`;
    const words = ['-namespace', this.namespace, '-address', this.address, '-publish-binary', '/bin/true'];
    const more = action === 'delete' ? ['-bundle', bundle] : [];
    // In place of containerd's fifo, which a shim would wait to be read.
    writeFileSync(join(bundle, 'log'), '');
    return run('env', [binary, ...words, '-id', id, ...more, action], {
      cwd: bundle,
      env: this.#env,
      stdin: '',
    });
  }

  /** Starts a shim for a bundle; rejects with what it said. */
  async start(id: string, bundle: string): Promise<TaskClient> {
    const started = await this.action('start', id, bundle);
    const path = started.stdout.trim().replace('unix://', '');
    if (started.code !== 0) throw new Error(`start ${id}: ${started.stderr}`);
    return TaskClient.connect(path, id, bundle);
  }

  /** What is left; waits a moment for shims to go, which they do after their answer. */
  async leaks(): Promise<string[]> {
    const empty = (): true | undefined => (findLeaks(this).length === 0 ? true : undefined);
    await eventually('nothing to be left', empty, 2000).catch(() => {});
    return findLeaks(this);
  }

  /** Ends everything that was started here. */
  async stop(): Promise<void> {
    await killAll(() => markedProcesses(this));
  }
}

/** One connection to a shim. */
export class TaskClient {
  readonly path: string;
  readonly id: string;
  readonly bundle: string;
  readonly #client: Awaited<ReturnType<typeof connectTtrpc>>;

  private constructor(
    path: string,
    id: string,
    bundle: string,
    client: Awaited<ReturnType<typeof connectTtrpc>>,
  ) {
    this.path = path;
    this.id = id;
    this.bundle = bundle;
    this.#client = client;
  }

  static async connect(path: string, id: string, bundle: string): Promise<TaskClient> {
    return new TaskClient(path, id, bundle, await connectTtrpc(path));
  }

  /** Asks with this container's id unless the request has one; an answer that is an error is no exception. */
  async call<M extends Method>(method: M, request: Request<M> = {}): Promise<Answer<Response<M>>> {
    const [Req, Res] = methods[method];
    const message = { id: this.id, ...request };
    const payload = Req.encode(message as never).finish();
    try {
      const bytes = await this.#client.call('containerd.task.v2.Task', method, payload, {
        timeoutMs: 60_000,
      });
      return { code: 0, message: '', response: Res.decode(bytes) as Response<M> };
    } catch (error) {
      const { code, op = '', message: text } = error as { code?: number; op?: string; message: string };
      return { code: code ?? -1, message: text.replace(`${op}: `, ''), response: undefined };
    }
  }

  create(request: Request<'Create'> = {}): Promise<Answer<Response<'Create'>>> {
    return this.call('Create', { bundle: this.bundle, ...request });
  }

  close(): void {
    this.#client.close();
  }
}

export function plainSpec(cgroupsPath: string): LooseSpec {
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: 0, gid: 0 },
      args: ['/bin/sleep', 'inf'],
      env: ['PATH=/bin'],
      cwd: '/',
    },
    root: { path: 'rootfs' },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: {
      cgroupsPath,
      namespaces: ['network', 'pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })),
    },
  };
}
