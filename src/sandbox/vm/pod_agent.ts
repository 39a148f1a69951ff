/**
 * The agent in a pod's guest: all that the wall asks of it, whichever protocol it speaks. Two of them:
 *
 *   bulkhead_agent.ts   our own, over the channel that the monitor holds: launch plans, streams, calls (decision 009)
 *   kata/               Kata's, over ttrpc
 *
 * Whatever rejects says so in one sentence (RuntimeError, or LaunchError for a step of a plan).
 */
import type { Logger } from '../../base/log.ts';
import type { CgroupMode } from '../../cgroups/index.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import type { Any } from '../../metrics/index.ts';
import type { LinuxResources, Process, Spec } from '../../oci/types.ts';
import type { SeccompProgram } from '../../plan/inputs.ts';
import type { CreateOptions, ExecOptions } from '../backend.ts';
import type { Executor, HeldState, LaunchResult, StdioPaths } from '../executor.ts';
import type { GuestFunction } from './functions.ts';
import type {
  AgentSocket,
  Hypervisor,
  Machine,
  MachineConfig,
  NetDevice,
  Placement,
} from './hypervisor/hypervisor.ts';
import type { SandboxRecord } from './record.ts';
import type { Volume } from './storage.ts';

/** Where the guest has what host and guest both name. */
export interface GuestPlaces {
  /** Tag of the shared directory, and where it is mounted. */
  shareTag: string;
  share: string;
  /** The pod's /dev/shm. */
  shm: string;
}

/** What an agent is made with. */
export interface AgentInput {
  executor: Executor;
  record: SandboxRecord;
  save: () => void;
  machine: () => Promise<Pick<Machine, 'plug' | 'unplug'>>;
  /** How long a guest may take until its agent answers. */
  bootDeadlineMs: number;
  log: Logger;
}

export interface GuestSetup {
  hostname: string;
  /** There is a shared directory to be mounted. */
  share: boolean;
  /** Memory was plugged that the guest has not taken into use. */
  grown: boolean;
}

export interface GuestLaunch {
  id: string;
  /** As guestSpec made it, its mounts' sources being paths of the guest. */
  spec: Spec;
  /** Directory of the guest that is its root. */
  root: string;
  seccomp: () => SeccompProgram | undefined;
  options: CreateOptions;
  stdio: StdioPaths;
}

export interface GuestExec {
  id: string;
  execId: string;
  process: Process;
  /** As guestSpec made it for the container. */
  spec: Spec;
  /** Of the container's init, in the guest. */
  pid: number;
  seccomp: () => SeccompProgram | undefined;
  options: ExecOptions | undefined;
  stdio: StdioPaths;
  /** Waits at the gate "start" before execve. */
  gated: boolean;
}

/** A process of the guest itself, outside of its containers: for who looks for a fault. */
export interface GuestProcess {
  /** Names it in the pod. */
  key: string;
  args: readonly string[];
  env: readonly string[];
  cwd: string;
  /** A static program that is brought into the guest and executed with args; empty: args[0] is a path of the guest. */
  program: Uint8Array;
  stdio: StdioPaths;
  /** Of its terminal, in characters; absent: not known. */
  size?: { width: number; height: number } | undefined;
}

/** A process of which an earlier engine knew. */
export interface RecalledProcess {
  containerId: string;
  /** '' for a container's first. */
  execId: string;
  stdio: StdioPaths;
}

export interface GuestContainer {
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** SIGKILL to all of it. */
  kill(): Promise<void>;
  update(resources: LinuxResources): Promise<void>;
  /** In the kind that containerd finds on this host everywhere else. */
  stats(mode: CgroupMode): Promise<Any>;
  /** Ascending; of the guest, or the machine's own when the agent does not tell. */
  pids(): Promise<number[]>;
  /** Takes what the agent holds of a container that has ended; `shares`: paths of the guest that go away. */
  remove(shares: readonly string[]): Promise<void>;
  watchOom(onOom: () => void): () => void;
}

/** Images that the guest mounts. */
export interface GuestVolumes {
  /**
   * Plugs a volume and has it mounted at volumePath() of its device, unless that has been done; resolves with that device.
   * @param note called before anything is made, with the device that the container uses
   */
  attach(id: string, volume: Volume, note: (device: string) => void): Promise<string>;
  /**
   * Plugs what a container gets as a node, and resolves with the guest's device when it is there. Absent: this agent gives
   * no devices. @param note as in attach()
   */
  attachNode?(id: string, volume: Volume, note: (device: string) => void): Promise<bulkhead.agent.v1.IDevice>;
  /**
   * What the guest still holds of these is written, and they are taken away.
   * @param isUsed by another container; asked when it is this one's turn: one that comes meanwhile may have taken it
   */
  detach(id: string, devices: readonly string[], isUsed?: (device: string) => boolean): Promise<void>;
  /** Before the machine ends: what the guest still holds is written. */
  flush(id: string, devices: readonly string[]): Promise<void>;
}

export interface PodAgent {
  readonly places: GuestPlaces;
  readonly volumes: GuestVolumes;
  /** False once the channel is gone, which it is for good. */
  readonly isConnected: boolean;
  /** Waits until the agent answers; ends with the hypervisor's process too. */
  connect(socket: AgentSocket): Promise<void>;
  /** An earlier engine has connected: takes the channel up again. */
  resume(): void;
  /** The channel is gone. Returns what ends the interest. */
  onLost(listener: (reason: string) => void): () => void;
  /** Makes this guest this pod's. */
  setUp(id: string, guest: GuestSetup): Promise<void>;
  /** The pod's /dev/shm, for a container that wants it. @param bytes how large it may become */
  mountShm(id: string, bytes: number): Promise<void>;
  /** Takes plugged memory into use. */
  onlineMemory(op: string, id: string): Promise<void>;
  /** Waits until the guest uses `count` processors, plugged ones among them. Absent: it takes none into use. */
  onlineCpus?(op: string, id: string, count: number): Promise<void>;
  /** A card that was plugged, before configureNetwork names it. */
  cardPlugged(device: NetDevice, placement: Placement): void;
  configureNetwork(id: string, setup: bulkhead.agent.v1.INetworkSetup): Promise<void>;
  /** Waits for the functions of the host that the machine has. */
  functions(
    id: string,
    config: MachineConfig,
    hypervisor: Hypervisor,
    warn: (message: string) => void,
  ): Promise<GuestFunction[]>;
  /** Makes a container up to its gate "start". */
  launch(container: GuestLaunch): Promise<LaunchResult>;
  exec(process: GuestExec): Promise<LaunchResult>;
  /** Takes up processes that an earlier engine held itself; resolves with those that are there. */
  recall?(processes: readonly RecalledProcess[]): Promise<HeldState[]>;
  container(id: string): GuestContainer;
  /** Absent: this agent runs nothing outside of containers. */
  run?(id: string, process: GuestProcess): Promise<LaunchResult>;
  /** Nothing is asked of it any more. */
  close(): void;
}
