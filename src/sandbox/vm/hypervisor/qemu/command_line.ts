/** The QEMU machine of a configuration, as switches. Pure. */
import type { MachineConfig, MemoryPlacement } from '../hypervisor.ts';
import type {
  Chardev,
  Device,
  Machine,
  Memory,
  MemoryBackend,
  Placed,
  QemuSwitches,
  Sandbox,
} from './arguments.ts';
import {
  functionDevices,
  functionObjects,
  iommuDevices,
  iommuKernelArguments,
  iommuOptions,
  processor,
} from './functions.ts';

/** Descriptors that the launch plan leaves for QEMU; the agent's is a socket that listens, or /dev/vhost-vsock. */
export const FD = { monitor: 3, agent: 4, console: 5, memory: 6, state: 7 } as const;
/** Set by which QEMU opens the console's fifo as /dev/fdset/N. */
const CONSOLE_SET = 1;
export const MEMORY_ID = 'memory';
export const AGENT_PORT = 'bulkhead.agent';
/** PCI slot of the first root port; eight of them share a slot as its functions. */
const FIRST_PORT_SLOT = 4;
const PORTS_A_SLOT = 8;
export const MAX_PORTS = 64;

/** How the machine comes to its memory. */
export type MemorySource =
  | { kind: 'anonymous' }
  /** The descriptor FD.memory: a template's memory, or a memory file of its own. */
  | { kind: 'file'; share: boolean };

export interface CommandLineInput {
  config: MachineConfig;
  memory: MemorySource;
  restore: boolean;
  paused: boolean;
}

const SANDBOX: Sandbox = {
  obsolete: 'deny',
  elevateprivileges: 'deny',
  spawn: 'deny',
  resourcecontrol: 'deny',
};

/**
 * What a guest without a screen, keyboard and SATA disk does not need: each costs time at boot and memory. NVDIMMs are
 * plugged into slots that a machine must have had from the start (nvdimm).
 */
const OPTIONS: Record<'q35' | 'microvm', Machine['options']> = {
  q35: { nvdimm: true, sata: false, smbus: false, usb: false, vmport: false, i8042: false, hpet: false },
  microvm: { acpi: true, 'isa-serial': true, rtc: true, pit: false, pic: false },
};

/** Time keeping as the accelerator has it; resets and panics end QEMU (-no-reboot). */
const KERNEL_ARGUMENTS: Record<'tcg' | 'kvm', string> = {
  // The clock of TCG is the host's TSC, which no watchdog needs to check. TCG forgets the code that it has translated of a page
  // when the guest writes to the page; virtiofsd's writes it does not see (vhost_section() in QEMU's hw/virtio/vhost.c). A
  // page that the guest clears when it takes it can hold no old code: without, programs of a shared directory crash (10.0).
  tcg: 'tsc=reliable no_timer_check mitigations=off init_on_alloc=1',
  kvm: 'no_timer_check',
};
/**
 * swiotlb=noforce: the bounce buffers that a kernel sets up as soon as there can be memory above 4 GiB take 64 MiB of the
 * guest, and virtio devices need none.
 */
const COMMON_KERNEL_ARGUMENTS =
  'console=ttyS0 quiet reboot=t panic=-1 swiotlb=noforce cryptomgr.notests random.trust_cpu=on';
/** Address space for memory and persistent memory that is plugged later. It costs nothing (measured) until it is used. */
const PLUGGABLE_MIB = 64 << 10;
const MEMORY_SLOTS = 16;

export function qemuSwitches({ config, memory, restore, paused }: CommandLineInput): QemuSwitches {
  const { size, type, accelerator } = config;
  const pci = type === 'q35';
  return {
    name: config.id,
    machine: { type, memoryBackend: MEMORY_ID, options: { ...OPTIONS[type], ...iommuOptions(config) } },
    accelerator: accelerator === 'tcg' ? { name: 'tcg', tbSizeMib: config.tcgCacheMib } : { name: 'kvm' },
    cpu: processor(config),
    smp: { cpus: size.vcpus, maxCpus: Math.max(size.vcpus, size.maxVcpus ?? 0) },
    memory: pci ? pluggable(size) : { sizeMib: size.memoryMib },
    objects: [memoryBackend(config, memory), ...functionObjects(config)],
    descriptorSets: [{ fd: FD.console, set: CONSOLE_SET }],
    chardevs: [
      { backend: 'socket', id: 'monitor', fd: FD.monitor },
      ...(config.vsockCid === undefined ? [agentSocket] : []),
      { backend: 'file', id: 'console', path: `/dev/fdset/${CONSOLE_SET}` },
    ],
    serial: 'console',
    monitor: 'monitor',
    devices: [
      ...iommuDevices(config),
      // Tells the guest that it is a copy: its kernel makes its random numbers anew (CONFIG_VMGENID).
      ...(pci ? [{ driver: 'vmgenid', id: 'generation', guid: 'auto' }] : []),
      ...(config.vsockCid === undefined ? agentPort(pci) : [agentVsock(pci, config.vsockCid)]),
      ...(pci ? rootPorts(config.ports) : []),
      ...functionDevices(config, portName, portAddress),
    ],
    boot: restore
      ? { optionRom: 'pvh.bin' }
      : { kernel: config.image.kernel, initrd: config.image.initrd, append: kernelArguments(config) },
    incoming: restore,
    paused,
    sandbox: SANDBOX,
  };
}

export function kernelArguments(config: MachineConfig): string {
  const { accelerator, image } = config;
  const own = image.commandLine ?? '';
  return [COMMON_KERNEL_ARGUMENTS, KERNEL_ARGUMENTS[accelerator], iommuKernelArguments(config), own]
    .filter((part) => part !== '')
    .join(' ');
}

/** "rp0" is at 0000:00:04.0. */
export function portName(index: number): string {
  return `rp${index}`;
}

/** PCI address of a root port, without the domain and bus: "04.1". */
export function portAddress(index: number): string {
  const slot = FIRST_PORT_SLOT + Math.floor(index / PORTS_A_SLOT);
  return `${slot.toString(16).padStart(2, '0')}.${index % PORTS_A_SLOT}`;
}

function pluggable({ memoryMib, maxMemoryMib }: MachineConfig['size']): Memory {
  const maxMib = Math.max(memoryMib, maxMemoryMib ?? 0) + PLUGGABLE_MIB;
  return { sizeMib: memoryMib, maxMib, slots: MEMORY_SLOTS };
}

function memoryBackend(
  { size, sharedMemory, placement }: MachineConfig,
  source: MemorySource,
): MemoryBackend {
  const bytes = size.memoryMib * 2 ** 20;
  if (source.kind === 'file') {
    return {
      'qom-type': 'memory-backend-file',
      id: MEMORY_ID,
      size: bytes,
      'mem-path': `/proc/self/fd/${FD.memory}`,
      share: source.share,
    };
  }
  if (placement !== undefined)
    return {
      'qom-type': 'memory-backend-memfd',
      id: MEMORY_ID,
      size: bytes,
      share: sharedMemory,
      ...placed(placement),
    };
  if (sharedMemory) return { 'qom-type': 'memory-backend-memfd', id: MEMORY_ID, size: bytes, share: true };
  return { 'qom-type': 'memory-backend-ram', id: MEMORY_ID, size: bytes };
}

/** Huge pages are taken now: one that is missing later would end the machine with SIGBUS. */
function placed({ hugePage, node }: MemoryPlacement): Placed {
  return {
    ...(hugePage === undefined ? {} : { hugetlb: true, hugetlbsize: hugePage, prealloc: true }),
    ...(node === undefined ? {} : { 'host-nodes': [node], policy: 'bind' }),
  };
}

const agentSocket: Chardev = { backend: 'socket', id: 'agent', fd: FD.agent };

/** Its queues are the kernel's own: what goes to the agent does not pass through QEMU. */
function agentVsock(pci: boolean, cid: number): Device {
  const common = { id: 'vsock', 'guest-cid': cid, vhostfd: String(FD.agent) };
  if (!pci) return { driver: 'vhost-vsock-device', ...common };
  return { driver: 'vhost-vsock-pci-non-transitional', ...common, bus: 'pcie.0', addr: '1' };
}

function agentPort(pci: boolean): Device[] {
  return [
    // Two ports, for number 0 is the console's: each of the usual 31 has two queues that the guest sets up.
    pci
      ? { driver: 'virtio-serial-pci-non-transitional', id: 'serial', bus: 'pcie.0', addr: '1', max_ports: 2 }
      : { driver: 'virtio-serial-device', id: 'serial', max_ports: 2 },
    { driver: 'virtserialport', id: 'agent-port', bus: 'serial.0', chardev: 'agent', name: AGENT_PORT },
  ];
}

function rootPorts(count: number): Device[] {
  return Array.from({ length: count }, (_, index) => ({
    driver: 'pcie-root-port',
    id: portName(index),
    bus: 'pcie.0',
    addr: portAddress(index),
    chassis: index + 1,
    multifunction: true,
  }));
}
