/** What the lab does: each sitting is one boot, with the machine it needs and the tests that run in it. */
import type { LabMachine } from './machine.ts';

export interface Sitting {
  name: string;
  /** One line for people. */
  about: string;
  machine: LabMachine;
  /** The machine runs the kernel of our guests (`make guest`), which has no modules, and not Debian's. */
  guestKernel?: boolean;
  /** Empty files of the boot's directory, in MiB. */
  images?: Record<string, number>;
  /** Kernel modules that the tests need, loaded before they begin. */
  modules?: string[];
  /** The tests find a guest with the stock kernel in BULKHEAD_LAB_GUEST: "kernel=PATH" and "initrd=PATH", one a line. */
  stockGuest?: boolean;
  /** Shell commands after that; the sitting fails when they do. */
  prepare?: string;
  /**
   * Test files of a boot before, on the same disks: its power is cut when they make /run/lab/cut. They are not in the
   * report; the sitting fails when they do not come so far.
   */
  untilCut?: string[];
  /** Test files. */
  files: string[];
  env?: Record<string, string>;
  /** Run inside tools/private.sh: containerds and cgroups of their own. */
  privately?: boolean;
  /** From power on to power off, for each boot, many times what it takes on an idle machine. */
  deadlineMinutes: number;
}

/**
 * udev's work: Debian's rule gives the device to its group. And QEMU's files are read over 9p once before somebody waits
 * for them.
 */
const KVM_RULE =
  'groupadd -rf kvm && chgrp kvm /dev/kvm && chmod 660 /dev/kvm && qemu-system-x86_64 --version';

/** An NVDIMM, and room for it in the machine: what is not the label is a multiple of 16 MiB. */
const nvdimm = (index: number, mib: number): string[] => [
  '-object',
  `memory-backend-file,id=pm${index},share=on,mem-path=@DIR@/pm${index}.img,size=${mib * 1024 + 128}K`,
  '-device',
  `nvdimm,memdev=pm${index},id=nvd${index},label-size=128K`,
];

/** A device on a root port of its own: functions of one port share an IOMMU group. */
const port = (index: number, device: string, options: string, bus = 'pcie.0'): string[] => [
  ...['-device', `pcie-root-port,id=rp${index},chassis=${index},slot=${index},bus=${bus}`],
  ...['-device', `${device},bus=rp${index},${options}`],
];

/** Of class 0x0380, as GPUs without a screen are. */
const display = (index: number, bus?: string): string[] => port(index, 'bochs-display', 'romfile=', bus);

/** What is passed on: a network card with virtual functions, a disk and a display. */
const functions = (bus?: string): string[] => [
  ...port(1, 'igb', 'romfile=', bus),
  ...['-drive', 'file=@DIR@/nvme.img,if=none,id=disk,format=raw'],
  ...port(2, 'nvme', 'serial=lab,drive=disk', bus),
  ...display(3, bus),
];

/** Two NUMA nodes of one processor and half of the memory each; the second has a PCI bus of its own, "far". */
const twoNodes = (memoryMib: number): string[] => [
  ...[0, 1].flatMap((node) => [
    ...['-object', `memory-backend-ram,id=node${node},size=${memoryMib / 2}M`],
    ...['-numa', `node,nodeid=${node},cpus=${node},memdev=node${node}`],
  ]),
  ...['-device', 'pxb-pcie,id=far,bus=pcie.0,bus_nr=128,numa_node=1'],
];

/** Functions on the far one of two NUMA nodes, and nested machines on KVM that have them. */
const withFunctions = {
  machine: { memoryMib: 4096, devices: [...twoNodes(4096), ...functions('far')] },
  images: { 'nvme.img': 64 },
  modules: ['igb', 'igbvf', 'nvme', 'bochs', 'vfio_pci', 'kvm_amd'],
  prepare: KVM_RULE,
  stockGuest: true,
  privately: true,
  deadlineMinutes: 30,
};

export const sittings: readonly Sitting[] = [
  {
    name: 'cgroup2',
    about: 'the namespace wall through containerd on a machine with cgroup v2 alone',
    machine: { memoryMib: 3072 },
    files: [
      'test/lab/cgroup2.lab.test.ts',
      ...['run', 'lifecycle', 'exec'].map((name) => `test/e2e/${name}.e2e.test.ts`),
    ],
    privately: true,
    deadlineMinutes: 25,
  },
  {
    name: 'kvm',
    about: 'the vm wall on KVM, which runs on the emulated SVM of the processor',
    machine: { memoryMib: 4096 },
    modules: ['kvm_amd', 'loop', 'ext4', 'vhost_vsock'],
    prepare: KVM_RULE,
    files: ['kvm', 'kvm_memory', 'vsock'].map((name) => `test/lab/${name}.lab.test.ts`),
    privately: true,
    deadlineMinutes: 30,
  },
  {
    name: 'pmem',
    about: 'persistent memory in three modes through the namespace wall and the vm wall',
    machine: {
      memoryMib: 4096,
      machine: ['nvdimm=on'],
      slots: 'slots=4,maxmem=16G',
      devices: [...nvdimm(0, 128), ...nvdimm(1, 64), ...nvdimm(2, 64)],
    },
    modules: ['nfit', 'nd_pmem', 'nd_btt', 'device_dax', 'ext4', 'kvm_amd'],
    prepare: KVM_RULE,
    files: ['test/lab/pmem.lab.test.ts'],
    privately: true,
    deadlineMinutes: 25,
  },
  {
    ...withFunctions,
    name: 'vfio',
    about: 'PCI functions of the host passed to virtual machines, and given back whatever ends',
    files: ['test/lab/vfio.lab.test.ts'],
  },
  {
    ...withFunctions,
    name: 'vfio-programs',
    about: 'PCI functions of the host passed to programs of containers in virtual machines',
    files: ['test/lab/vfio_guest.lab.test.ts'],
  },
  {
    name: 'cut',
    about: 'the power is cut while a container has functions of the host; the machine is started again',
    machine: {
      memoryMib: 3072,
      devices: [...functions(), '-drive', 'file=@DIR@/state.img,if=virtio,format=raw'],
    },
    images: { 'nvme.img': 64, 'state.img': 64 },
    modules: ['igb', 'igbvf', 'nvme', 'bochs', 'vfio_pci', 'virtio_blk', 'ext4'],
    prepare: 'mkdir /mnt/state; { blkid /dev/vda || mkfs.ext4 -q /dev/vda; } && mount /dev/vda /mnt/state',
    untilCut: ['test/lab/cut_before.lab.test.ts'],
    files: ['test/lab/cut.lab.test.ts'],
    privately: true,
    deadlineMinutes: 25,
  },
  {
    name: 'iommufd',
    about: 'PCI functions over iommufd, of which Debian’s kernels have none, and without groups',
    machine: { memoryMib: 3072, devices: [...port(1, 'edu', 'dma_mask=0xffffffff'), ...display(2)] },
    guestKernel: true,
    files: ['test/lab/iommufd.lab.test.ts'],
    privately: true,
    deadlineMinutes: 25,
  },
];
