import { describe, expect, it } from 'vitest';
import type { FoundDevice } from './cdi/registry.ts';
import type { CdiSpec, ContainerEdits, DeviceNode } from './cdi/types.ts';
import { checkNamed } from './named_checks.ts';
import { FakeTree, type FakeFiles } from './testing/fake_tree.ts';
import { goodHost, gpuFunction, nvidiaFiles, pciFiles, type FakeGpu } from './testing/machines.ts';

const found = (kind: string, containerEdits: ContainerEdits, common?: ContainerEdits): FoundDevice => {
  const device = { name: '0', containerEdits };
  const spec: CdiSpec = {
    cdiVersion: '0.5.0',
    kind,
    devices: [device],
    ...(common && { containerEdits: common }),
  };
  return { file: { path: '/etc/cdi/x.json', priority: 0, spec }, device };
};
const failing = (code: string) => (): void => {
  throw Object.assign(new Error(code), { code });
};
const host = new FakeTree({
  '/proc/driver/nvidia/version':
    'NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 1 00:00:00 UTC 2026\n',
});
const input = { host, mapSync: () => {}, annotations: {}, wall: 'namespace' as const };
const mount = (path: string): ContainerEdits => ({ mounts: [{ hostPath: path, containerPath: '/pmem' }] });

describe('persistent memory behind the vm wall', () => {
  const device = found('bulkhead.io/pmem', mount('/mnt/p'));

  it('is no directory, unless what does not last is allowed', () => {
    const refusal = checkNamed([device], { ...input, wall: 'vm' });
    expect(refusal).toEqual({
      check: 'map-sync',
      sentence:
        'PMEM volume /mnt/p: MAP_SYNC not supported (a guest has a directory over virtio-fs, without DAX); writes would not be durable',
      fix: 'make a volume in it (bulkhead devices pmem format /mnt/p/VOLUME --size SIZE) and mount that with type ext4 and option dax, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    });
    const annotations = { 'bulkhead.io/allow-nonpersistent': 'true' };
    expect(checkNamed([device], { ...input, wall: 'vm', annotations })).toBeUndefined();
  });
});

describe('a GPU’s spec', () => {
  const library = (version: string): ContainerEdits => mount(`/usr/lib64/libcuda.so.${version}`);
  it('must be for the loaded driver', () => {
    const stale = found('nvidia.com/gpu', {}, library('550.54.14'));
    expect(checkNamed([stale], input)).toEqual({
      check: 'cdi-stale',
      sentence: 'CDI spec /etc/cdi/x.json is for driver 550.54.14 but 570.86.15 is loaded; regenerate',
      fix: 'bulkhead devices cdi generate --kind nvidia.com/gpu --output /etc/cdi/x.json',
    });
  });
  it.each<[string, FoundDevice]>([
    ['the same driver', found('nvidia.com/gpu', {}, library('570.86.15'))],
    ['a spec without libraries', found('nvidia.com/gpu', {})],
    ['another maker’s', found('amd.com/gpu', {}, library('550.54.14'))],
  ])('passes: %s', (_, device) => {
    expect(checkNamed([device], input)).toBeUndefined();
  });
  it('is not held against a driver that is not loaded', () => {
    const stale = found('nvidia.com/gpu', {}, library('550.54.14'));
    expect(checkNamed([stale], { ...input, host: new FakeTree({}) })).toBeUndefined();
  });
});

describe('a GPU that is shared', () => {
  const gpu: FakeGpu = { address: '0000:41:00.0', minor: 0 };
  const good: FakeFiles = {
    ...goodHost,
    ...pciFiles([gpuFunction(gpu)]),
    ...nvidiaFiles('570.86.15', [gpu]),
  };
  const nvSwitch = {
    address: '0000:05:00.0',
    class: '0x068000',
    vendor: '0x10de',
    driver: 'nvidia-nvswitch',
  };
  const amd = { address: '0000:03:00.0', class: '0x038000', vendor: '0x1002', group: 3 };
  const without = (path: string): FakeFiles =>
    Object.fromEntries(Object.entries(good).filter(([name]) => name !== path));
  const unbound: FakeFiles = { ...goodHost, ...pciFiles([{ ...gpuFunction(gpu), driver: '', drm: [] }]) };
  const forVfio: FakeFiles = {
    ...goodHost,
    ...pciFiles([{ ...gpuFunction(gpu), driver: 'vfio-pci', drm: [] }]),
  };
  const node = { path: '/dev/nvidia0' };
  const named = (...deviceNodes: DeviceNode[]): FoundDevice => found('nvidia.com/gpu', { deviceNodes });
  const card = found('amd.com/gpu', { deviceNodes: [{ path: '/dev/dri/renderD128' }] });
  const share = 'GPU 0000:41:00.0: cannot share it with a container:';

  it.each<[string, FoundDevice, FakeFiles, string, string]>([
    [
      'whose driver is not there',
      named(node),
      unbound,
      `${share} no driver is bound, not to nvidia`,
      'modprobe nvidia',
    ],
    [
      'that VFIO has',
      named(node),
      forVfio,
      `${share} it is bound to vfio-pci, not to nvidia`,
      'echo > /sys/bus/pci/devices/0000:41:00.0/driver_override && echo 0000:41:00.0 > /sys/bus/pci/devices/0000:41:00.0/driver/unbind && echo 0000:41:00.0 > /sys/bus/pci/drivers_probe',
    ],
    [
      'whose node is not there',
      named(node),
      without('/dev/nvidia0'),
      `${share} /dev/nvidia0 is not there`,
      'nvidia-modprobe -c 0 -u',
    ],
    [
      'without unified memory',
      named(node),
      { ...good, '/proc/devices': 'Character devices:\n195 nvidia\n' },
      `${share} nvidia-uvm is not loaded; CUDA would fail`,
      'nvidia-modprobe -u',
    ],
    [
      'behind NVSwitches that nobody manages',
      named(node),
      { ...good, ...pciFiles([gpuFunction(gpu), nvSwitch]) },
      `${share} this machine has NVSwitches and the fabric manager does not run; CUDA would fail`,
      'systemctl start nvidia-fabricmanager',
    ],
    [
      'of AMD whose driver is not there',
      card,
      { ...goodHost, ...pciFiles([amd]) },
      'GPU 0000:03:00.0: cannot share it with a container: no driver is bound, not to amdgpu',
      'modprobe amdgpu',
    ],
  ])('%s is refused before the start', (_, device, files, sentence, fix) => {
    expect(checkNamed([device], { ...input, host: new FakeTree(files) })).toMatchObject({ sentence, fix });
  });

  it.each<[string, FoundDevice, FakeFiles]>([
    ['is given', named(node), good],
    [
      'is given by numbers of the spec',
      named({ ...node, type: 'c', major: 195, minor: 0 }),
      without('/dev/nvidia0'),
    ],
    [
      'is given from another place',
      named({ ...node, hostPath: '/run/driver/dev/nvidia0' }),
      {
        ...without('/dev/nvidia0'),
        '/run/driver/dev/nvidia0': { node: 'c 195:0' },
      },
    ],
    [
      'is given when the fabric manager is a container’s',
      named(node),
      {
        ...good,
        ...pciFiles([gpuFunction(gpu), nvSwitch]),
        '/proc/88/comm': 'nv-fabricmanage',
      },
    ],
    [
      'does not mind another one that is VFIO’s',
      named(node),
      {
        ...good,
        ...pciFiles([
          gpuFunction(gpu),
          { ...gpuFunction({ ...gpu, address: '0000:42:00.0' }), driver: 'vfio-pci', drm: [] },
        ]),
      },
    ],
    [
      'of AMD is given',
      card,
      { ...goodHost, ...pciFiles([{ ...amd, driver: 'amdgpu', drm: ['renderD128'] }]) },
    ],
    ['is not looked for in another maker’s kind', found('vendor.com/gpu', { deviceNodes: [node] }), unbound],
  ])('%s', (_, device, files) => {
    expect(checkNamed([device], { ...input, host: new FakeTree(files) })).toBeUndefined();
  });

  it('is refused when it does not answer, though its number is not known then', () => {
    const silent = {
      ...input,
      host: new FakeTree({
        ...without('/proc/driver/nvidia/gpus/0000:41:00.0/information'),
        '/proc/driver/nvidia/gpus/0000:41:00.0/registry': '',
      }),
      stuck: ['/proc/driver/nvidia/gpus/0000:41:00.0'],
    };
    expect(checkNamed([named(node)], silent)).toEqual({
      check: 'unresponsive',
      sentence:
        'GPU 0000:41:00.0: cannot share it with a container: the kernel does not answer for it: a driver holds its lock, or the device is dying',
      fix: 'see what waits for it with: echo w > /proc/sysrq-trigger && dmesg; when nothing can be ended, reboot',
    });
    const other = [{ path: '/dev/nvidiactl' }];
    expect(checkNamed([named(...other)], silent)).toBeUndefined();
  });

  it('is not shared with a virtual machine', () => {
    expect(checkNamed([named(node)], { ...input, host: new FakeTree(good), wall: 'vm' })).toEqual({
      check: 'gpu-shared',
      sentence: 'GPU 0000:41:00.0: its driver is the host’s, which the vm wall shares with no container',
      fix: 'use the namespace wall, or give the GPU away whole: --device bulkhead.io/vfio=0000:41:00.0',
    });
  });
});

describe('persistent memory', () => {
  const device = found('bulkhead.io/pmem', mount('/mnt/p'));
  it.each(['EOPNOTSUPP', 'EINVAL', 'EISDIR'])('must be persistent: %s', (code) => {
    expect(checkNamed([device], { ...input, mapSync: failing(code) })).toEqual({
      check: 'map-sync',
      sentence:
        'PMEM volume /mnt/p: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable',
      fix: 'use a directory of an ext4 or xfs on /dev/pmemN that is mounted with dax=always; bulkhead devices names them, or set the annotation bulkhead.io/allow-nonpersistent=true to go on',
    });
  });
  it('need not be when that is said', () => {
    const annotations = { 'bulkhead.io/allow-nonpersistent': 'true' };
    expect(checkNamed([device], { ...input, mapSync: failing('EOPNOTSUPP'), annotations })).toBeUndefined();
  });
  it.each(['EROFS', 'ENOENT'])('is not refused for what is no matter of durability: %s', (code) => {
    expect(checkNamed([device], { ...input, mapSync: failing(code) })).toBeUndefined();
  });
  it('passes when the kernel promises it, and only mounts are asked about', () => {
    expect(checkNamed([device], input)).toBeUndefined();
    const node = found('bulkhead.io/pmem', { deviceNodes: [{ path: '/dev/dax0.0' }] });
    expect(checkNamed([node], { ...input, mapSync: failing('EOPNOTSUPP') })).toBeUndefined();
  });
});
