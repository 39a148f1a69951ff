/** Commands that change why a device is refused, as they work when they are typed as root: nothing but sysfs is needed. */
import type { HostTree } from './host_tree.ts';
import { PCI_DEVICES, type PciFunction } from './pci.ts';

const PROBE = '/sys/bus/pci/drivers_probe';

/** Binds a function to another driver; empty: to the one that takes it by itself. */
export function rebind({ address, driver }: Pick<PciFunction, 'address' | 'driver'>, to: string): string {
  const at = `${PCI_DEVICES}/${address}`;
  return [
    `echo ${to}`.trim() + ` > ${at}/driver_override`,
    ...(driver === '' ? [] : [`echo ${address} > ${at}/driver/unbind`]),
    `echo ${address} > ${PROBE}`,
  ].join(' && ');
}

/**
 * An IOMMU that the firmware describes is off by the kernel's command line, any other by the firmware. Intel's is off in many
 * kernels until it is asked for; "amd_iommu=on" is no option, AMD's is on unless it is turned off.
 */
export function turnIommuOn(host: HostTree): string {
  const [, maker = ''] = /^vendor_id\s*:\s*(\S+)/m.exec(host.text('/proc/cpuinfo') ?? '') ?? [];
  const isDescribed = (table: string): boolean => host.exists(`/sys/firmware/acpi/tables/${table}`);
  if (maker === 'GenuineIntel') {
    const firmware = isDescribed('DMAR') ? '' : 'turn VT-d on in the firmware, ';
    return `${firmware}add intel_iommu=on to the kernel command line and reboot`;
  }
  if (maker === 'AuthenticAMD' || maker === 'HygonGenuine') {
    return isDescribed('IVRS')
      ? 'remove amd_iommu=off and iommu=off from the kernel command line and reboot'
      : 'turn AMD-Vi (IOMMU) on in the firmware and reboot';
  }
  return 'turn the IOMMU (VT-d, AMD-Vi, SMMU) on in the firmware, on Intel add intel_iommu=on to the kernel command line, and reboot';
}

/**
 * A BAR of at most `limit` bytes, where the card's can be resized: the file reads which powers of two in MiB it can be (Linux
 * 6.1), and is written one while no driver has the card.
 */
export function shrinkBar(
  host: HostTree,
  { address, driver }: PciFunction,
  index: number,
  limit: number,
): string | undefined {
  const file = `${PCI_DEVICES}/${address}/resource${index}_resize`;
  const text = host.text(file) ?? '';
  const sizes = /^[0-9a-f]+$/.test(text) ? BigInt(`0x${text}`) : 0n;
  let power = Math.floor(Math.log2(limit / 2 ** 20));
  while (power >= 0 && ((sizes >> BigInt(power)) & 1n) === 0n) power -= 1;
  if (power < 0) return undefined;
  const unbind = driver === '' ? '' : `echo ${address} > ${PCI_DEVICES}/${address}/driver/unbind && `;
  return `${unbind}echo ${power} > ${file}`;
}
