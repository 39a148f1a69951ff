import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../../../base/errors.ts';
import { addon } from '../../../../native/index.ts';
import type { MachineConfig, MachineDevice, PmemDevice } from '../hypervisor.ts';
import { testConfig } from '../testing/config.ts';
import { ScriptedApi, type Operation } from '../testing/scripted_api.ts';
import { FirecrackerHypervisor } from './driver.ts';

/** The operations that are used, with the properties of the published definitions (Firecracker 1.16). */
const API: Record<string, Operation> = {
  'GET /': {
    status: 200,
    answer: { app_name: 'Firecracker', id: 'x', state: 'Running', vmm_version: '1.16.0' },
  },
  'PUT /machine-config': {
    status: 204,
    body: {
      vcpu_count: 'integer',
      mem_size_mib: 'integer',
      'smt?': 'boolean',
      'track_dirty_pages?': 'boolean',
      'huge_pages?': ['None', 'Transparent', '2M'],
    },
  },
  'PUT /boot-source': {
    status: 204,
    body: { kernel_image_path: 'string', 'initrd_path?': 'string', 'boot_args?': 'string' },
  },
  'PUT /vsock': { status: 204, body: { guest_cid: 'integer', uds_path: 'string', 'vsock_id?': 'string' } },
  'PUT /entropy': { status: 204, body: {} },
  'PUT /drives/{id}': {
    status: 204,
    body: {
      drive_id: 'string',
      is_root_device: 'boolean',
      'is_read_only?': 'boolean',
      'path_on_host?': 'string',
      'cache_type?': ['Unsafe', 'Writeback'],
      'io_engine?': ['Sync', 'Async'],
    },
  },
  'PUT /pmem/{id}': {
    status: 204,
    body: { id: 'string', path_on_host: 'string', 'root_device?': 'boolean', 'read_only?': 'boolean' },
  },
  'PUT /network-interfaces/{id}': {
    status: 204,
    body: { iface_id: 'string', host_dev_name: 'string', 'guest_mac?': 'string', 'mtu?': 'integer' },
  },
  'PUT /actions': { status: 204, body: { action_type: ['FlushMetrics', 'InstanceStart', 'SendCtrlAltDel'] } },
  'PATCH /vm': { status: 204, body: { state: ['Paused', 'Resumed'] } },
  'PUT /snapshot/load': {
    status: 204,
    body: {
      snapshot_path: 'string',
      'mem_backend?': { backend_type: ['File', 'Uffd'], backend_path: 'string' },
      'resume_vm?': 'boolean',
      'vsock_override?': { uds_path: 'string' },
      'clock_realtime?': 'boolean',
    },
  },
};

let api: ScriptedApi;
const driver = (deadlineMs = 2000): FirecrackerHypervisor =>
  new FirecrackerHypervisor({ program: '/usr/bin/firecracker', addon: addon(), agentPort: 1024, deadlineMs });
const config = (changes: Partial<MachineConfig> = {}): MachineConfig =>
  testConfig({ dir: api.dir, accelerator: 'kvm', ...changes });

const disk: MachineDevice = { kind: 'block', id: 'root', path: '/images/root.erofs', readOnly: true };
const pmem: PmemDevice = { kind: 'pmem', id: 'nv', path: '/images/nv', size: 2 << 20, mode: 'shared' };
const nic: MachineDevice = {
  kind: 'net',
  id: 'eth0',
  fd: 9,
  tap: 'tap0',
  mac: '02:00:00:00:00:01',
  mtu: 1450,
};

beforeEach(() => {
  api = new ScriptedApi(API, (reason) => JSON.stringify({ fault_message: reason }), 'own/api.sock');
});

afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

describe('FirecrackerHypervisor', () => {
  it('waits for the socket, configures the machine and starts it', async () => {
    const launch = await driver().prepare(config({ devices: [disk, pmem, nic] }));
    expect(launch.args).toEqual(['firecracker', '--api-sock', api.socketPath, '--id', 'pod-1']);
    expect(launch.agent).toEqual({
      path: `${api.dir}/own/vsock.sock`,
      greeting: { send: 'CONNECT 1024\n', expect: 'OK ' },
    });
    const attached = driver().attach(launch);
    await sleep(20);
    await api.listen();
    await attached;
    expect(api.seen.map(({ operation }) => operation)).toEqual([
      'GET /',
      'PUT /machine-config',
      'PUT /boot-source',
      'PUT /vsock',
      'PUT /entropy',
      'PUT /drives/root',
      'PUT /pmem/nv',
      'PUT /network-interfaces/eth0',
      'PUT /actions',
    ]);
    expect(api.seen[2]?.body).toMatchObject({ kernel_image_path: '/g/vmlinux', initrd_path: '/g/initrd' });
    expect(api.seen.at(-1)?.body).toEqual({ action_type: 'InstanceStart' });
  });

  it('starts from a snapshot, on sockets of its own', async () => {
    const template = { memory: '/t/memory', state: '/t/state', memorySum: 1n };
    const launch = await driver().prepare(config({ template }));
    await api.listen();
    await driver().attach(launch);
    expect(api.seen.slice(1)).toEqual([
      {
        operation: 'PUT /snapshot/load',
        body: {
          snapshot_path: '/t/state',
          mem_backend: { backend_type: 'File', backend_path: '/t/memory' },
          vsock_override: { uds_path: `${api.dir}/own/vsock.sock` },
          clock_realtime: true,
          resume_vm: true,
        },
      },
    ]);
  });

  it('stops, continues and tells how the machine is, also one of an earlier engine', async () => {
    await api.listen();
    const machine = await driver().reattach(config());
    await machine.stop();
    await machine.cont();
    expect(await machine.status()).toEqual({ running: true, state: 'running' });
    expect(api.seen.map(({ body }) => body)).toEqual([
      undefined,
      { state: 'Paused' },
      { state: 'Resumed' },
      undefined,
    ]);
  });

  it.each<[string, Partial<MachineConfig>, string]>([
    ['emulation', { accelerator: 'tcg' }, 'vm pod-1: firecracker: needs KVM; use qemu, which can emulate'],
    ['shared memory', { sharedMemory: true }, 'has no memory that others can map, so no shared directories'],
    [
      'three vcpus',
      { size: { memoryMib: 64, vcpus: 3 } },
      'cannot have 3 vcpus: one, or an even number up to 32',
    ],
    [
      'a shared directory',
      { devices: [{ kind: 'fs', id: 's', tag: 't', socketPath: '/s' }] },
      'has no shared directories; use a root file system on a block device',
    ],
    ['a tap without a name', { devices: [{ kind: 'net', id: 'e', fd: 1, mac: 'm' }] }, 'opens taps by name'],
    [
      'an NVDIMM',
      {
        devices: [{ kind: 'nvdimm', id: 'n', path: '/n', size: 1, align: 1, readOnly: false, sync: false }],
      },
      'vm pod-1: firecracker: has no NVDIMMs; use virtio-pmem',
    ],
    [
      'a name with a dot',
      { devices: [{ ...pmem, id: 'nv.0' }] },
      'takes letters, digits and "_" in a device\'s name, not "nv.0"',
    ],
    ['private memory', { devices: [{ ...pmem, mode: 'private' }] }, 'shared or read-only only'],
    [
      'devices with a template',
      { devices: [disk], template: { memory: '/m', state: '/s', memorySum: 0n } },
      'takes no devices when it starts from a template',
    ],
  ])('refuses %s before anything is launched', async (_what, changes, reason) => {
    await expect(driver().prepare(config(changes))).rejects.toThrow(reason);
  });

  it('boots without an initrd', async () => {
    const launch = await driver().prepare(config({ image: { kernel: '/k', initrd: '' } }));
    await api.listen();
    await driver().attach(launch);
    expect(Object.keys(api.seen[2]?.body as object)).toEqual(['kernel_image_path', 'boot_args']);
  });

  it('says what a machine that runs cannot do', async () => {
    await api.listen();
    const machine = await driver().reattach(config());
    const refused = [
      machine.plug(disk),
      machine.unplug('root'),
      machine.growMemory(128),
      machine.addVcpus(1),
    ];
    for (const call of refused) await expect(call).rejects.toMatchObject({ code: ErrorCode.Unimplemented });
    await expect(machine.quit()).rejects.toThrow(
      'vm pod-1: firecracker: cannot be told to end; end its process',
    );
    machine.onEvent(() => {})();
    machine.close();
  });

  it('passes on why a request was refused', async () => {
    const refusal = '{"fault_message":"The kernel file cannot be opened"}';
    api.instead.set('PUT /boot-source', (response) => void response.writeHead(400).end(refusal));
    const launch = await driver().prepare(config());
    await api.listen();
    await expect(driver().attach(launch)).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: 'vm pod-1: firecracker /boot-source: The kernel file cannot be opened',
    });
  });

  const silence = 'no answer within 300 ms';
  it.each<[string, (response: ServerResponse) => void, string]>([
    [
      'what is not JSON',
      (response) => void response.writeHead(200).end('<html>'),
      'answered with what is not JSON',
    ],
    [
      'too much',
      (response) => void response.writeHead(200).end('x'.repeat(3 << 20)),
      'answered with more than 1 MiB',
    ],
    ['nothing', () => {}, silence],
    ['an end', (response) => void response.destroy(), 'socket hang up'],
    ['a bare refusal', (response) => void response.writeHead(500).end(), 'status 500'],
  ])('takes %s for one error', async (_what, answer, reason) => {
    await api.listen();
    api.instead.set('GET /', answer);
    const deadlineMs = reason === silence ? 300 : 60_000;
    await expect(driver(deadlineMs).reattach(config())).rejects.toThrow(reason);
  });

  it('gives up when nobody comes to listen', async () => {
    const launch = await driver(50).prepare(config());
    await expect(driver(50).attach(launch)).rejects.toMatchObject({ code: ErrorCode.Unavailable });
  });
});
