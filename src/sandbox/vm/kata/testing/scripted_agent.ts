/**
 * Plays Kata's agent: a ttrpc server with the protocol's state, whose containers run programs of a table. Answers, also
 * the refusals, are those of the agent's source (kata-containers 4.1, src/agent/src/rpc.rs).
 */
import type { Socket } from 'node:net';
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import { bulkhead } from '../../../../gen/kata.js';
import { Router, serveTtrpc, streamTransport } from '../../../../rpc/index.ts';

const kata = bulkhead.kata.v1;
const AGENT = 'grpc.AgentService';
const SIGKILL = 9;

/** What a program sees and does. */
export interface ScriptedProcess {
  args: readonly string[];
  terminal: boolean;
  stdin: (listener: (data: Buffer | undefined) => void) => void;
  print: (text: string | Uint8Array, stream?: 'out' | 'err') => void;
  exit: (code: number) => void;
  /** Default: it ends the process with 128 and the signal's number. */
  onSignal: (listener: (signal: number) => void) => void;
  onResize: (listener: (columns: number, rows: number) => void) => void;
  /** The limit of memory kills it. */
  outOfMemory: () => void;
}
export type Program = (process: ScriptedProcess) => void;

const programs: Record<string, Program> = {
  true: ({ exit }) => exit(0),
  false: ({ exit }) => exit(1),
  exit: ({ args, exit }) => exit(Number(args[1])),
  echo: ({ args, print, exit }) => {
    print(`${args.slice(1).join(' ')}\n`);
    exit(0);
  },
  complain: ({ args, print, exit }) => {
    print(`${args.slice(1).join(' ')}\n`, 'err');
    exit(2);
  },
  cat: ({ stdin, print, exit }) => stdin((data) => (data === undefined ? exit(0) : print(data))),
  count: ({ stdin, print, exit }) => {
    let length = 0;
    print('ready\n');
    stdin((data) => {
      if (data !== undefined) return void (length += data.length);
      print(`${length}\n`);
      exit(0);
    });
  },
  hog: ({ outOfMemory }) => outOfMemory(),
  sleep: () => {},
  yes: ({ args, print, exit }) => {
    for (let left = Number(args[1]); left > 0; left -= 8192) print(Buffer.alloc(Math.min(left, 8192), 'y'));
    exit(0);
  },
  size: ({ onResize, print, exit }) =>
    onResize((columns, rows) => {
      print(`${columns}x${rows}\n`);
      exit(0);
    }),
};

class Stream {
  readonly #chunks: Buffer[] = [];
  readonly #waiting: (() => void)[] = [];
  #ended = false;

  push(data: Buffer): void {
    this.#chunks.push(data);
    this.#wake();
  }
  end(): void {
    this.#ended = true;
    this.#wake();
  }
  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
  /** A call whose connection has gone takes nothing. */
  async read(length: number, signal: AbortSignal): Promise<Buffer> {
    while (this.#chunks.length === 0 && !this.#ended && !signal.aborted)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    if (signal.aborted) return Buffer.alloc(0);
    const chunk = this.#chunks.shift() ?? Buffer.alloc(0);
    if (chunk.length > length) this.#chunks.unshift(chunk.subarray(length));
    return chunk.subarray(0, length);
  }
}

class Process {
  readonly out = new Stream();
  readonly err = new Stream();
  readonly terminal: boolean;
  readonly #args: readonly string[];
  readonly #exits: ((code: number) => void)[] = [];
  #code: number | undefined;
  #stdin: ((data: Buffer | undefined) => void) | undefined;
  #early: (Buffer | undefined)[] = [];
  #signal: ((signal: number) => void) | undefined;
  #resize: ((columns: number, rows: number) => void) | undefined;

  readonly #outOfMemory: () => void;

  constructor(spec: bulkhead.kata.v1.IProcess, outOfMemory: () => void) {
    this.#outOfMemory = outOfMemory;
    this.#args = spec.args ?? [];
    this.terminal = spec.terminal ?? false;
  }
  start(): void {
    const name = this.#args[0] ?? '';
    const program = programs[name];
    if (program === undefined) return this.exit(127);
    program({
      args: this.#args,
      terminal: this.terminal,
      stdin: (listener) => {
        this.#stdin = listener;
        for (const data of this.#early.splice(0)) listener(data);
      },
      print: (text, stream = 'out') =>
        (stream === 'out' || this.terminal ? this.out : this.err).push(Buffer.from(text as string)),
      exit: (code) => this.exit(code),
      onSignal: (listener) => (this.#signal = listener),
      onResize: (listener) => (this.#resize = listener),
      outOfMemory: () => {
        this.#outOfMemory();
        this.exit(128 + SIGKILL);
      },
    });
  }
  exit(code: number): void {
    if (this.#code !== undefined) return;
    this.#code = code;
    this.out.end();
    this.err.end();
    for (const tell of this.#exits.splice(0)) tell(code);
  }
  wait(): Promise<number> {
    return this.#code !== undefined
      ? Promise.resolve(this.#code)
      : new Promise((resolve) => this.#exits.push(resolve));
  }
  signal(signal: number): void {
    if (signal !== SIGKILL && this.#signal !== undefined) this.#signal(signal);
    else this.exit(128 + signal);
  }
  feed(data: Buffer | undefined): void {
    if (this.#stdin === undefined) this.#early.push(data);
    else this.#stdin(data);
  }
  resize(columns: number, rows: number): void {
    this.#resize?.(columns, rows);
  }
}

interface Container {
  request: bulkhead.kata.v1.CreateContainerRequest;
  processes: Map<string, Process>;
  paused: boolean;
}

export interface Call {
  method: string;
  request: Record<string, unknown>;
}

export class ScriptedAgent {
  readonly calls: Call[] = [];
  readonly containers = new Map<string, Container>();
  /** What a method answers instead. */
  readonly failures = new Map<string, { code: ErrorCode; message: string }>();
  /** Methods that never answer. */
  readonly silent = new Set<string>();
  /** Raw answers, by method: bytes in the place of its message. */
  readonly raw = new Map<string, Uint8Array>();
  seccomp = true;
  #oom: ((id: string) => void) | undefined;
  readonly #kills: string[] = [];
  readonly #interfaces: bulkhead.kata.v1.IInterface[] = [];
  readonly #router = new Router();

  constructor() {
    this.#health();
    this.#sandbox();
    this.#containers();
    this.#processes();
    this.#streams();
    this.#network();
  }

  /** Serves one connection. */
  serve(socket: Socket): void {
    socket.on('error', () => {});
    serveTtrpc(this.#router, streamTransport(socket), { name: 'host' });
  }

  /** The memory limit of a container kills. */
  killByMemory(id: string): void {
    this.#kills.push(id);
    const tell = this.#oom;
    this.#oom = undefined;
    if (tell !== undefined) tell(this.#kills.shift() ?? '');
  }

  asked(method: string): Record<string, unknown>[] {
    return this.calls.filter((call) => call.method === method).map(({ request }) => request);
  }

  #on<Q, A>(
    method: string,
    request: { decode(bytes: Uint8Array): Q },
    response: { encode(message: A): { finish(): Uint8Array } },
    handler: (request: Q, signal: AbortSignal) => A | Promise<A>,
    service = AGENT,
  ): void {
    this.#router.register({
      service,
      method,
      request,
      response: {
        encode: (message: A) => {
          const raw = this.raw.get(method);
          return raw === undefined ? response.encode(message) : { finish: () => raw };
        },
      },
      handler: async (ctx, message: Q) => {
        this.calls.push({ method, request: message as Record<string, unknown> });
        const failure = this.failures.get(method);
        if (failure !== undefined) throw refusal(failure.code, failure.message);
        if (this.silent.has(method)) await new Promise<never>(() => {});
        return handler(message, ctx.signal);
      },
    });
  }

  #health(): void {
    const service = 'grpc.Health';
    this.#on('Check', kata.CheckRequest, kata.CheckResponse, () => ({ status: 1 }), service);
    const version = { protocol: '0.0.1', agent: '4.1.0' };
    this.#on('Version', kata.CheckRequest, kata.VersionResponse, () => version, service);
  }

  #sandbox(): void {
    const { Done } = kata;
    this.#on('CreateSandbox', kata.CreateSandboxRequest, Done, () => ({}));
    this.#on('DestroySandbox', kata.DestroySandboxRequest, Done, () => ({}));
    this.#on('SetGuestDateTime', kata.SetGuestDateTimeRequest, Done, () => ({}));
    this.#on('ReseedRandomDev', kata.ReseedRandomDevRequest, Done, () => ({}));
    this.#on('OnlineCPUMem', kata.OnlineCPUMemRequest, Done, () => ({}));
    this.#on('GetGuestDetails', kata.GetGuestDetailsRequest, kata.GuestDetails, () => ({
      memBlockSizeBytes: 128 << 20,
      agentDetails: {
        version: '4.1.0',
        supportsSeccomp: this.seccomp,
        storageHandlers: ['blk', 'virtio-fs'],
      },
    }));
    this.#on('GetOOMEvent', kata.GetOOMEventRequest, kata.OOMEvent, async () => {
      const containerId =
        this.#kills.shift() ?? (await new Promise<string>((resolve) => (this.#oom = resolve)));
      return { containerId };
    });
  }

  #containers(): void {
    const { Done } = kata;
    this.#on('CreateContainer', kata.CreateContainerRequest, Done, (request) => {
      const { containerId, execId, oci } = request;
      if (!oci?.process) throw refusal(ErrorCode.Internal, 'EINVAL: Invalid argument');
      const init = new Process(oci.process, () => this.killByMemory(containerId));
      this.containers.set(containerId, { request, processes: new Map([[execId, init]]), paused: false });
      return {};
    });
    this.#on('StartContainer', kata.StartContainerRequest, Done, ({ containerId }) => {
      this.#process(containerId, containerId).start();
      return {};
    });
    this.#on('RemoveContainer', kata.RemoveContainerRequest, Done, ({ containerId }) => {
      for (const process of this.#container(containerId).processes.values()) process.signal(SIGKILL);
      this.containers.delete(containerId);
      return {};
    });
    this.#on('UpdateContainer', kata.UpdateContainerRequest, Done, ({ containerId }) => {
      this.#container(containerId);
      return {};
    });
    this.#on('PauseContainer', kata.PauseContainerRequest, Done, ({ containerId }) => {
      this.#container(containerId).paused = true;
      return {};
    });
    this.#on('ResumeContainer', kata.ResumeContainerRequest, Done, ({ containerId }) => {
      const container = this.#container(containerId);
      if (!container.paused) throw refusal(ErrorCode.Internal, 'container status is: Running, not paused');
      container.paused = false;
      return {};
    });
    this.#on('StatsContainer', kata.StatsContainerRequest, kata.StatsContainerResponse, ({ containerId }) => {
      this.#container(containerId);
      return {
        cgroupStats: {
          cpu: { usage: { total: 5_000_000, user: 3_000_000, kernel: 2_000_000 } },
          memory: { usage: { usage: 1 << 20, limit: 64 << 20 }, stats: { anon: 4096, file: 8192 } },
          pids: { current: 3, limit: 0 },
        },
      };
    });
  }

  #processes(): void {
    const { Done } = kata;
    this.#on('ExecProcess', kata.ExecProcessRequest, Done, ({ containerId, execId, process }) => {
      const container = this.#container(containerId);
      const started = new Process(process ?? {}, () => this.killByMemory(containerId));
      container.processes.set(execId, started);
      started.start();
      return {};
    });
    this.#on('SignalProcess', kata.SignalProcessRequest, Done, ({ containerId, execId, signal }) => {
      if (execId === '' && signal === SIGKILL)
        for (const process of this.#container(containerId).processes.values()) process.signal(signal);
      else this.#process(containerId, execId).signal(signal);
      return {};
    });
    this.#on(
      'WaitProcess',
      kata.WaitProcessRequest,
      kata.WaitProcessResponse,
      async ({ containerId, execId }) => {
        const status = await this.#process(containerId, execId).wait();
        this.#container(containerId).processes.delete(execId);
        return { status };
      },
    );
    this.#on('TtyWinResize', kata.TtyWinResizeRequest, Done, ({ containerId, execId, row, column }) => {
      const process = this.#process(containerId, execId);
      if (!process.terminal) throw refusal(ErrorCode.Unavailable, 'no tty');
      process.resize(column, row);
      return {};
    });
  }

  #streams(): void {
    const read =
      (stream: 'out' | 'err') =>
      async ({ containerId, execId, length }: bulkhead.kata.v1.ReadStreamRequest, signal: AbortSignal) => {
        const data = await this.#process(containerId, execId)[stream].read(length, signal);
        return { data };
      };
    this.#on('ReadStdout', kata.ReadStreamRequest, kata.ReadStreamResponse, read('out'));
    this.#on('ReadStderr', kata.ReadStreamRequest, kata.ReadStreamResponse, read('err'));
    this.#on(
      'WriteStdin',
      kata.WriteStdinRequest,
      kata.WriteStdinResponse,
      ({ containerId, execId, data }) => {
        this.#process(containerId, execId).feed(Buffer.from(data));
        return { length: data.length };
      },
    );
    this.#on('CloseStdin', kata.CloseStdinRequest, kata.Done, ({ containerId, execId }) => {
      this.#process(containerId, execId).feed(undefined);
      return {};
    });
  }

  #network(): void {
    this.#on('UpdateInterface', kata.UpdateInterfaceRequest, kata.Interface, ({ interface: asked }) => {
      if (!asked) throw refusal(ErrorCode.InvalidArgument, 'empty update interface request');
      this.#interfaces.push(asked);
      return asked;
    });
    this.#on('ListInterfaces', kata.ListInterfacesRequest, kata.Interfaces, () => ({
      interfaces: [{ name: 'lo' }, ...this.#interfaces],
    }));
    this.#on('UpdateRoutes', kata.UpdateRoutesRequest, kata.Routes, ({ routes }) => routes ?? {});
    this.#on('AddARPNeighbors', kata.AddARPNeighborsRequest, kata.Done, () => ({}));
  }

  #container(id: string): Container {
    const found = this.containers.get(id);
    if (found === undefined) throw refusal(ErrorCode.Internal, 'Invalid container id');
    return found;
  }

  #process(containerId: string, execId: string): Process {
    const found = this.#container(containerId).processes.get(execId);
    if (found === undefined) throw refusal(ErrorCode.NotFound, 'InvalidExecId');
    return found;
  }
}

/** An agent's message as it is, without what RuntimeError puts before it. */
function refusal(code: ErrorCode, message: string): RuntimeError {
  return Object.assign(new RuntimeError({ code, op: 'agent', reason: message }), { message });
}
