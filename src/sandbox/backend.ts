/**
 * What a wall is to the runtime layer: ten methods. A backend never imports its sibling. `executor` is the one that
 * launches for the container's pod; undefined when that is gone, and then what is left of the container is looked for
 * on the host.
 */
import type { Any } from '../metrics/index.ts';
import type { LinuxResources, Process, Spec } from '../oci/types.ts';
import type { ContainerRecord } from '../state/index.ts';
import type { Executor, HeldState, LaunchResult, StdioPaths } from './executor.ts';

export type Wall = 'namespace' | 'vm' | 'sentry';

/** One entry of containerd's CreateTaskRequest.rootfs: a mount that makes the root file system. */
export interface RootfsMount {
  type: string;
  source: string;
  target?: string;
  options: string[];
}

/** How a create differs from the default; from runtime options (shim) or flags (command line). */
export interface CreateOptions {
  noPivot?: boolean;
  noNewKeyring?: boolean;
  /** Descriptors from 3 on that the process gets, LISTEN_FDS among them. */
  preserveFds?: number;
  /** How many of them socket activation handed over (sd_listen_fds(3)). */
  listenFds?: number;
}

export interface CreateInput {
  spec: Spec;
  rootfsMounts: RootfsMount[];
  stdio: StdioPaths;
  options: CreateOptions;
  executor: Executor;
  /** Host path of the fifo that opens the start gate (command line); undefined: the executor's own channel. */
  startFifo?: string | undefined;
  /** The wall itself has something to do in the root file system, before the hooks that runCreateHooks runs. */
  waitsForRoot?: boolean | undefined;
  /** PCI functions asked for by address, to be bound and handed over. */
  functions?: readonly string[] | undefined;
  /** Called with the record completed by what must be undone after a crash, before anything is made on the host. */
  journal: (record: ContainerRecord) => void;
  /** Runs the hooks of the runtime's namespaces; the process exists and waits (runtime-spec, lifecycle steps 3-6). */
  runCreateHooks: (pid: number) => Promise<void>;
}

export interface ExecInput {
  execId: string;
  process: Process;
  stdio: StdioPaths;
  executor: Executor;
  options?: ExecOptions | undefined;
  /** Ready but for execve, the process waits at the gate "start". */
  gated?: boolean | undefined;
}

export interface ExecOptions extends Pick<CreateOptions, 'preserveFds' | 'listenFds' | 'noNewKeyring'> {
  /** Cgroups below the container's to run in: "PATH" or "CONTROLLER:PATH". */
  subCgroups?: readonly string[];
}

export interface ProcessInfo {
  pid: number;
}

export interface Backend {
  readonly wall: Wall;
  /** Makes the container up to the start gate; fills `record` (pid, cgroups). Leaves nothing behind when it rejects. */
  create(record: ContainerRecord, input: CreateInput): Promise<void>;
  /** Before the start gate opens: takes in what has changed around the container since its create. */
  beforeStart?(record: ContainerRecord, executor: Executor): Promise<void>;
  /** Launches a further process in the container, up to its gate or, without one, through execve. */
  exec(record: ContainerRecord, input: ExecInput): Promise<LaunchResult>;
  /** After a restart of the engine: takes up processes that the wall holds itself; resolves with those it has. */
  recall?(record: ContainerRecord, executor: Executor): Promise<HeldState[]>;
  pause(record: ContainerRecord, executor: Executor): Promise<void>;
  resume(record: ContainerRecord, executor: Executor): Promise<void>;
  update(record: ContainerRecord, resources: LinuxResources, executor: Executor): Promise<void>;
  /** Metrics in the kind the host's cgroups give, as a protobuf Any. */
  stats(record: ContainerRecord, executor: Executor): Any | Promise<Any>;
  pids(record: ContainerRecord, executor: Executor): number[] | Promise<number[]>;
  /** SIGKILL to every process of the container, also those without a pid namespace of their own. */
  killAll(record: ContainerRecord, executor?: Executor): Promise<void>;
  /** Calls back once for every burst of kills by the kernel's memory limit; returns what ends the watch. */
  watchOom(record: ContainerRecord, onOom: () => void, executor: Executor): () => void;
  /** Removes everything the container left on the host. Idempotent. */
  destroy(record: ContainerRecord, executor?: Executor): Promise<void>;
}
