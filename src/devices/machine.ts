/** Facts of the machine that the checks of all kinds use. */
import type { HostTree } from './host_tree.ts';
import type { IommuFacts, Machine } from './model.ts';
import { readPci } from './pci.ts';

const IOMMU_GROUPS = '/sys/kernel/iommu_groups';
/** Extended capability register of an Intel IOMMU: bit 3 is interrupt remapping (VT-d specification, 11.4.3). */
const ECAP_IR = 0x8n;

/** @param arch of the machine, as process.arch names it */
export function readMachine(host: HostTree, arch: string = process.arch): Machine {
  return {
    host,
    pci: readPci(host),
    iommu: readIommu(host, arch),
    physicalBits: physicalBits(host.text('/proc/cpuinfo') ?? ''),
    numaNodes: numaNodes(host),
    openNodes: openNodesOf(host),
  };
}

function readIommu(host: HostTree, arch: string): IommuFacts {
  const parameter = host.text(unsafeInterruptsFile(host));
  return {
    on: host.entries(IOMMU_GROUPS).length > 0,
    interruptRemapping: interruptRemapping(host, arch),
    unsafeInterrupts: parameter === 'Y' || parameter === '1',
    vfioPci: host.exists('/sys/bus/pci/drivers/vfio-pci'),
    iommufd: host.node('/dev/iommu') !== undefined && hasFunctionNodes(host),
  };
}

/** The parameter by which an operator does without interrupt remapping: of groups where the kernel has them, as they are used. */
export function unsafeInterruptsFile(host: HostTree): string {
  const isIommufd = !host.exists('/sys/module/vfio_iommu_type1') && host.exists('/sys/module/iommufd');
  return `/sys/module/${isIommufd ? 'iommufd' : 'vfio_iommu_type1'}/parameters/allow_unsafe_interrupts`;
}

/**
 * A function has a node of its own (CONFIG_VFIO_DEVICE_CDEV, Linux 6.6). The directory comes with the first function that is
 * bound to vfio-pci; before, only the kernel's list of character devices tells.
 */
function hasFunctionNodes(host: HostTree): boolean {
  return host.exists('/dev/vfio/devices') || /^ *\d+ vfio-dev$/m.test(host.text('/proc/devices') ?? '');
}

/**
 * The kernel has no file that says it. On x86 the interrupt chips in use carry "IR-" in their names when interrupts
 * are remapped; where no message-signalled interrupt is in use yet, the IOMMU's own capabilities tell. On arm64 the
 * interrupt controller isolates devices by itself.
 */
function interruptRemapping(host: HostTree, arch: string): IommuFacts['interruptRemapping'] {
  if (arch === 'arm64') return 'on';
  const interrupts = host.text('/proc/interrupts') ?? '';
  if (/\bIR-/.test(interrupts)) return 'on';
  const capabilities = host
    .entries('/sys/class/iommu')
    .map((unit) => host.text(`/sys/class/iommu/${unit}/intel-iommu/ecap`))
    .filter((ecap) => ecap !== undefined && ecap !== '');
  if (capabilities.some((ecap) => (BigInt(`0x${ecap}`) & ECAP_IR) === 0n)) return 'off';
  return /\bPCI-MSI/.test(interrupts) ? 'off' : 'unknown';
}

/** "address sizes : 46 bits physical, 48 bits virtual" of proc_cpuinfo(5). */
function physicalBits(cpuinfo: string): number | undefined {
  const bits = /^address sizes\s*:\s*(\d+) bits physical/m.exec(cpuinfo)?.[1];
  return bits === undefined ? undefined : Number(bits);
}

function numaNodes(host: HostTree): number[] {
  return host
    .entries('/sys/devices/system/node')
    .flatMap((name) => (/^node\d+$/.test(name) ? [Number(name.slice(4))] : []))
    .sort((a, b) => a - b);
}

/** Processes that have one of these nodes open: "1234 (nvidia-persistenc)". */
export function holdersOf({ openNodes }: Pick<Machine, 'openNodes'>, paths: readonly string[]): string[] {
  const open = openNodes();
  return [...new Set(paths.flatMap((path) => open.get(path) ?? []))];
}

/** One look at all processes answers for every device: there are thousands of descriptors, and hundreds of functions. */
function readOpenNodes(host: HostTree): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const pid of host.entries('/proc').filter((name) => /^\d+$/.test(name))) {
    const open = host.entries(`/proc/${pid}/fd`).map((fd) => host.link(`/proc/${pid}/fd/${fd}`) ?? '');
    const nodes = new Set(open.filter((path) => path.startsWith('/dev/')));
    const name = nodes.size === 0 ? '' : `${pid} (${host.text(`/proc/${pid}/comm`) ?? '?'})`;
    for (const path of nodes) found.set(path, [...(found.get(path) ?? []), name]);
  }
  return found;
}

/** Looks when it is first asked. */
export function openNodesOf(host: HostTree): Machine['openNodes'] {
  let found: Map<string, string[]> | undefined;
  return () => (found ??= readOpenNodes(host));
}
