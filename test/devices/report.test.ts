import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseCdiSpec } from '../../src/devices/cdi/parse.ts';
import { CdiRegistry } from '../../src/devices/cdi/registry.ts';
import { nvidiaSpec } from '../../src/devices/gpu/contribute.ts';
import { probeGpus } from '../../src/devices/gpu/probe.ts';
import { readMachine } from '../../src/devices/machine.ts';
import { deviceReport } from '../../src/devices/report.ts';
import { FakeTree, type FakeFiles } from '../../src/devices/testing/fake_tree.ts';
import {
  goodHost,
  gpuFunction,
  labFunctions,
  nodesOf,
  nvidiaFiles,
  pciFiles,
  pmemFiles,
  type FakeGpu,
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
const withGpu = (gpu: FakeGpu, more: FakeFiles = {}, version = '570.86.15'): FakeFiles => ({
  ...goodHost,
  ...pciFiles([gpuFunction(gpu)]),
  ...nvidiaFiles(version, [gpu]),
  ...more,
});
const without = (files: FakeFiles, pattern: RegExp): FakeFiles =>
  Object.fromEntries(Object.entries(files).filter(([path]) => !pattern.test(path)));

const machines: Record<string, FakeFiles> = {
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
  'small-address-space': withGpu(oneGpu, {
    '/proc/cpuinfo': 'address sizes\t: 40 bits physical, 48 bits virtual\n',
  }),
  'gpu-in-use': withGpu(oneGpu, {
    '/proc/1234/comm': 'nvidia-persiste',
    '/proc/1234/fd/7': { link: '/dev/nvidia0' },
    '/proc/1/fd/0': { link: '/dev/null' },
  }),
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

const staleSpec = JSON.stringify({
  cdiVersion: '0.5.0',
  kind: 'nvidia.com/gpu',
  devices: [{ name: '0', containerEdits: { deviceNodes: [{ path: '/dev/nvidia0' }] } }],
  containerEdits: {
    mounts: [{ hostPath: '/usr/lib/libcuda.so.550.54', containerPath: '/usr/lib/libcuda.so.550.54' }],
  },
});

const registryOf = async (name: string): Promise<CdiRegistry> => {
  if (name !== 'stale-cdi-spec') return new CdiRegistry([], new Map());
  const path = '/etc/cdi/nvidia.yaml';
  return new CdiRegistry(
    [{ path, priority: 0, spec: await parseCdiSpec(staleSpec, 'json', path) }],
    new Map(),
  );
};

describe('what a node can pass to which wall', () => {
  it.each(Object.keys(machines))('%s', async (name) => {
    const machine = readMachine(new FakeTree(machines[name]), 'x64');
    const report = deviceReport({
      machine,
      registry: await registryOf(name),
      walls: ['namespace', 'vm', 'sentry'],
    });
    await expect(`${JSON.stringify(report, null, 2)}\n`).toMatchFileSnapshot(
      join(import.meta.dirname, 'golden', `${name}.json`),
    );
  });

  it('says of a build without a virtual machine that it has none', async () => {
    const machine = readMachine(new FakeTree(machines['one-gpu']), 'x64');
    const report = deviceReport({ machine, registry: await registryOf(''), walls: ['namespace'] });
    expect(report.devices[0]?.walls.vm).toEqual({
      ok: false,
      why: [{ check: 'wall-absent', sentence: 'this build has no vm wall that takes devices' }],
    });
  });

  it('trusts the interrupt controller of arm64', async () => {
    const machine = readMachine(new FakeTree(machines['no-interrupt-remapping']), 'arm64');
    const report = deviceReport({ machine, registry: await registryOf(''), walls: ['vm'] });
    expect(report.devices[0]?.walls.vm).toEqual({ ok: true, as: 'vfio' });
  });
});

const sentences = async (name: string): Promise<string[]> => {
  const machine = readMachine(new FakeTree(machines[name]), 'x64');
  const report = deviceReport({
    machine,
    registry: await registryOf(name),
    walls: ['namespace', 'vm', 'sentry'],
  });
  return report.devices.flatMap(({ walls }) =>
    [walls.namespace, walls.vm, walls.sentry].flatMap(({ why = [] }) =>
      why.map(({ check, sentence }) => `${check}: ${sentence}`),
    ),
  );
};

describe('refusals, word by word', () => {
  it.each([
    [
      'no-iommu',
      'iommu-off: GPU 0000:41:00.0: cannot pass by VFIO: IOMMU is off (no /sys/kernel/iommu_groups/*)',
    ],
    [
      'audio-in-the-group',
      'group-not-viable: GPU 0000:41:00.0: cannot pass by VFIO: IOMMU group 40 is not viable: 0000:41:00.1 (audio function, snd_hda_intel) is bound to a host driver',
    ],
    [
      'no-interrupt-remapping',
      'interrupt-remapping: GPU 0000:41:00.0: cannot pass by VFIO: interrupt remapping missing; VFIO_SET_IOMMU would fail with EPERM',
    ],
    [
      'lab',
      'interrupt-remapping: Ethernet controller 0000:01:10.0: cannot pass by VFIO: interrupt remapping missing; VFIO_SET_IOMMU would fail with EPERM',
    ],
    [
      'small-address-space',
      'bar-too-large: GPU 0000:41:00.0: cannot pass by VFIO: BAR1 is 128 GiB; guest phys-bits 40 allow 64 GiB',
    ],
    [
      'gpu-in-use',
      'in-use: GPU 0000:41:00.0: device is in use by process 1234 (nvidia-persiste); unbinding would block until it is closed',
    ],
    [
      'pmem-in-every-mode',
      'map-sync: PMEM volume /mnt/p: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable',
    ],
    [
      'pmem-in-every-mode',
      'pmem-in-use: PMEM namespace7.0: the host has its file system mounted at /srv, and a guest would need it for itself',
    ],
    [
      'pmem-in-every-mode',
      'pmem-not-mounted: PMEM namespace4.0: a guest gets a file of a file system on /dev/pmem4, and none is mounted',
    ],
    ['pmem-in-every-mode', 'pmem-no-driver: PMEM namespace6.0: no driver has taken it'],
    [
      'lab',
      'pmem-misaligned: PMEM namespace1.0: no driver can map it: region1 at 0x10ffe0000, namespace of 0x10000000 bytes, not multiples of the alignment 0x1000000',
    ],
    [
      'stale-cdi-spec',
      'cdi-stale: CDI spec /etc/cdi/nvidia.yaml is for driver 550.54 but 570.86.15 is loaded; regenerate',
    ],
    [
      'gpu-without-driver',
      'vfio-not-loaded: GPU 0000:41:00.0: cannot pass by VFIO: the driver vfio-pci is not loaded',
    ],
    [
      'gpu-without-driver',
      'driver-missing: GPU 0000:41:00.0: cannot share it with a container: no driver is bound, not to nvidia',
    ],
    [
      'gpu-for-vfio',
      'driver-missing: GPU 0000:41:00.0: cannot share it with a container: it is bound to vfio-pci, not to nvidia',
    ],
    [
      'uvm-not-loaded',
      'uvm-missing: GPU 0000:41:00.0: cannot share it with a container: nvidia-uvm is not loaded; CUDA would fail',
    ],
    [
      'nvswitch-without-fabric-manager',
      'fabric-manager: GPU 0000:41:00.0: cannot share it with a container: this machine has NVSwitches and the fabric manager does not run; CUDA would fail',
    ],
    [
      'root-disk',
      'host-uses-it: NVMe controller 0000:04:00.0: cannot pass by VFIO: the host uses it: /, swap',
    ],
    [
      'two-numa-nodes',
      'host-uses-it: Ethernet controller 0000:21:00.0: cannot pass by VFIO: the host’s default route goes over it',
    ],
    ['one-gpu', 'wall: GPU 0000:41:00.0: the sentry wall passes no devices of the host'],
  ])('%s: %s', async (name, sentence) => {
    expect(await sentences(name)).toContain(sentence);
  });

  it('refuses nothing that a good machine can do', async () => {
    expect((await sentences('one-gpu')).filter((text) => !text.startsWith('wall:'))).toEqual([]);
  });
});

describe('CDI specs made from the driver', () => {
  it.each(['one-gpu', 'mig', 'eight-gpus-nvswitch'])('%s', async (name) => {
    const host = new FakeTree(machines[name]);
    const spec = nvidiaSpec(probeGpus(readMachine(host, 'x64')), host);
    const text = `${JSON.stringify(spec, null, 2)}\n`;
    await expect(text).toMatchFileSnapshot(join(import.meta.dirname, 'golden', `cdi-${name}.json`));
    // What is generated is what our own strict parser takes.
    await expect(parseCdiSpec(text, 'json', 'generated')).resolves.toEqual(spec);
  });

  it('makes none without a driver', () => {
    const host = new FakeTree(machines['gpu-without-driver']);
    expect(nvidiaSpec(probeGpus(readMachine(host, 'x64')), host)).toBeUndefined();
  });
});
