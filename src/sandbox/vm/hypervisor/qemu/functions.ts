/**
 * PCI functions of the host in a QEMU machine: a root port each, behind the ports that things are plugged onto, with
 * windows as large as the BARs. Pure.
 */
import type { MachineConfig, PassedFunction } from '../hypervisor.ts';
import type { Device, QemuObject } from './arguments.ts';

/** Descriptors of /dev/iommu and of the functions' nodes, behind those of FD (command_line.ts). */
const FIRST_FD = 8;
/** Not "iommufd": that is a property of each function too, and from the second one on QEMU (10.0) finds the name ambiguous. */
const IOMMUFD_ID = 'iommufd0';
const MIB = 2 ** 20;

/** Functions that are opened over /dev/iommu; the others by their group. */
function byDescriptor({ functions = [] }: MachineConfig): PassedFunction[] {
  return functions.filter(({ group }) => group === undefined);
}

/** What QEMU must be started with: /dev/iommu first, then one node a function. */
export function functionFiles(config: MachineConfig): { path: string; descriptor: number }[] {
  const opened = byDescriptor(config).map(({ device = '' }) => device);
  if (opened.length === 0) return [];
  return ['/dev/iommu', ...opened].map((path, index) => ({ path, descriptor: FIRST_FD + index }));
}

/** Nodes that QEMU opens by path; the container's node is common to all groups. */
export function groupNodes({ functions = [] }: MachineConfig): string[] {
  const groups = functions.flatMap(({ group }) => (group === undefined ? [] : [group]));
  return groups.length === 0 ? [] : [...new Set(['/dev/vfio/vfio', ...groups])];
}

export function functionObjects(config: MachineConfig): QemuObject[] {
  if (byDescriptor(config).length === 0) return [];
  return [{ 'qom-type': 'iommufd', id: IOMMUFD_ID, fd: String(FIRST_FD) }];
}

/** Root ports and functions, in the order of the configuration. */
export function functionDevices(
  config: MachineConfig,
  portName: (index: number) => string,
  portAddress: (index: number) => string,
): Device[] {
  const files = functionFiles(config);
  return (config.functions ?? []).flatMap((passed, index): Device[] => {
    const port = config.ports + index;
    const descriptor = files.find(({ path }) => path === passed.device)?.descriptor;
    return [
      {
        driver: 'pcie-root-port',
        id: portName(port),
        bus: 'pcie.0',
        addr: portAddress(port),
        chassis: port + 1,
        multifunction: true,
        'mem-reserve': windowSize(passed.memoryWindow, MIB),
        'pref64-reserve': windowSize(passed.prefetchWindow, 2 * MIB),
      },
      {
        driver: 'vfio-pci',
        id: functionId(index),
        bus: portName(port),
        addr: '0',
        ...(passed.rom ? {} : { rombar: 0 }),
        ...(passed.group === undefined
          ? { iommufd: IOMMUFD_ID, fd: String(descriptor) }
          : { host: passed.address }),
      },
    ];
  });
}

/** On KVM an IOMMU that remaps interrupts needs the interrupt controllers that it stands before to be QEMU's. */
export function iommuOptions({ iommu, accelerator }: MachineConfig): Record<string, string> {
  return iommu === true && accelerator === 'kvm' ? { 'kernel-irqchip': 'split' } : {};
}

/**
 * Comes before all other devices, which ask for it when they are made. caching-mode: the guest says when it maps something,
 * without which QEMU refuses vfio-pci. Virtio devices pass it by, for they do not ask for VIRTIO_F_ACCESS_PLATFORM.
 */
export function iommuDevices({ iommu }: MachineConfig): Device[] {
  return iommu === true ? [{ driver: 'intel-iommu', id: 'iommu', intremap: 'on', 'caching-mode': true }] : [];
}

/** Kernels have their drivers for it, but do not all use it unasked. */
export function iommuKernelArguments({ iommu }: MachineConfig): string {
  return iommu === true ? 'intel_iommu=on' : '';
}

/** BARs are powers of two and lie at multiples of themselves: a window of the next power holds them in any order. */
function windowSize(bytes: number, least: number): number {
  return Math.max(least, 2 ** Math.ceil(Math.log2(Math.max(1, bytes))));
}

export function functionId(index: number): string {
  return `function-${index}`;
}

/** The host's processor has the address bits that the host's windows for BARs need. */
export function processor({ accelerator, functions = [] }: MachineConfig): string {
  if (accelerator === 'tcg') return 'max';
  return functions.length === 0 ? 'host' : 'host,host-phys-bits=on';
}
