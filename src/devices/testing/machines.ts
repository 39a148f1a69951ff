/** Machines as tables, for tests: what their /sys, /proc and /dev say. */
import type { FakeFiles } from './fake_tree.ts';

export interface FakePci {
  address: string;
  class: string;
  vendor: string;
  device?: string;
  driver?: string;
  group?: number;
  numa?: number;
  reset?: string;
  /** Sizes in bytes: a 32-bit BAR for registers, then 64-bit prefetchable ones. */
  bars?: number[];
  drm?: string[];
  net?: string;
  totalVfs?: number;
  physfn?: string;
}

export function pciFiles(functions: readonly FakePci[]): FakeFiles {
  const files: FakeFiles = {};
  for (const pci of functions) {
    const at = `/sys/bus/pci/devices/${pci.address}`;
    Object.assign(files, {
      [`${at}/class`]: pci.class,
      [`${at}/vendor`]: pci.vendor,
      [`${at}/device`]: pci.device ?? '0x0001',
      [`${at}/numa_node`]: String(pci.numa ?? -1),
      [`${at}/resource`]: resourceLines(pci.bars ?? []),
      [`${at}/reset_method`]: `${pci.reset ?? ''}\n`,
    });
    if (pci.driver) files[`${at}/driver`] = { link: `../../../bus/pci/drivers/${pci.driver}` };
    if (pci.group !== undefined) {
      files[`${at}/iommu_group`] = { link: `../../../kernel/iommu_groups/${pci.group}` };
      files[`/sys/kernel/iommu_groups/${pci.group}/devices/${pci.address}`] = {};
    }
    for (const name of pci.drm ?? []) files[`${at}/drm/${name}`] = {};
    if (pci.net) files[`${at}/net/${pci.net}`] = {};
    if (pci.totalVfs) files[`${at}/sriov_totalvfs`] = String(pci.totalVfs);
    if (pci.physfn) files[`${at}/physfn`] = { link: `../${pci.physfn}` };
  }
  return files;
}

function resourceLines(sizes: readonly number[]): string {
  const hex = (value: bigint): string => `0x${value.toString(16).padStart(16, '0')}`;
  const lines = sizes.flatMap((size, index) => {
    const start = 0x100000000000n + BigInt(index) * 0x10000000000n;
    const range = `${hex(start)} ${hex(start + BigInt(size) - 1n)}`;
    // The first is a 32-bit one for registers; a 64-bit one takes two places.
    return index === 0 ? [`${range} 0x0000000000040200`] : [`${range} 0x000000000014220c`, zeroLine];
  });
  return [...lines, ...Array.from({ length: 7 }, () => zeroLine)].slice(0, 7).join('\n');
}
const zeroLine = '0x0000000000000000 0x0000000000000000 0x0000000000000000';

/** Lines as the lab's script prints them: "0000:03:00.0 class=0x010802 ven=0x1b36:0x0010 drv=nvme grp=11 numa=-1 totvfs=2 reset=flr bus". */
export function labFunctions(text: string): FakePci[] {
  return text.split('\n').flatMap((line): FakePci[] => {
    const match =
      /^(\S+) (?:VF )?class=(\S+) (?:ven=)?(\w+):(\w+) drv=(\S*) grp=(\d+)(?: numa=\S+ totvfs=(\d*) reset=(.*))?(?: physfn=\.\.\/(\S+) net=(\S*))?$/.exec(
        line.trim(),
      );
    if (match === null) return [];
    const [, address = '', code = '', vendor = '', device = '', driver = '', group, vfs, reset, physfn, net] =
      match;
    return [
      {
        address,
        class: code,
        vendor,
        device,
        driver,
        group: Number(group),
        totalVfs: Number(vfs ?? 0),
        reset: reset ?? '',
        physfn: physfn ?? '',
        net: net ?? '',
      },
    ];
  });
}

const vfio: FakeFiles = { '/sys/bus/pci/drivers/vfio-pci': {}, '/dev/vfio/vfio': { node: 'c 10:196' } };

/** An x86 server with an IOMMU, interrupt remapping and vfio-pci loaded. */
export const goodHost: FakeFiles = {
  ...vfio,
  '/proc/interrupts': '  24:  0  IR-PCI-MSI-0000:00:1c.0   0-edge      PCIe PME\n',
  '/proc/cpuinfo': 'processor\t: 0\naddress sizes\t: 52 bits physical, 57 bits virtual\n',
  '/proc/sys/kernel/random/boot_id': 'boot-1',
  '/sys/devices/system/node/node0/cpulist': '0-31',
};

export const nodesOf = (count: number): FakeFiles =>
  Object.fromEntries(
    Array.from({ length: count }, (_, node) => [`/sys/devices/system/node/node${node}/cpulist`, '']),
  );

const GIB = 2 ** 30;

export interface FakeGpu {
  address: string;
  model?: string;
  minor: number;
  numa?: number;
  group?: number;
  driver?: string;
  bar?: number;
  /** Compute instances by GPU instance: { 1: [0], 2: [0, 1] }. */
  mig?: Record<number, number[]>;
}

export const gpuFunction = (gpu: FakeGpu): FakePci => ({
  address: gpu.address,
  class: '0x030200',
  vendor: '0x10de',
  driver: gpu.driver ?? 'nvidia',
  group: gpu.group ?? 40 + gpu.minor,
  numa: gpu.numa ?? -1,
  reset: 'flr bus',
  bars: [16 * 2 ** 20, gpu.bar ?? 128 * GIB, 32 * 2 ** 20],
  drm: [`card${gpu.minor + 1}`, `renderD${128 + gpu.minor}`],
});

/** The NVIDIA driver's own files and nodes. */
export function nvidiaFiles(version: string, gpus: readonly FakeGpu[]): FakeFiles {
  const files: FakeFiles = {
    '/proc/driver/nvidia/version': `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  ${version}  Release Build\nGCC version:  gcc 12\n`,
    '/proc/devices':
      'Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n234 nvidia-caps\n508 nvidia-uvm\n\nBlock devices:\n  8 sd\n',
    '/dev/nvidiactl': { node: 'c 195:255' },
    '/dev/nvidia-modeset': { node: 'c 195:254' },
    '/dev/nvidia-uvm': { node: 'c 508:0' },
    '/dev/nvidia-uvm-tools': { node: 'c 508:1' },
    [`/usr/lib/x86_64-linux-gnu/libcuda.so.${version}`]: '',
    '/usr/lib/x86_64-linux-gnu/libcuda.so.1': { link: `libcuda.so.${version}` },
    '/usr/lib/x86_64-linux-gnu/libcuda.so': { link: 'libcuda.so.1' },
    [`/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.${version}`]: '',
    '/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1': { link: `libnvidia-ml.so.${version}` },
    '/usr/lib/x86_64-linux-gnu/libc.so.6': '',
    '/usr/bin/nvidia-smi': '',
    [`/lib/firmware/nvidia/${version}/gsp_ga10x.bin`]: '',
    '/run/nvidia-persistenced/socket': '',
  };
  const minors: string[] = [];
  let cap = 12;
  for (const { address, model, minor, mig } of gpus) {
    files[`/proc/driver/nvidia/gpus/${address}/information`] =
      `Model: \t\t ${model ?? 'NVIDIA H100 80GB HBM3'}\nIRQ:   \t\t 130\nGPU UUID: \t GPU-0000000${minor}-aaaa-bbbb-cccc-dddddddddddd\nVideo BIOS: \t 96.00\nBus Type: \t PCIe\nBus Location: \t ${address}\nDevice Minor: \t ${minor}\nGPU Excluded:\t No\n`;
    files[`/dev/nvidia${minor}`] = { node: `c 195:${minor}` };
    files[`/dev/dri/card${minor + 1}`] = { node: `c 226:${minor + 1}` };
    files[`/dev/dri/renderD${128 + minor}`] = { node: `c 226:${128 + minor}` };
    for (const [gi, instances] of Object.entries(mig ?? {})) {
      const at = `/proc/driver/nvidia/capabilities/gpu${minor}/mig/gi${gi}`;
      const add = (path: string, name: string): void => {
        files[path] = `DeviceFileMinor: ${cap}\n`;
        minors.push(`${name} ${cap}`);
        files[`/dev/nvidia-caps/nvidia-cap${cap}`] = { node: `c 234:${cap}` };
        cap += 1;
      };
      add(`${at}/access`, `gpu${minor}/gi${gi}/access`);
      for (const ci of instances) add(`${at}/ci${ci}/access`, `gpu${minor}/gi${gi}/ci${ci}/access`);
    }
  }
  if (minors.length > 0)
    files['/proc/driver/nvidia-caps/mig-minors'] = `config 1\nmonitor 2\n${minors.join('\n')}\n`;
  return files;
}

export interface FakePmem {
  region: number;
  mode: 'raw' | 'safe' | 'memory' | 'dax';
  size?: number;
  numa?: number;
  /** Hexadecimal. */
  address?: string;
  /** No driver took it. */
  unbound?: boolean;
  /** Line of /proc/mounts without the device. */
  mount?: string;
}

export function pmemFiles(namespaces: readonly FakePmem[]): FakeFiles {
  const files: FakeFiles = {};
  const mounts: string[] = [];
  for (const {
    region,
    mode,
    size = 268304384,
    numa = 0,
    address = '0x100000000',
    unbound,
    mount,
  } of namespaces) {
    const id = `namespace${region}.0`;
    const nd = '/sys/bus/nd/devices';
    const holder = { raw: '', safe: `btt${region}.0`, memory: `pfn${region}.0`, dax: `dax${region}.0` }[mode];
    Object.assign(files, {
      [`${nd}/${id}/mode`]: `${mode}\n`,
      [`${nd}/${id}/size`]: String(size),
      [`${nd}/${id}/numa_node`]: String(numa),
      [`${nd}/${id}/holder`]: unbound ? '' : holder,
      [`${nd}/region${region}/align`]: '0x1000000',
      [`${nd}/region${region}/resource`]: address,
    });
    if (unbound) continue;
    if (mode === 'dax') {
      files[`/sys/bus/dax/devices/dax${region}.0/size`] = String(size);
      files[`/dev/dax${region}.0`] = { node: `c 252:${region}` };
      continue;
    }
    const block = `pmem${region}${mode === 'safe' ? 's' : ''}`;
    files[`${nd}/${holder === '' ? id : holder}/block/${block}`] = {};
    files[`/sys/class/block/${block}/queue/dax`] = mode === 'memory' ? '1' : '0';
    files[`/dev/${block}`] = { node: `b 259:${region}` };
    if (mount !== undefined) mounts.push(`/dev/${block} ${mount} 0 0`);
  }
  if (mounts.length > 0) files['/proc/mounts'] = `${mounts.join('\n')}\n`;
  return files;
}
