/**
 * QEMU's command line: one typed structure per switch, rendered to arguments. Pure; what may be JSON is JSON (-object,
 * -device, -blockdev: QEMU 6.2), so that names need no quoting and a plugged device is described by the same structure.
 */
import type { Accelerator as AcceleratorName } from '../hypervisor.ts';

/** Where a memory backend's pages come from. */
export interface Placed {
  hugetlb?: boolean;
  hugetlbsize?: number;
  'host-nodes'?: readonly number[];
  policy?: 'bind';
  prealloc?: boolean;
}

/** -object of type memory-backend-*: where the guest's memory is. Sizes in bytes. */
export type MemoryBackend =
  | { 'qom-type': 'memory-backend-ram'; id: string; size: number }
  | ({ 'qom-type': 'memory-backend-memfd'; id: string; size: number; share: boolean } & Placed)
  | {
      'qom-type': 'memory-backend-file';
      id: string;
      size: number;
      'mem-path': string;
      share: boolean;
      readonly?: boolean;
      pmem?: boolean;
      align?: number;
    };

export type QemuObject = MemoryBackend | { 'qom-type': 'iommufd'; id: string; fd: string };

/** -machine: chipset and what it leaves out. */
export interface Machine {
  type: 'q35' | 'microvm';
  memoryBackend: string;
  options: Record<string, string | boolean>;
}

/** -accel: what executes the guest's instructions, and for TCG how much memory (MiB) holds what it translated. */
export interface Accelerator {
  name: AcceleratorName;
  tbSizeMib?: number | undefined;
}

/** -smp, with CPUs that are plugged later. */
export interface Smp {
  cpus: number;
  maxCpus: number;
}

/** -m: MiB. Slots are for plugged memory. */
export interface Memory {
  sizeMib: number;
  maxMib?: number | undefined;
  slots?: number | undefined;
}

/** -chardev: a socket that listens already (its descriptor), or a file by descriptor set. */
export type Chardev =
  { backend: 'socket'; id: string; fd: number } | { backend: 'file'; id: string; path: string };

/** -device: the driver and its properties. */
export interface Device {
  driver: string;
  id?: string;
  bus?: string;
  addr?: string;
  [property: string]: string | number | boolean | undefined;
}

/** -sandbox: QEMU's own seccomp filter. */
export interface Sandbox {
  obsolete: 'deny';
  elevateprivileges: 'deny';
  spawn: 'deny';
  resourcecontrol: 'deny';
}

export interface QemuSwitches {
  name: string;
  machine: Machine;
  accelerator: Accelerator;
  cpu: string;
  smp: Smp;
  memory: Memory;
  objects: readonly QemuObject[];
  /** -add-fd: a descriptor by which a file is opened as /dev/fdset/SET. */
  descriptorSets: readonly { fd: number; set: number }[];
  chardevs: readonly Chardev[];
  /** -serial chardev:ID; undefined: none. */
  serial?: string | undefined;
  /** -mon of QMP on a chardev. */
  monitor: string;
  devices: readonly Device[];
  /** -kernel, -initrd, -append; a restored machine has its kernel in memory and only the option ROM that started it. */
  boot: { kernel: string; initrd: string; append: string } | { optionRom: string };
  /** -incoming defer: waits to be told where its state comes from. */
  incoming: boolean;
  /** -S: does not run until it is told to. */
  paused: boolean;
  sandbox: Sandbox | undefined;
}

/** The arguments after the program's name. */
export function renderArguments(switches: QemuSwitches): string[] {
  const { smp, memory, boot, sandbox } = switches;
  return [
    ...['-name', keyval(switches.name, {})],
    // Nothing that was not asked for, from no file but ours; a reset ends QEMU, for the pod has ended.
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    ...(sandbox === undefined ? [] : ['-sandbox', keyval('on', { ...sandbox })]),
    ...switches.objects.flatMap((object) => ['-object', JSON.stringify(object)]),
    ...['-machine', machine(switches.machine)],
    ...['-accel', accelerator(switches.accelerator)],
    ...['-cpu', switches.cpu],
    ...['-smp', keyval(String(smp.cpus), smp.maxCpus > smp.cpus ? { maxcpus: smp.maxCpus } : {})],
    ...['-m', memorySize(memory)],
    ...switches.descriptorSets.flatMap(({ fd, set }) => ['-add-fd', `fd=${fd},set=${set}`]),
    ...switches.chardevs.flatMap((chardev) => ['-chardev', renderChardev(chardev)]),
    ...(switches.serial === undefined ? ['-serial', 'none'] : ['-serial', `chardev:${switches.serial}`]),
    ...['-mon', keyval(`chardev=${switches.monitor}`, { mode: 'control' })],
    ...switches.devices.flatMap((device) => ['-device', JSON.stringify(device)]),
    ...('kernel' in boot
      ? ['-kernel', boot.kernel, ...initrd(boot.initrd), '-append', boot.append]
      : ['-option-rom', boot.optionRom]),
    ...(switches.incoming ? ['-incoming', 'defer'] : []),
    ...(switches.paused ? ['-S'] : []),
  ];
}

function initrd(path: string): string[] {
  return path === '' ? [] : ['-initrd', path];
}

function machine({ type, memoryBackend, options }: Machine): string {
  return keyval(type, { ...options, 'memory-backend': memoryBackend });
}

function accelerator({ name, tbSizeMib }: Accelerator): string {
  if (name === 'kvm') return 'kvm';
  return keyval('tcg', { thread: 'multi', ...(tbSizeMib === undefined ? {} : { 'tb-size': tbSizeMib }) });
}

function memorySize({ sizeMib, maxMib, slots }: Memory): string {
  const grows = maxMib !== undefined && maxMib > sizeMib;
  return keyval(`${sizeMib}M`, grows ? { slots: slots ?? 1, maxmem: `${maxMib}M` } : {});
}

function renderChardev(chardev: Chardev): string {
  if (chardev.backend === 'socket')
    return keyval('socket', { id: chardev.id, fd: chardev.fd, server: true, wait: false });
  return keyval('file', { id: chardev.id, path: chardev.path, append: true });
}

/** QEMU's option syntax: "first,key=value,…"; a comma in a value is doubled, a boolean is on or off. */
function keyval(first: string, options: Record<string, string | number | boolean>): string {
  const value = (option: string | number | boolean): string => {
    if (typeof option === 'boolean') return option ? 'on' : 'off';
    return String(option).replaceAll(',', ',,');
  };
  const pairs = Object.entries(options).map(([key, option]) => `${key}=${value(option)}`);
  return [first.replaceAll(',', ',,'), ...pairs].join(',');
}
