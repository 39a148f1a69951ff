/** A machine as Cloud Hypervisor's API wants it (vmm/src/api/openapi/cloud-hypervisor.yaml, version 0.3.0). Pure. */
import type { MachineConfig, MachineDevice, NvdimmDevice } from '../hypervisor.ts';
import { ownPath } from '../own_directory.ts';
import type { RuntimeError } from '../../../../base/errors.ts';
import { unable } from '../refuse.ts';

const WHO = 'cloud-hypervisor';
const GUEST_CID = 3;
const KERNEL_ARGUMENTS = 'console=ttyS0 quiet reboot=t panic=-1 no_timer_check cryptomgr.notests';
const MIB = 2 ** 20;

export const VSOCK = 'vsock.sock';

export function vsockPath(config: MachineConfig): string {
  return ownPath(config, VSOCK);
}

/** Body of vm.create (VmConfig). Throws Unimplemented for what Cloud Hypervisor has not. */
export function vmConfig(config: MachineConfig): object {
  const { id, image, size, sharedMemory, devices = [] } = config;
  if (config.accelerator !== 'kvm') throw unable(id, WHO, 'needs KVM', 'use qemu, which can emulate');
  if (devices.some(isNvdimm)) throw noNvdimms(id);
  if (config.template !== undefined) throw unable(id, WHO, 'does not start from a template of ours');
  const growth = Math.max(0, (size.maxMemoryMib ?? 0) - size.memoryMib);
  const cmdline = [KERNEL_ARGUMENTS, image.commandLine ?? ''].filter((part) => part !== '').join(' ');
  const of = (kind: PciDevice['kind']): object[] =>
    devices
      .filter((device) => !isNvdimm(device))
      .filter((device) => device.kind === kind)
      .map((device) => deviceBody(id, device));
  return {
    payload: {
      kernel: image.kernel,
      ...(image.initrd === '' ? {} : { initramfs: image.initrd }),
      cmdline,
    },
    cpus: { boot_vcpus: size.vcpus, max_vcpus: Math.max(size.vcpus, size.maxVcpus ?? 0) },
    memory: {
      size: size.memoryMib * MIB,
      shared: sharedMemory,
      ...(growth > 0 ? { hotplug_size: growth * MIB } : {}),
    },
    rng: { src: '/dev/urandom' },
    serial: { mode: 'Tty' },
    console: { mode: 'Off' },
    vsock: { cid: GUEST_CID, socket: vsockPath(config) },
    disks: of('block'),
    pmem: of('pmem'),
    net: of('net'),
    fs: of('fs'),
  };
}

/** What Cloud Hypervisor knows. */
type PciDevice = Exclude<MachineDevice, NvdimmDevice>;

export function isNvdimm(device: MachineDevice): device is NvdimmDevice {
  return device.kind === 'nvdimm';
}

export function noNvdimms(machine: string): RuntimeError {
  return unable(machine, WHO, 'has no NVDIMMs', 'use virtio-pmem');
}

/** The verb that adds a device to a machine that runs. */
export const ADD: Record<PciDevice['kind'], string> = {
  block: '/vm.add-disk',
  pmem: '/vm.add-pmem',
  net: '/vm.add-net',
  fs: '/vm.add-fs',
};

/** DiskConfig, PmemConfig, NetConfig or FsConfig. */
export function deviceBody(machine: string, device: PciDevice): object {
  switch (device.kind) {
    case 'block': {
      const { id, path, readOnly, serial } = device;
      return { id, path, readonly: readOnly, serial: serial ?? id, image_type: 'Raw' };
    }
    case 'pmem': {
      const { id, path, size, mode } = device;
      if (mode === 'read-only') throw unable(machine, WHO, 'maps persistent memory shared or private only');
      return { id, file: path, size, discard_writes: mode === 'private' };
    }
    case 'net': {
      const { id, tap, mac, mtu } = device;
      if (tap === undefined) throw unable(machine, WHO, 'opens taps by name');
      return { id, tap, mac, ...(mtu === undefined ? {} : { mtu }) };
    }
    case 'fs': {
      const { id, tag, socketPath } = device;
      return { id, tag, socket: socketPath, num_queues: 1, queue_size: 1024 };
    }
  }
}
