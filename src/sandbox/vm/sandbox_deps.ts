/** What a pod's machine is made for, and what it is made with. */
import type { Logger } from '../../base/log.ts';
import type { CgroupLayout } from '../../cgroups/index.ts';
import type { Spec } from '../../oci/types.ts';
import type { Hypervisor, MachineConfig, PassedFunction } from './hypervisor/hypervisor.ts';
import type { NetworkAddon } from './network.ts';
import type { AgentInput, PodAgent } from './pod_agent.ts';

/** A machine, and what it is to grow by (MiB) once it runs. */
export interface SizedMachine {
  machine: MachineConfig;
  growMib: number;
}

export interface Pod {
  namespace: string;
  group: string;
  /** Of its machine. */
  dir: string;
  /** Functions of the host that its first container asks for. */
  functions: readonly PassedFunction[];
  /** It has a directory of the host's files (virtio-fs), and so memory that another process can map. */
  share: boolean;
}

/** What a container needs its pod's machine to have been made with. */
export interface MachineNeeds {
  share: boolean;
  functions: readonly PassedFunction[];
}

/** What a sandbox needs of the machine and of the configuration. */
export interface SandboxDeps {
  /** The agent that guests have; absent: our own. */
  agent?: ((input: AgentInput) => PodAgent) | undefined;
  hypervisor: () => Hypervisor;
  /** Of a pod's first container. */
  machineConfig: (id: string, spec: Spec, pod: Pod) => Promise<SizedMachine>;
  /** MiB that a machine must have for a container's limit of memory in bytes, at most `largest`. */
  memoryFor: (limit: number) => { mib: number; largest: number };
  /** It was found to be damaged. */
  discardTemplate: (config: MachineConfig) => Promise<void>;
  network: () => NetworkAddon;
  /** sched_setaffinity(2) of a thread. */
  setAffinity: (tid: number, mask: Uint8Array) => void;
  /** A process has this thread. */
  isThread: (pid: number, tid: number) => boolean;
  layout: () => CgroupLayout;
  /** mkfifo(3). */
  mkfifo: (path: string, mode: number) => void;
  /** virtiofsd. */
  shareDaemon: string;
  openFiles: number;
  /** Highest RLIMIT_MEMLOCK that can be given, in bytes; absent: any. */
  lockLimit?: number | undefined;
  /** Address bits that guests have; undefined: the host's. */
  physicalBits: () => Promise<number | undefined>;
  /** Guests' processors are programs (TCG). */
  emulated: () => Promise<boolean>;
  /** How long a guest may take until its agent answers. */
  bootDeadlineMs: number;
  log: Logger;
}
