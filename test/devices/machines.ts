/** Machines whose `bulkhead devices --json` is kept in golden/: what their /sys, /proc and /dev say. */
import type { FakeFiles } from '../../src/devices/testing/fake_tree.ts';
import {
  goodHost,
  gpuFunction,
  labFunctions,
  nodesOf,
  nvidiaFiles,
  pciFiles,
  pmemFiles,
  type FakeGpu,
  type FakePci,
} from '../../src/devices/testing/machines.ts';

/** The lab's machine, as its sysfs showed it: an Intel IOMMU whose ecap has no interrupt remapping. */
const labText = `
0000:00:00.0 class=0x060000 ven=0x8086:0x29c0 drv= grp=0 numa=-1 totvfs= reset=
0000:00:01.0 class=0x030000 ven=0x1234:0x1111 drv= grp=1 numa=-1 totvfs= reset=
0000:00:02.0 class=0x020000 ven=0x8086:0x10d3 drv= grp=2 numa=-1 totvfs= reset=pm
0000:00:03.0 class=0x060400 ven=0x1b36:0x000c drv=pcieport grp=3 numa=-1 totvfs= reset=
0000:00:06.0 class=0x00ff00 ven=0x1af4:0x105b drv=virtio-pci grp=6 numa=-1 totvfs= reset=
0000:00:1f.0 class=0x060100 ven=0x8086:0x2918 drv= grp=8 numa=-1 totvfs= reset=
0000:00:1f.2 class=0x010601 ven=0x8086:0x2922 drv= grp=8 numa=-1 totvfs= reset=
0000:00:1f.3 class=0x0c0500 ven=0x8086:0x2930 drv= grp=8 numa=-1 totvfs= reset=
0000:01:00.0 class=0x020000 ven=0x8086:0x10c9 drv=igb grp=9 numa=-1 totvfs=7 reset=flr pm bus
0000:02:00.0 class=0x00ff00 ven=0x1234:0x11e8 drv= grp=10 numa=-1 totvfs= reset=bus
0000:03:00.0 class=0x010802 ven=0x1b36:0x0010 drv=nvme grp=11 numa=-1 totvfs=2 reset=flr bus
0000:35:00.0 class=0x050210 ven=0x8086:0x0d93 drv=cxl_pci grp=13 numa=-1 totvfs= reset=bus cxl_bus
0000:01:10.0 VF class=0x020000 0x8086:0x10ca drv=igbvf grp=14 physfn=../0000:01:00.0 net=eth1
0000:03:00.1 VF class=0x010802 0x1b36:0x0010 drv= grp=16 physfn=../0000:03:00.0 net=
`;
const lab: FakeFiles = {
  ...pciFiles(labFunctions(labText)),
  ...pmemFiles([
    { region: 0, mode: 'raw', numa: 1, address: '0x140000000' },
    { region: 1, mode: 'memory', size: 268435456, address: '0x10ffe0000', unbound: true },
  ]),
  ...nodesOf(2),
  '/sys/bus/pci/drivers/vfio-pci': {},
  '/sys/class/iommu/dmar0/intel-iommu/ecap': 'f42\n',
  '/dev/vfio/vfio': { node: 'c 10:196' },
};

const eightGpus: FakeGpu[] = Array.from({ length: 8 }, (_, minor) => ({
  address: `0000:${(0x18 + minor * 0x11).toString(16)}:00.0`,
  minor,
  numa: minor < 4 ? 0 : 1,
}));
const switches = [0, 1, 2, 3].map((index) => ({
  address: `0000:0${index + 5}:00.0`,
  class: '0x068000',
  vendor: '0x10de',
  driver: 'nvidia-nvswitch',
  group: 60 + index,
  reset: 'bus',
}));

const oneGpu: FakeGpu = { address: '0000:41:00.0', minor: 0, model: 'NVIDIA A100-PCIE-40GB' };
const audio = {
  address: '0000:41:00.1',
  class: '0x040300',
  vendor: '0x10de',
  driver: 'snd_hda_intel',
  group: 40,
  reset: '',
};
const nic = { class: '0x020000', vendor: '0x8086', driver: 'vfio-pci', reset: 'flr' };
const disk = (address: string, group: number): FakePci => ({
  address,
  class: '0x010802',
  vendor: '0x144d',
  driver: 'nvme',
  group,
  reset: 'flr',
});
const card = (address: string, group: number, net: string): FakePci => ({
  address,
  class: '0x020000',
  vendor: '0x15b3',
  driver: 'mlx5_core',
  group,
  reset: 'flr',
  net,
});
/** A disk below a function, and partitions. */
const blockOf = (address: string, name: string, ...partitions: string[]): FakeFiles => {
  const real = `../../devices/pci0000:00/${address}/nvme/nvme0/${name}`;
  return Object.fromEntries([
    [`/sys/class/block/${name}`, { link: real }],
    ...partitions.map((part) => [`/sys/class/block/${part}`, { link: `${real}/${part}` }]),
  ]);
};
const controllerOf = (address: string, controller: string, subsystem: string): FakeFiles => ({
  [`/sys/bus/pci/devices/${address}/nvme/${controller}/state`]: 'live',
  [`/sys/class/nvme-subsystem/${subsystem}/${controller}`]: {},
});
const headOf = (subsystem: string, name: string): FakeFiles => ({
  [`/sys/class/block/${name}`]: {
    link: `../../devices/virtual/nvme-subsystem/${subsystem}/${name}`,
  },
});
/** An interface that is part of another, or has another made of it. */
const below = (lower: string, upper: string, isMaster: boolean): FakeFiles => ({
  [`/sys/class/net/${lower}/upper_${upper}`]: { link: `../${upper}` },
  ...(isMaster ? { [`/sys/class/net/${lower}/master`]: { link: `../${upper}` } } : {}),
});
const withGpu = (gpu: FakeGpu, more: FakeFiles = {}, version = '570.86.15'): FakeFiles => ({
  ...goodHost,
  ...pciFiles([gpuFunction(gpu)]),
  ...nvidiaFiles(version, [gpu]),
  ...more,
});
const without = (files: FakeFiles, pattern: RegExp): FakeFiles =>
  Object.fromEntries(Object.entries(files).filter(([path]) => !pattern.test(path)));

/** What does not answer, by machine. */
export const stuck: Record<string, string[]> = {
  'dying-devices': ['/proc/driver/nvidia/gpus/0000:41:00.0', '/sys/bus/pci/devices/0000:05:00.0'],
};

/** Where the claims of these machines are. */
export const CLAIMS = '/run/bulkhead/devices';
const claimFile = (address: string, owner: string, bootId = 'boot-1'): FakeFiles => ({
  [`${CLAIMS}/pci-${address}.json`]: JSON.stringify({
    version: 1,
    owner,
    bootId,
    change: { kind: 'pci-driver', address, to: 'vfio-pci', from: '', override: '' },
  }),
});

export const machines: Record<string, FakeFiles> = {
  nothing: {},
  lab,
  'one-gpu': withGpu(oneGpu),
  'eight-gpus-nvswitch': {
    ...goodHost,
    ...nodesOf(2),
    ...pciFiles([...eightGpus.map(gpuFunction), ...switches]),
    ...nvidiaFiles('570.86.15', eightGpus),
    '/run/nvidia-fabricmanager/socket': '',
  },
  'nvswitch-without-fabric-manager': {
    ...goodHost,
    ...pciFiles([gpuFunction(oneGpu), ...switches.slice(0, 1)]),
    ...nvidiaFiles('570.86.15', [oneGpu]),
  },
  mig: withGpu({ ...oneGpu, mig: { 1: [0], 2: [0, 1] } }),
  'no-iommu': without(withGpu(oneGpu), /iommu_group/),
  'no-interrupt-remapping': withGpu(oneGpu, {
    '/proc/interrupts': '  24:  0  PCI-MSI-0000:00:1c.0   0-edge\n',
  }),
  'unsafe-interrupts-allowed': withGpu(oneGpu, {
    '/proc/interrupts': '  24:  0  PCI-MSI-0000:00:1c.0   0-edge\n',
    '/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts': 'Y',
  }),
  'audio-in-the-group': { ...withGpu(oneGpu), ...pciFiles([gpuFunction(oneGpu), audio]) },
  'no-iommu-group': {
    ...without(withGpu(oneGpu), /0000:41:00\.0\/iommu_group/),
    '/sys/kernel/iommu_groups/1/devices/0000:00:1f.0': {},
  },
  'small-address-space': withGpu(oneGpu, {
    '/proc/cpuinfo': 'address sizes\t: 40 bits physical, 48 bits virtual\n',
  }),
  // 64 MiB to 16 GiB, and 128 GiB.
  'resizable-bar': withGpu(oneGpu, {
    '/proc/cpuinfo': 'address sizes\t: 40 bits physical, 48 bits virtual\n',
    '/sys/bus/pci/devices/0000:41:00.0/resource1_resize': '0000000000027fc0\n',
  }),
  // The bridge above the card has no isolation, so that it is in the group; its driver is the kernel's own.
  'bridge-in-the-group': {
    ...withGpu(oneGpu),
    ...pciFiles([
      gpuFunction(oneGpu),
      {
        address: '0000:40:01.0',
        class: '0x060400',
        vendor: '0x1022',
        driver: 'pcieport',
        group: 40,
        reset: 'pm',
      },
    ]),
  },
  'gpu-in-use': withGpu(oneGpu, {
    '/proc/1234/comm': 'nvidia-persiste',
    '/proc/1234/fd/7': { link: '/dev/nvidia0' },
    '/proc/1/fd/0': { link: '/dev/null' },
  }),
  'vfio-in-use': {
    ...goodHost,
    ...pciFiles([
      gpuFunction({ ...oneGpu, driver: 'vfio-pci' }),
      { ...nic, address: '0000:42:00.0', group: 42 },
      { ...nic, address: '0000:43:00.0', group: 43 },
    ]),
    '/proc/71/comm': 'qemu-system-x86',
    '/proc/71/fd/9': { link: '/dev/vfio/40' },
    '/proc/72/comm': 'spdk_tgt',
    '/proc/72/fd/5': { link: '/dev/vfio/devices/vfio3' },
    '/proc/73/comm': 'dpdk-testpmd',
    '/proc/73/fd/5': { link: '/dev/vfio/devices/vfio3' },
    '/sys/bus/pci/devices/0000:42:00.0/vfio-dev/vfio3/dev': '244:3',
    '/sys/bus/pci/devices/0000:43:00.0/vfio-dev/vfio4/dev': '244:4',
  },
  claimed: {
    ...goodHost,
    ...pciFiles([
      { ...nic, address: '0000:42:00.0', group: 42 },
      { ...nic, address: '0000:42:00.1', group: 42 },
      { ...nic, address: '0000:43:00.0', group: 43 },
      { ...nic, address: '0000:44:00.0', group: 44 },
      { ...nic, address: '0000:45:00.0', group: 45 },
      gpuFunction({ ...oneGpu, driver: 'vfio-pci' }),
    ]),
    ...claimFile('0000:41:00.0', 'k8s.io/web'),
    ...claimFile('0000:42:00.0', 'k8s.io/web'),
    ...claimFile('0000:43:00.0', 'cli/spdk'),
    '/proc/71/comm': 'spdk_tgt',
    '/proc/71/fd/9': { link: '/dev/vfio/43' },
    ...claimFile('0000:44:00.0', 'late'),
    // A claim does not outlive the boot.
    ...claimFile('0000:45:00.0', 'k8s.io/web', 'boot-0'),
  },
  // Two functions of it are in `stuck`.
  'dying-devices': {
    ...without(withGpu(oneGpu), /gpus.*information/),
    '/proc/driver/nvidia/gpus/0000:41:00.0/registry': '',
    ...pciFiles([gpuFunction(oneGpu), disk('0000:05:00.0', 5), disk('0000:06:00.0', 6)]),
  },
  'gpu-for-vfio': {
    ...goodHost,
    ...pciFiles([gpuFunction({ ...oneGpu, driver: 'vfio-pci' })]),
    '/dev/iommu': { node: 'c 10:127' },
    '/dev/vfio/devices/vfio0': { node: 'c 511:0' },
  },
  'gpu-without-driver': without(
    { ...goodHost, ...pciFiles([{ ...gpuFunction(oneGpu), driver: '' }]) },
    /drivers\/vfio-pci|\/drm\//,
  ),
  'secure-boot': {
    ...goodHost,
    ...pciFiles([{ ...gpuFunction(oneGpu), driver: '' }]),
    '/sys/kernel/security/lockdown': 'none [integrity] confidentiality\n',
  },
  'gpu-node-missing': without(withGpu(oneGpu), /^\/dev\/nvidia0$/),
  'another-maker': {
    ...goodHost,
    ...pciFiles([
      { address: '0000:06:00.0', class: '0x030000', vendor: '0x1a03', driver: 'ast', group: 8, reset: 'pm' },
    ]),
  },
  'uvm-not-loaded': withGpu(oneGpu, { '/proc/devices': 'Character devices:\n195 nvidia\n' }),
  'stale-cdi-spec': withGpu(oneGpu),
  'two-numa-nodes': {
    ...goodHost,
    ...nodesOf(2),
    ...pciFiles([
      gpuFunction({ ...oneGpu, numa: 1 }),
      {
        address: '0000:21:00.0',
        class: '0x020000',
        vendor: '0x15b3',
        driver: 'mlx5_core',
        group: 12,
        numa: 0,
        reset: 'flr',
        net: 'eth0',
        totalVfs: 16,
      },
    ]),
    ...nvidiaFiles('550.54.15', [oneGpu]),
    '/proc/net/route': 'Iface\tDestination\tGateway\neth0\t00000000\t0102A8C0\n',
  },
  'amd-and-intel': {
    ...goodHost,
    ...pciFiles([
      {
        address: '0000:03:00.0',
        class: '0x038000',
        vendor: '0x1002',
        driver: 'amdgpu',
        group: 3,
        reset: '',
        drm: ['card0', 'renderD128'],
      },
      {
        address: '0000:00:02.0',
        class: '0x030000',
        vendor: '0x8086',
        driver: 'i915',
        group: 0,
        reset: 'flr',
        drm: ['card1', 'renderD129'],
      },
    ]),
    '/dev/kfd': { node: 'c 510:0' },
    '/proc/9/comm': 'systemd-logind',
    '/proc/9/fd/12': { link: '/dev/dri/card1' },
    '/proc/900/comm': 'Xorg',
    '/proc/900/fd/12': { link: '/dev/dri/card1' },
    '/proc/901/comm': 'rocminfo',
    '/proc/901/fd/3': { link: '/dev/dri/renderD128' },
  },
  'root-disk': {
    ...goodHost,
    ...pciFiles([
      {
        address: '0000:04:00.0',
        class: '0x010802',
        vendor: '0x144d',
        driver: 'nvme',
        group: 7,
        reset: 'flr',
      },
    ]),
    '/sys/class/block/nvme0n1p1': {
      link: '../../devices/pci0000:00/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p1',
    },
    '/sys/class/block/nvme0n1p2': {
      link: '../../devices/pci0000:00/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2',
    },
    '/proc/mounts': '/dev/nvme0n1p1 / ext4 rw 0 0\n',
    '/proc/swaps': 'Filename\tType\n/dev/nvme0n1p2 partition 8388604 0 -2\n',
  },
  'disks-below-others': {
    ...goodHost,
    ...pciFiles([
      disk('0000:04:00.0', 4),
      disk('0000:05:00.0', 5),
      disk('0000:06:00.0', 6),
      disk('0000:07:00.0', 7),
      disk('0000:08:00.0', 8),
      disk('0000:09:00.0', 9),
      disk('0000:0a:00.0', 10),
      disk('0000:0b:00.0', 11),
      disk('0000:0c:00.0', 12),
    ]),
    // File systems of several disks, mounted by another of them or by the name of a pool.
    ...blockOf('0000:0b:00.0', 'nvme8n1'),
    '/sys/fs/btrfs/4f1c/devices/sda1': {},
    '/sys/fs/btrfs/4f1c/devices/nvme8n1': {},
    ...blockOf('0000:0c:00.0', 'nvme9n1', 'nvme9n1p1'),
    '/sys/class/block/nvme9n1p1/dev': '259:40',
    '/run/udev/data/b259:40': 'S:disk/by-label/tank\nE:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\n',
    '/proc/spl/kstat/zfs/tank/state': 'ONLINE',
    ...blockOf('0000:0a:00.0', 'nvme7n1'),
    '/sys/class/block/nvme7n1/holders/bcache0': {},
    ...blockOf('0000:04:00.0', 'nvme0n1'),
    ...blockOf('0000:05:00.0', 'nvme1n1', 'nvme1n1p3'),
    ...blockOf('0000:06:00.0', 'nvme2n1'),
    ...blockOf('0000:07:00.0', 'nvme3n1'),
    // RAID of two disks, LVM on it; the second volume is encrypted, and swap.
    '/sys/class/block/nvme0n1/holders/md0': {},
    '/sys/class/block/nvme1n1/nvme1n1p3/holders/md0': {},
    '/sys/class/block/nvme1n1p3/holders/md0': {},
    '/sys/class/block/md0/md/level': 'raid1',
    '/sys/class/block/md0/dev': '9:0',
    '/sys/class/block/md0/holders/dm-0': {},
    '/sys/class/block/md0/holders/dm-1': {},
    '/sys/class/block/dm-0/dm/name': 'vg--one-srv',
    '/sys/class/block/dm-0/dm/uuid': 'LVM-x',
    '/sys/class/block/dm-0/dev': '254:0',
    '/sys/class/block/dm-1/dm/name': 'vg--one-keys',
    '/sys/class/block/dm-1/dm/uuid': 'LVM-y',
    '/sys/class/block/dm-1/holders/dm-2': {},
    '/sys/class/block/dm-2/dm/name': 'secret',
    '/sys/class/block/dm-2/dm/uuid': 'CRYPT-LUKS2-z',
    '/proc/mounts':
      '/dev/mapper/vg--one-srv /srv ext4 rw 0 0\n/dev/mapper/vg--one-srv /srv/two\\040words ext4 rw 0 0\n/dev/sda1 /many btrfs rw 0 0\ntank /tank zfs rw 0 0\n',
    '/proc/swaps': 'Filename\tType\n/dev/dm-2 partition 8388604 0 -2\n',
    // A loop device of a whole disk, by which nothing is mounted; and one of a file, which is nobody's disk.
    '/sys/class/block/loop0/loop/backing_file': '/dev/nvme2n1',
    '/sys/class/block/loop1/loop/backing_file': '/srv/image',
    // A disk that a container alone has mounted, and a program has open.
    '/sys/class/block/nvme3n1/dev': '259:9',
    '/proc/self/ns/mnt': { link: 'mnt:[1]' },
    '/proc/1/ns/mnt': { link: 'mnt:[1]' },
    '/proc/77/ns/mnt': { link: 'mnt:[2]' },
    '/proc/77/mountinfo': '36 35 259:9 / /data rw,relatime shared:1 - ext4 /dev/root rw\n',
    '/proc/78/ns/mnt': { link: 'mnt:[2]' },
    '/proc/78/comm': 'postgres',
    '/proc/78/fd/4': { link: '/dev/nvme3n1' },
    '/proc/79/comm': 'systemd-udevd',
    '/proc/79/fd/4': { link: '/dev/nvme3n1' },
    // NVMe with multipath: the disk is below the subsystem. One has another way to it.
    ...controllerOf('0000:08:00.0', 'nvme4', 'nvme-subsys4'),
    ...controllerOf('0000:09:00.0', 'nvme5', 'nvme-subsys5'),
    '/sys/class/nvme-subsystem/nvme-subsys5/nvme6': {},
    ...headOf('nvme-subsys4', 'nvme4n1'),
    ...headOf('nvme-subsys5', 'nvme5n1'),
    '/proc/self/mountinfo':
      '40 35 259:30 / /multi rw - xfs /dev/nvme4n1 rw\n41 35 259:31 / /both rw - xfs /dev/nvme5n1 rw\n',
    '/sys/class/block/nvme4n1/dev': '259:30',
  },
  'networks-above': {
    ...goodHost,
    ...pciFiles([
      card('0000:21:00.0', 21, 'eth0'),
      card('0000:22:00.0', 22, 'eth1'),
      card('0000:23:00.0', 23, 'eth2'),
      card('0000:24:00.0', 24, 'eth3'),
      card('0000:25:00.0', 25, 'eth4'),
      card('0000:26:00.0', 26, 'eth5'),
      { ...card('0000:27:00.0', 27, 'eth6'), net: '' },
      card('0000:28:00.0', 28, 'eth7'),
    ]),
    '/sys/bus/pci/devices/0000:27:00.0/net': {},
    ...below('eth0', 'bond0', true),
    ...below('eth1', 'bond0', true),
    ...below('bond0', 'br0', true),
    ...below('eth2', 'team0', true),
    ...below('eth3', 'eth3.100', false),
    '/proc/net/route':
      'Iface\tDestination\tGateway\nbr0\t00000000\t0102A8C0\nbr0\t0002A8C0\t00000000\neth3.100\t0000000A\t00000000\n',
    '/proc/net/if_inet6':
      '20010db8000000000000000000000001 02 40 00 80     eth4\nfe800000000000000000000000000001 07 40 20 80     eth7\n',
    '/proc/net/ipv6_route': `${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 fe800000000000000000000000000001 00000400 00000000 00000000 00000003     eth5\n${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 ${'0'.repeat(32)} ffffffff 00000001 00000000 00200200       lo\n`,
  },
  'pmem-in-every-mode': {
    ...goodHost,
    ...pmemFiles([
      { region: 0, mode: 'raw' },
      { region: 1, mode: 'safe' },
      { region: 2, mode: 'memory', mount: '/mnt/fast ext4 rw,relatime,dax=always', numa: 1 },
      { region: 3, mode: 'memory', mount: '/mnt/p xfs rw,relatime' },
      { region: 4, mode: 'memory' },
      { region: 5, mode: 'dax', size: 2 ** 40 },
      { region: 6, mode: 'dax', unbound: true, size: 2 ** 30 },
      { region: 7, mode: 'safe', mount: '/srv ext4 rw' },
    ]),
  },
};
