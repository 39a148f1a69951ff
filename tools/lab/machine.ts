/** QEMU's command line for the lab: an emulated machine with an IOMMU that shares the host's tree. */
import type { LabAssets } from './assets.ts';

export interface LabMachine {
  memoryMib: number;
  /** Properties of the machine type beyond q35's, such as `nvdimm=on`. */
  machine?: string[];
  /** Appended to `-m`, such as `slots=4,maxmem=16G`. */
  slots?: string;
  /** Further arguments; `@DIR@` stands for the directory of the boot. */
  devices?: string[];
}

export interface CommandLineInput {
  assets: LabAssets;
  initrd: string;
  /** The source tree: the job's working directory. */
  tree: string;
  /** Directory of this boot, the guest's /run/lab. */
  dir: string;
  machine: LabMachine;
}

const share = (id: string, path: string, options: string): string[] => [
  '-fsdev',
  `local,id=${id},path=${path},security_model=none${options}`,
  '-device',
  `virtio-9p-pci,fsdev=${id},mount_tag=${id}`,
];

/** Arguments of QEMU. The serial port is its standard output. */
export function commandLine({ assets, initrd, tree, dir, machine }: CommandLineInput): string[] {
  const type = ['q35', 'kernel-irqchip=split', ...(machine.machine ?? [])];
  const kernelArguments = [
    // A periodic tick: under TCG a processor that sleeps until its one-shot timer was seen to miss it for half a minute.
    'console=ttyS0 quiet panic=-1 intel_iommu=on nohz=off highres=off',
    // Pages that move while a nested machine has them were seen to be written by it afterwards: the kernel's stacks, once.
    'numa_balancing=disable',
    // On a busy host the emulated timer comes too late for the kernel's trial of it, which then panics.
    'no_timer_check',
    `LAB_TREE=${tree}`,
    ...(assets.modules === undefined ? [] : [`LAB_KERNEL=${assets.modules}`]),
  ];
  return [
    ...assets.firmware.flatMap((path) => ['-L', path]),
    ...['-name', 'lab', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-monitor', 'none', '-serial', 'stdio'],
    // `max` has SVM, which TCG emulates: KVM works in there.
    ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2'],
    ...['-M', type.join(','), '-m', [`${machine.memoryMib}M`, machine.slots].filter(Boolean).join(',')],
    // Interrupt remapping has to be there before anything that it remaps. With `eim` the kernel uses the x2APIC, by registers:
    // of the APIC in memory a processor was seen to have a timer's interrupt in service for ever, and to hear no others.
    ...['-device', 'intel-iommu,intremap=on,caching-mode=on,eim=on'],
    ...['-kernel', assets.kernel, '-initrd', initrd, '-append', kernelArguments.join(' ')],
    ...share('host', '/', ',readonly=on,multidevs=remap'),
    ...share('out', dir, ''),
    ...(machine.devices ?? []).map((word) => word.replaceAll('@DIR@', dir)),
  ];
}
