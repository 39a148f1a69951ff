import { describe, expect, it } from 'vitest';
import { generateSpecs } from './generate.ts';
import { parseDriverVersion, parseMigMinors, probeNvidia } from './gpu/nvidia.ts';
import { readMachine } from './machine.ts';
import { formatSize, type Machine } from './model.ts';
import { isBridge, isGpu, isNvSwitch, parseBars, type PciFunction } from './pci.ts';
import { checkPmemVolume } from './pmem/checks.ts';
import { contributePmem } from './pmem/contribute.ts';
import { probePmem } from './pmem/probe.ts';
import { FakeTree, type FakeFiles } from './testing/fake_tree.ts';
import { goodHost, gpuFunction, nvidiaFiles, pciFiles, pmemFiles } from './testing/machines.ts';
import { windowLimit } from './vfio/checks.ts';
import { contributeVfio } from './vfio/contribute.ts';
import { vfioNodesOf } from './vfio/request.ts';

const machineOf = (files: FakeFiles): Machine => readMachine(new FakeTree(files), 'x64');
const ofClass = (code: number, vendor = 0x10de): PciFunction => ({
  address: '0000:01:00.0',
  class: code,
  vendor,
  device: 1,
  driver: '',
  group: undefined,
  numaNode: undefined,
  resetMethods: [],
  bars: [],
  physicalFunction: '',
  totalVirtualFunctions: 0,
});

describe('PCI', () => {
  it.each([
    [0x060000, true, false, false],
    [0x060400, true, false, false],
    [0x068000, false, false, true],
    [0x030000, false, true, false],
    [0x030200, false, true, false],
    [0x038000, false, true, false],
    [0x120000, false, true, false],
    [0x020000, false, false, false],
    [0x040300, false, false, false],
  ])('class %i: bridge %s, GPU %s, NVSwitch %s', (code, bridge, gpu, nvSwitch) => {
    const pci = ofClass(code);
    expect([isBridge(pci), isGpu(pci), isNvSwitch(pci)]).toEqual([bridge, gpu, nvSwitch]);
  });

  it('reads BARs', () => {
    const zero = '0x0000000000000000 0x0000000000000000 0x0000000000000000';
    const text = [
      '0x00000000fe404000 0x00000000fe407fff 0x0000000000140204',
      zero,
      '0x0000380000000000 0x0000381fffffffff 0x000000000014220c',
      zero,
      '0x000000000000e000 0x000000000000e07f 0x0000000000040101',
      zero,
      '0x00000000fe800000 0x00000000fe87ffff 0x0000000000046200',
    ].join('\n');
    expect(parseBars(text)).toEqual([
      { index: 0, size: 0x4000, large: false },
      { index: 2, size: 128 * 2 ** 30, large: true },
    ]);
    expect(parseBars('')).toEqual([]);
  });

  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [2 ** 20, '1 MiB'],
    [1.5 * 2 ** 30, '1.5 GiB'],
    [2 ** 40, '1 TiB'],
  ])('writes %i bytes as %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });

  it('gives a guest’s window a sixteenth of its address space', () => {
    expect(formatSize(windowLimit(40))).toBe('64 GiB');
    expect(formatSize(windowLimit(46))).toBe('4 TiB');
  });
});

describe('NVIDIA without its library', () => {
  it.each([
    ['NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 23:26:59 UTC 2025', '570.86.15'],
    ['NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54  Release Build', '550.54'],
    ['NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build  (x)', '580.95.05'],
    ['something else', undefined],
    ['', undefined],
  ])('reads the version of %j', (text, version) => {
    expect(parseDriverVersion(text)).toBe(version);
  });

  it('reads the minors of MIG', () => {
    expect([
      ...parseMigMinors('config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\nbroken\n'),
    ]).toEqual([
      ['config', 1],
      ['monitor', 2],
      ['gpu0/gi1/access', 12],
      ['gpu0/gi1/ci0/access', 13],
    ]);
  });

  it('takes addresses with a domain of eight digits', () => {
    const files = nvidiaFiles('570.86.15', [{ address: '00000000:3B:00.0', minor: 2 }]);
    const driver = probeNvidia(new FakeTree(files));
    expect(driver?.gpus).toEqual([
      {
        address: '0000:3b:00.0',
        model: 'NVIDIA H100 80GB HBM3',
        uuid: 'GPU-00000002-aaaa-bbbb-cccc-dddddddddddd',
        minor: 2,
        mig: [],
      },
    ]);
    expect(driver?.majors).toEqual({ nvidia: 195, nvidiactl: 195, 'nvidia-caps': 234, 'nvidia-uvm': 508 });
  });

  it('gives graphics what its loaders look for', () => {
    const lib = '/usr/lib/x86_64-linux-gnu';
    const gpu = { address: '0000:41:00.0', minor: 0 };
    const present = [
      `${lib}/libEGL_nvidia.so.570.86.15`,
      `${lib}/libnvidia-allocator.so.570.86.15`,
      `${lib}/libnvidia-egl-gbm.so.1.1.2`,
      '/usr/share/glvnd/egl_vendor.d/10_nvidia.json',
      '/etc/vulkan/icd.d/nvidia_icd.json',
      '/usr/share/vulkan/implicit_layer.d/nvidia_layers.json',
      '/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json',
      '/etc/OpenCL/vendors/nvidia.icd',
      '/usr/share/X11/xorg.conf.d/10-nvidia.conf',
      '/usr/share/nvidia/nvoptix.bin',
      '/usr/lib/xorg/modules/drivers/nvidia_drv.so',
    ];
    const machine = machineOf({
      ...goodHost,
      ...pciFiles([gpuFunction(gpu)]),
      ...nvidiaFiles('570.86.15', [gpu]),
      ...Object.fromEntries(present.map((path) => [path, ''])),
      [`${lib}/libnvidia-egl-gbm.so.1`]: { link: 'libnvidia-egl-gbm.so.1.1.2' },
      [`${lib}/gbm/nvidia-drm_gbm.so`]: { link: '../libnvidia-allocator.so.1' },
      // Of Mesa, and of another version of the driver.
      '/usr/share/glvnd/egl_vendor.d/50_mesa.json': '',
      [`${lib}/libEGL_nvidia.so.550.54.14`]: '',
      '/tmp/nvidia-mps/control': '',
    });
    const mounts = generateSpecs(machine)[0]?.containerEdits?.mounts ?? [];
    const seen = new Map(mounts.map(({ hostPath, containerPath }) => [containerPath, hostPath]));
    for (const path of present) expect(seen.get(path)).toBe(path);
    expect(seen.get(`${lib}/libnvidia-egl-gbm.so.1`)).toBe(`${lib}/libnvidia-egl-gbm.so.1.1.2`);
    expect(seen.get(`${lib}/gbm/nvidia-drm_gbm.so`)).toBe(`${lib}/libnvidia-allocator.so.570.86.15`);
    expect([...seen.keys()].filter((path) => /mesa|550/.test(path))).toEqual([]);
    expect(mounts.find(({ containerPath }) => containerPath === '/tmp/nvidia-mps')?.options).toContain(
      'noexec',
    );
  });

  it('is not there without the driver', () => {
    expect(probeNvidia(new FakeTree({}))).toBeUndefined();
  });
});

describe('persistent memory', () => {
  const files = {
    ...pmemFiles([
      { region: 0, mode: 'raw' },
      { region: 1, mode: 'safe', mount: '/mnt/sector ext4 rw' },
      { region: 2, mode: 'memory', mount: '/mnt/two\\040words ext4 rw,dax=always' },
      { region: 3, mode: 'memory', mount: '/mnt/slow xfs rw,dax=never' },
      { region: 5, mode: 'dax' },
      { region: 6, mode: 'dax', unbound: true },
    ]),
    '/sys/bus/nd/devices/namespace0.1/mode': 'raw',
    '/sys/bus/nd/devices/namespace0.1/size': '0',
  };
  const devices = probePmem({ host: new FakeTree(files) });

  it('recognises every mode and passes the seed over', () => {
    expect(devices.map(({ id, mode, node, dax }) => [id, mode, node, dax])).toEqual([
      ['namespace0.0', 'raw', '/dev/pmem0', false],
      ['namespace1.0', 'sector', '/dev/pmem1s', false],
      ['namespace2.0', 'fsdax', '/dev/pmem2', true],
      ['namespace3.0', 'fsdax', '/dev/pmem3', true],
      ['namespace5.0', 'devdax', '/dev/dax5.0', true],
      ['namespace6.0', 'devdax', '', false],
    ]);
    expect(devices[2]?.mounts).toEqual([{ path: '/mnt/two words', type: 'ext4', dax: true }]);
  });

  it.each([
    ['namespace0.0', { deviceNodes: [{ path: '/dev/pmem0', permissions: 'rw' }] }],
    ['namespace1.0', undefined],
    [
      'namespace2.0',
      {
        mounts: [
          {
            hostPath: '/mnt/two words',
            containerPath: '/data',
            type: 'bind',
            options: ['rbind', 'rprivate', 'nosuid', 'nodev'],
          },
        ],
      },
    ],
    ['namespace3.0', undefined],
    ['namespace5.0', { deviceNodes: [{ path: '/dev/dax5.0', permissions: 'rw' }] }],
    ['namespace6.0', undefined],
  ])('contributes of %s', (id, edits) => {
    const device = devices.find((one) => one.id === id);
    expect(device && contributePmem(device, '/data')).toEqual(edits);
  });

  const mounts = [
    'overlay / overlay rw 0 0',
    '/dev/pmem0 /mnt/p ext4 rw,relatime,dax=always 0 0',
    '/dev/pmem1 /mnt/q xfs rw,relatime 0 0',
    '/dev/pmem0 /srv/volume ext4 rw,relatime,dax=inode 0 0',
    'tmpfs /mnt/p/tmp tmpfs rw 0 0',
  ].join('\n');

  it.each([
    ['/mnt/p', true],
    ['/mnt/p/deep/below', true],
    ['/srv/volume', true],
    ['/mnt/q', false],
    ['/mnt/p/tmp/x', false],
    ['/mnt/pother', false],
    ['/', false],
  ])('tells of the volume %s whether writes are durable: %s', (path, durable) => {
    const refusal = checkPmemVolume(new FakeTree({ '/proc/mounts': mounts }), path);
    const sentence = `PMEM volume ${path}: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable`;
    expect(refusal?.sentence).toBe(durable ? undefined : sentence);
  });
});

describe('VFIO in the namespace wall', () => {
  const nic = {
    address: '0000:01:10.0',
    class: '0x020000',
    vendor: '0x8086',
    driver: 'vfio-pci',
    group: 14,
    reset: 'flr',
  };
  const other = { ...nic, address: '0000:01:10.2', group: 9 };
  const machine = machineOf({
    ...goodHost,
    ...pciFiles([nic, other, { ...nic, address: '0000:02:00.0', driver: 'igb', group: 20 }]),
    '/dev/vfio/14': { node: 'c 245:0' },
    '/dev/vfio/9': { node: 'c 245:1' },
  });
  const nodes = (path: string) => ({ path, permissions: 'rw' });

  it('gives the groups’ nodes and lets memory be locked', () => {
    expect(contributeVfio([nic, other].map(({ address }) => vfioNodesOf(machine.host, address)))).toEqual({
      edits: { deviceNodes: ['/dev/vfio/vfio', '/dev/vfio/9', '/dev/vfio/14'].map(nodes) },
      rlimits: [{ type: 'RLIMIT_MEMLOCK', soft: 2 ** 64, hard: 2 ** 64 }],
    });
    expect(contributeVfio([])).toEqual({ edits: {}, rlimits: [] });
  });

  it('gives the nodes of iommufd alone where the kernel has no groups', () => {
    const alone = { address: nic.address, group: undefined, device: '/dev/vfio/devices/vfio3' };
    expect(contributeVfio([alone]).edits).toEqual({
      deviceNodes: ['/dev/iommu', '/dev/vfio/devices/vfio3'].map(nodes),
    });
    const without = { address: nic.address, group: undefined, device: undefined };
    expect(contributeVfio([without])).toEqual({ edits: {}, rlimits: [] });
  });

  it('makes specs of what is bound to vfio-pci', () => {
    expect(generateSpecs(machine)).toEqual([
      {
        cdiVersion: '0.5.0',
        kind: 'bulkhead.io/vfio',
        devices: [
          {
            name: '0000:01:10.0',
            containerEdits: {
              deviceNodes: [
                { path: '/dev/vfio/vfio', permissions: 'rw' },
                { path: '/dev/vfio/14', permissions: 'rw' },
              ],
            },
          },
          {
            name: '0000:01:10.2',
            containerEdits: {
              deviceNodes: [
                { path: '/dev/vfio/vfio', permissions: 'rw' },
                { path: '/dev/vfio/9', permissions: 'rw' },
              ],
            },
          },
        ],
      },
    ]);
  });
});

describe('specs of the host', () => {
  it('names AMD’s and Intel’s GPUs by their nodes', () => {
    const gpu = {
      address: '0000:03:00.0',
      class: '0x038000',
      vendor: '0x1002',
      driver: 'amdgpu',
      drm: ['card0', 'renderD128'],
    };
    const machine = machineOf({
      ...pciFiles([
        gpu,
        { ...gpu, address: '0000:00:02.0', vendor: '0x8086', driver: 'xe', drm: ['card1', 'renderD129'] },
      ]),
      '/dev/kfd': { node: 'c 510:0' },
    });
    const nodes = (...paths: string[]): object => ({ deviceNodes: paths.map((path) => ({ path })) });
    expect(generateSpecs(machine)).toEqual([
      {
        cdiVersion: '0.5.0',
        kind: 'amd.com/gpu',
        devices: [
          { name: '0', containerEdits: nodes('/dev/dri/card0', '/dev/dri/renderD128') },
          { name: 'all', containerEdits: nodes('/dev/dri/card0', '/dev/dri/renderD128') },
        ],
        containerEdits: nodes('/dev/kfd'),
      },
      {
        cdiVersion: '0.5.0',
        kind: 'intel.com/gpu',
        devices: [
          { name: '0', containerEdits: nodes('/dev/dri/card1', '/dev/dri/renderD129') },
          { name: 'all', containerEdits: nodes('/dev/dri/card1', '/dev/dri/renderD129') },
        ],
      },
    ]);
  });

  it('gives a program that is not root the groups of the nodes', () => {
    const at = { class: '0x038000', vendor: '0x1002', driver: 'amdgpu' };
    const machine = machineOf({
      ...pciFiles([
        { ...at, address: '0000:03:00.0', drm: ['card0', 'renderD128'] },
        { ...at, address: '0000:04:00.0', drm: ['card1'] },
      ]),
      '/dev/kfd': { node: 'c 510:0', gid: 109 },
      '/dev/dri/card0': { node: 'c 226:0', gid: 44 },
      '/dev/dri/renderD128': { node: 'c 226:128', gid: 109 },
      '/dev/dri/card1': { node: 'c 226:1' },
    });
    const [spec] = generateSpecs(machine);
    const groups = Object.fromEntries(
      spec?.devices.map(({ name, containerEdits }) => [name, containerEdits.additionalGids]) ?? [],
    );
    expect(groups).toEqual({ 0: [44, 109], 1: undefined, all: [44, 109] });
    expect(spec?.containerEdits?.additionalGids).toEqual([109]);
    // Groups came with that version.
    expect(spec?.cdiVersion).toBe('0.7.0');
  });

  it('makes none of a host without devices', () => {
    expect(generateSpecs(machineOf({}))).toEqual([]);
  });
});
