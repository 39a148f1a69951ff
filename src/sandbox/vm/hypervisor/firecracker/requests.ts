/**
 * A machine as Firecracker's API wants it (src/firecracker/swagger/firecracker.yaml): one PUT a resource, then the start.
 * Pure. Written for v1.16: older ones refuse a property that they do not know (`mtu`, `clock_realtime`, `vsock_override`).
 */
import type { BlockDevice, MachineConfig, MachineDevice, NetDevice, PmemDevice } from '../hypervisor.ts';
import type { Method } from '../http_api.ts';
import { ownPath } from '../own_directory.ts';
import { unable } from '../refuse.ts';

export interface ApiRequest {
  method: Method;
  path: string;
  body: object;
}

/** The guest's own address on its vsock; each machine has its own socket, so all can have the same. */
const GUEST_CID = 3;
const KERNEL_ARGUMENTS = 'console=ttyS0 quiet reboot=k panic=-1 pci=off no_timer_check cryptomgr.notests';
const MAX_VCPUS = 32;

export const SOCKETS = { api: 'api.sock', vsock: 'vsock.sock' } as const;

export function vsockPath(config: MachineConfig): string {
  return ownPath(config, SOCKETS.vsock);
}

/** Everything up to and with the start of the guest. Throws Unimplemented for what Firecracker has not. */
export function startRequests(config: MachineConfig): ApiRequest[] {
  const { image, size, template } = config;
  check(config);
  if (template !== undefined) return [restoreRequest(config, template)];
  const args = [KERNEL_ARGUMENTS, image.commandLine ?? ''].filter((part) => part !== '').join(' ');
  return [
    put('/machine-config', { vcpu_count: size.vcpus, mem_size_mib: size.memoryMib }),
    put('/boot-source', {
      kernel_image_path: image.kernel,
      ...(image.initrd === '' ? {} : { initrd_path: image.initrd }),
      boot_args: args,
    }),
    put('/vsock', { guest_cid: GUEST_CID, uds_path: vsockPath(config) }),
    put('/entropy', {}),
    ...(config.devices ?? []).map((device) => deviceRequest(config.id, device)),
    put('/actions', { action_type: 'InstanceStart' }),
  ];
}

function restoreRequest(
  config: MachineConfig,
  { memory, state }: NonNullable<MachineConfig['template']>,
): ApiRequest {
  return put('/snapshot/load', {
    snapshot_path: state,
    mem_backend: { backend_type: 'File', backend_path: memory },
    vsock_override: { uds_path: vsockPath(config) },
    clock_realtime: true,
    resume_vm: true,
  });
}

function check({ id, size, accelerator, sharedMemory, template, devices }: MachineConfig): void {
  if (accelerator !== 'kvm') throw unable(id, 'firecracker', 'needs KVM', 'use qemu, which can emulate');
  if (sharedMemory)
    throw unable(id, 'firecracker', 'has no memory that others can map, so no shared directories');
  if (size.vcpus > MAX_VCPUS || (size.vcpus > 1 && size.vcpus % 2 !== 0))
    throw unable(
      id,
      'firecracker',
      `cannot have ${size.vcpus} vcpus: one, or an even number up to ${MAX_VCPUS}`,
    );
  // What its API server takes as a name (checked_id).
  const named = (devices ?? []).find((device) => !/^[A-Za-z0-9_]+$/.test(device.id));
  if (named !== undefined)
    throw unable(id, 'firecracker', `takes letters, digits and "_" in a device's name, not "${named.id}"`);
  if (template !== undefined && (devices ?? []).length > 0)
    throw unable(id, 'firecracker', 'takes no devices when it starts from a template');
}

function deviceRequest(id: string, device: MachineDevice): ApiRequest {
  switch (device.kind) {
    case 'block':
      return drive(device);
    case 'pmem':
      return pmem(id, device);
    case 'net':
      return networkInterface(id, device);
    case 'nvdimm':
      throw unable(id, 'firecracker', 'has no NVDIMMs', 'use virtio-pmem');
    case 'fs':
      throw unable(
        id,
        'firecracker',
        'has no shared directories',
        'use a root file system on a block device',
      );
  }
}

function drive({ id, path, readOnly }: BlockDevice): ApiRequest {
  return put(`/drives/${id}`, {
    drive_id: id,
    path_on_host: path,
    is_read_only: readOnly,
    is_root_device: false,
  });
}

function pmem(machine: string, { id, path, mode }: PmemDevice): ApiRequest {
  if (mode === 'private')
    throw unable(machine, 'firecracker', 'maps persistent memory shared or read-only only');
  return put(`/pmem/${id}`, { id, path_on_host: path, read_only: mode === 'read-only' });
}

function networkInterface(machine: string, { id, tap, mac, mtu }: NetDevice): ApiRequest {
  if (tap === undefined) throw unable(machine, 'firecracker', 'opens taps by name');
  return put(`/network-interfaces/${id}`, {
    iface_id: id,
    host_dev_name: tap,
    guest_mac: mac,
    ...(mtu === undefined ? {} : { mtu }),
  });
}

function put(path: string, body: object): ApiRequest {
  return { method: 'PUT', path, body };
}
