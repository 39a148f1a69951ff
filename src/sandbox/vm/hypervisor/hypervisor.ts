/**
 * What runs a pod's virtual machine. A driver says what to launch (pure but for files of its own), the caller launches
 * it by a plan as a process of the monitor, and the driver attaches to its control socket:
 *
 *   const launch = await hypervisor.prepare(config);
 *   await executor.launch(key, encodePlan(machinePlan(launch, …)), launch.stdio);
 *   const machine = await hypervisor.attach(launch);      // a template is restored here, and the guest runs
 *   await machine.plug({ kind: 'block', … });
 *
 * After an engine restart `reattach(config)` finds the machine again: nothing here holds what cannot be asked for.
 */
import type { StdioPaths } from '../../executor.ts';

export type MachineType = 'q35' | 'microvm';
export type Accelerator = 'kvm' | 'tcg';

/** Who the hypervisor runs as; it needs no rights but to read the kernel, the initrd and its own firmware. */
export interface Credentials {
  uid: number;
  gid: number;
  additionalGids?: readonly number[];
}

export interface GuestImage {
  /** Absolute paths, readable by the credentials. The kernel is an uncompressed ELF image or a bzImage. */
  kernel: string;
  /** Empty: none. */
  initrd: string;
  /** Appended to the driver's own kernel arguments. */
  commandLine?: string | undefined;
}

export interface MachineSize {
  /** Mebibytes at the start. */
  memoryMib: number;
  /** Up to which memory can be plugged; absent or equal: it cannot grow. */
  maxMemoryMib?: number | undefined;
  vcpus: number;
  maxVcpus?: number | undefined;
}

/** A saved machine that new ones begin as; made by `TemplateStore`. */
export interface TemplateImage {
  /** Guest memory, a sparse file of memoryMib. */
  memory: string;
  /** Devices' state. */
  state: string;
  /** Checksum of the memory (copySparse). */
  memorySum: bigint;
}

export interface MachineConfig {
  /** For messages. */
  id: string;
  /** Directory of the machine's sockets and fifos; exists. Short: a socket's path has 107 bytes. */
  dir: string;
  image: GuestImage;
  size: MachineSize;
  type: MachineType;
  accelerator: Accelerator;
  /** MiB that TCG may keep of translated code; absent: as much as QEMU likes (1 GiB). */
  tcgCacheMib?: number | undefined;
  /** Guest memory that another process can map: what vhost-user devices (virtio-fs) need. */
  sharedMemory: boolean;
  /** How many devices can be plugged while it runs. */
  ports: number;
  /** The agent is reached by vsock, under this number, which no other machine of the host has; absent: by a port. */
  vsockCid?: number | undefined;
  credentials?: Credentials | undefined;
  /** There from the start; everything else is plugged. */
  devices?: readonly MachineDevice[] | undefined;
  template?: TemplateImage | undefined;
  /** Never with a template: a saved guest has no windows for their BARs, and devices write to memory by its address. */
  functions?: readonly PassedFunction[] | undefined;
  /**
   * The guest has an IOMMU, which also remaps interrupts: it can give functions to programs of its own. Only with functions,
   * of which no two are in one group of the host.
   */
  iommu?: boolean | undefined;
  /** Only without a template. */
  placement?: MemoryPlacement | undefined;
}

/** A disk: a file or block device of the host, opened by the driver. */
export interface BlockDevice {
  kind: 'block';
  id: string;
  path: string;
  readOnly: boolean;
  /** Found in the guest by it (/sys/block/…/serial), at most 20 bytes; default: the id. */
  serial?: string | undefined;
}

/** Persistent memory: the guest maps the file's pages themselves (DAX). */
export interface PmemDevice {
  kind: 'pmem';
  id: string;
  /** File or device; opened by the driver. */
  path: string;
  /** Bytes, a multiple of 2 MiB. */
  size: number;
  /** `private`: the guest's writes stay in the machine (the page cache is shared by all machines). */
  mode: 'shared' | 'private' | 'read-only';
}

/**
 * Persistent memory as a DIMM: the guest's kernel takes a store that has left the processor's caches for durable, and
 * grants MAP_SYNC. Nobody tells the host when to write: it has to be persistent memory itself.
 */
export interface NvdimmDevice {
  kind: 'nvdimm';
  id: string;
  /** A file of a file system with DAX, or a device-DAX node; opened by the driver. */
  path: string;
  /** Bytes, a multiple of `align`. */
  size: number;
  /** Bytes that its place in the guest is a multiple of: 2 MiB, or what the device-DAX node asks for. */
  align: number;
  readOnly: boolean;
  /** Mapped with MAP_SYNC, so that the file's blocks are on the medium before a store can reach them. */
  sync: boolean;
}

export interface NetDevice {
  kind: 'net';
  id: string;
  /** Descriptor of a tap, borrowed. */
  fd: number;
  /** Its name, for hypervisors that open it themselves. */
  tap?: string | undefined;
  mac: string;
  mtu?: number | undefined;
  /** The tap has IFF_VNET_HDR. */
  vnetHeader?: boolean | undefined;
}

/** A directory shared by a vhost-user daemon (virtiofsd). */
export interface FsDevice {
  kind: 'fs';
  id: string;
  tag: string;
  /** The daemon's socket; it listens already. */
  socketPath: string;
}

export type MachineDevice = BlockDevice | PmemDevice | NvdimmDevice | NetDevice | FsDevice;

/** Where the guest finds a plugged device. */
export interface Placement {
  /** PCI addresses from the root bus down: "0000:00:02.3/00.0"; empty when the device is not on PCI. */
  pciPath: string;
  /** Physical address in the guest, of memory that is not on PCI. */
  address?: number | undefined;
}

/**
 * A PCI function of the host that is bound to vfio-pci. It is there from the machine's first instruction, on a root port
 * of its own whose windows its BARs fit into: what is plugged later gets the windows that the firmware left over.
 */
export interface PassedFunction {
  /** On the host: "0000:41:00.0". */
  address: string;
  /** "/dev/vfio/12"; undefined: opened by `device` over /dev/iommu. */
  group?: string | undefined;
  /** "/dev/vfio/devices/vfio3". */
  device?: string | undefined;
  /** Bytes that its BARs need: below 4 GiB, and prefetchable with 64-bit addresses. */
  memoryWindow: number;
  prefetchWindow: number;
  /** NUMA node; undefined: the firmware does not say. */
  node?: number | undefined;
  /** As in sysfs: 0x010802. */
  class: number;
  /** The guest sees its expansion ROM: a display's driver may need it, others only lengthen the boot. */
  rom: boolean;
}

/** Where a machine's memory is on the host. */
export interface MemoryPlacement {
  /** Bytes of a huge page that all of it is made of. */
  hugePage?: number | undefined;
  /** NUMA node that all of it is on. */
  node?: number | undefined;
}

/** What a hypervisor must be able to do for passed functions. */
export interface FunctionAccess {
  /** Nodes of the host that it opens by path. */
  nodes: readonly { path: string; major: number; minor: number }[];
  /** Bytes of the guest's memory: all of it is locked, for devices write to it. */
  lockedBytes: number;
}

/** How the agent of the guest is reached. */
export interface AgentSocket {
  /**
   * A unix socket that listens from before the hypervisor's first instruction, or as soon as it has made it; or
   * "vsock://CID:PORT", where the agent listens itself.
   */
  path: string;
  /** First bytes to send, and what the answer's line begins with: hybrid vsock ("CONNECT 1024\n", "OK "). */
  greeting?: { send: string; expect: string } | undefined;
}

export interface MachineLaunch {
  config: MachineConfig;
  program: string;
  /** With args[0]. */
  args: string[];
  env: string[];
  /** Unix sockets that listen, and files that are open, from before the first instruction: by descriptor number. */
  listen: readonly { path: string; descriptor: number }[];
  files: readonly { path: string; flags: number; descriptor: number }[];
  credentials?: Credentials | undefined;
  access?: FunctionAccess | undefined;
  /** The console's fifo: what the guest's kernel and the hypervisor itself say. */
  stdio: StdioPaths;
  agent: AgentSocket;
  /** Awaited by attach(): work that goes on beside the hypervisor's start. */
  ready: Promise<void>;
  /** Closes what only the launch needed; call it when the process runs or could not be started. */
  release(): void;
}

export type MachineEvent =
  | { type: 'shutdown'; guest: boolean; reason: string }
  | { type: 'stopped' }
  | { type: 'resumed' }
  | { type: 'panicked' }
  | { type: 'unplugged'; id: string }
  /** The control connection is gone: the hypervisor has ended, or must be. */
  | { type: 'closed'; reason: string };

export interface MachineStatus {
  running: boolean;
  /** The hypervisor's own word: "running", "paused", "inmigrate", … */
  state: string;
}

/** A running machine. Every call has a deadline; what a hypervisor cannot do is refused with Unimplemented. */
export interface Machine {
  readonly config: MachineConfig;
  plug(device: MachineDevice): Promise<Placement>;
  /** Resolves when the guest has let go. NotFound when there is no such device. */
  unplug(id: string): Promise<void>;
  /** More memory, in MiB (a multiple of 128); the guest has to bring it online. */
  growMemory(mib: number): Promise<void>;
  /** `count` more; the guest has to bring them online. */
  addVcpus(count: number): Promise<void>;
  /** Thread ids on the host, in the order of the vCPUs; absent: it does not tell. */
  vcpuThreads?(): Promise<number[]>;
  stop(): Promise<void>;
  cont(): Promise<void>;
  status(): Promise<MachineStatus>;
  /** Ends the hypervisor's process without asking the guest. */
  quit(): Promise<void>;
  /** Returns what ends it. */
  onEvent(listener: (event: MachineEvent) => void): () => void;
  /** Gives up the control connection; the machine runs on. */
  close(): void;
}

export interface Hypervisor {
  readonly name: 'qemu' | 'firecracker' | 'cloud-hypervisor';
  /** Where the guest sees each of config.functions, from the root bus down: "05.0/00.0". */
  functionPaths(config: MachineConfig): string[];
  prepare(config: MachineConfig): Promise<MachineLaunch>;
  /** Of a process just launched. The guest runs when it resolves. */
  attach(launch: MachineLaunch): Promise<Machine>;
  /** Of a process that an earlier engine launched. */
  reattach(config: MachineConfig): Promise<Machine>;
}
