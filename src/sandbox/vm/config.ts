/** The table [vm] of the engine's configuration. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Accelerator, MachineType } from './hypervisor/hypervisor.ts';
import { VFIO_MODES, type VfioMode } from './guest_vfio.ts';
import { hugePageBytes } from './placement.ts';
import type { RootDevice } from './roots.ts';
import type { SizingConfig } from './sizing.ts';

export interface VmConfig extends SizingConfig {
  /** qemu-system-x86_64 and virtiofsd, absolute. */
  qemu: string;
  virtiofsd: string;
  /** Whose agent guests have: our own, or Kata's, with a kernel and an image or initrd of Kata's. */
  agent: 'bulkhead' | 'kata';
  /** Disk image of a guest with Kata's agent; empty: it is in the initrd. */
  image: string;
  /** Appended to the guest kernel's command line. */
  kernelArguments: string;
  /** Guest kernel and initrd; empty: those that `bulkhead guest build` put into the cache. */
  kernel: string;
  initrd: string;
  /** Guest images and templates, named by what shaped them. */
  cache: string;
  machine: MachineType;
  /** How the agent is reached. "auto": the port; Kata's agent by vsock where the host has that. */
  channel: 'auto' | 'serial' | 'vsock';
  /** "auto": KVM when it works. */
  accelerator: Accelerator | 'auto';
  /** Translated code that TCG keeps of each machine. */
  tcgCacheMib: number;
  /** Start from a saved machine; false: boot each. */
  template: boolean;
  /** Size of the huge pages that memory of machines with functions of the host is made of: "2M"; "": ordinary pages. */
  hugePages: string;
  /** Who drives functions of the host in the guest. */
  vfioMode: VfioMode;
  bootTimeoutMs: number;
  /** What a root file system in an image is to the guest: a disk, or persistent memory mounted with DAX. */
  rootDevice: RootDevice;
}

export const defaultVmConfig: VmConfig = {
  qemu: '/usr/bin/qemu-system-x86_64',
  virtiofsd: '/usr/lib/qemu/virtiofsd',
  agent: 'bulkhead',
  image: '',
  kernelArguments: '',
  kernel: '',
  initrd: '',
  cache: '/var/cache/bulkhead',
  machine: 'q35',
  channel: 'auto',
  accelerator: 'auto',
  tcgCacheMib: 64,
  template: true,
  hugePages: '',
  vfioMode: 'guest-kernel',
  bootTimeoutMs: 60_000,
  rootDevice: 'block',
  memoryMib: 256,
  overheadMib: 64,
  maxMemoryMib: 4096,
  vcpus: 1,
  maxVcpus: 4,
  annotations: [],
};

type Check = (value: unknown) => boolean;
const isPath: Check = (value) => typeof value === 'string' && value.startsWith('/');
const isFlag: Check = (value) => typeof value === 'boolean';
const isPageSize: Check = (value) => typeof value === 'string' && hugePageBytes(value) !== undefined;
const isCount: Check = (value) => Number.isInteger(value) && (value as number) > 0;
/** A day: what a timer takes is 2^31 ms. */
const isSeconds: Check = (value) => isCount(value) && (value as number) <= 86_400;
const isLine: Check = (value) => typeof value === 'string' && /^[\x20-\x7e]*$/.test(value);
const isNames: Check = (value) => Array.isArray(value) && value.every((name) => typeof name === 'string');
const oneOf =
  (...names: string[]): Check =>
  (value) =>
    names.includes(value as string);

const keys: Readonly<Record<string, { key: keyof VmConfig; check: Check; scale?: number }>> = {
  qemu: { key: 'qemu', check: isPath },
  virtiofsd: { key: 'virtiofsd', check: isPath },
  agent: { key: 'agent', check: oneOf('bulkhead', 'kata') },
  image: { key: 'image', check: isPath },
  kernel_arguments: { key: 'kernelArguments', check: isLine },
  kernel: { key: 'kernel', check: isPath },
  initrd: { key: 'initrd', check: isPath },
  cache: { key: 'cache', check: isPath },
  machine: { key: 'machine', check: oneOf('q35', 'microvm') },
  channel: { key: 'channel', check: oneOf('auto', 'serial', 'vsock') },
  accelerator: { key: 'accelerator', check: oneOf('auto', 'tcg', 'kvm') },
  tcg_cache_mib: { key: 'tcgCacheMib', check: isCount },
  template: { key: 'template', check: isFlag },
  huge_pages: { key: 'hugePages', check: isPageSize },
  vfio_mode: { key: 'vfioMode', check: oneOf(...VFIO_MODES) },
  boot_timeout_seconds: { key: 'bootTimeoutMs', check: isSeconds, scale: 1000 },
  root_device: { key: 'rootDevice', check: oneOf('block', 'pmem') },
  memory_mib: { key: 'memoryMib', check: isCount },
  overhead_mib: { key: 'overheadMib', check: isCount },
  max_memory_mib: { key: 'maxMemoryMib', check: isCount },
  vcpus: { key: 'vcpus', check: isCount },
  max_vcpus: { key: 'maxVcpus', check: isCount },
  annotations: { key: 'annotations', check: isNames },
};

/** InvalidArgument, naming the file and the key. */
export function parseVmConfig(path: string, table: Readonly<Record<string, unknown>>): VmConfig {
  const config: VmConfig = { ...defaultVmConfig };
  for (const [name, value] of Object.entries(table)) {
    const known = Object.hasOwn(keys, name) ? keys[name] : undefined;
    if (known === undefined || !known.check(value)) throw invalid(path, name, value);
    const { key, scale } = known;
    Object.assign(config, { [key]: scale === undefined ? value : (value as number) * scale });
  }
  if (config.agent === 'kata') checkKata(path, config);
  else if (config.image !== '') throw invalid(path, 'image', config.image);
  config.maxMemoryMib = Math.max(config.maxMemoryMib, config.memoryMib);
  config.maxVcpus = Math.max(config.maxVcpus, config.vcpus);
  return config;
}

/** A guest of Kata's is a kernel and one of image and initrd, and has to be on a machine that takes devices. */
function checkKata(path: string, { kernel, image, initrd, machine }: VmConfig): void {
  if (machine !== 'q35') throw invalid(path, 'machine', machine);
  if (kernel === '') throw invalid(path, 'kernel', kernel);
  if ((image === '') === (initrd === '')) throw invalid(path, image === '' ? 'initrd' : 'image', image);
}

function invalid(path: string, name: string, value: unknown): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'configure',
    object: path,
    reason: `vm.${name}: unknown key or bad value ${JSON.stringify(value)}`,
  });
}
