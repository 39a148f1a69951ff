import { statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../../../base/errors.ts';
import { addon } from '../../../../native/index.ts';
import type { MachineConfig, MachineDevice } from '../hypervisor.ts';
import { testConfig } from '../testing/config.ts';
import { ScriptedApi, type Operation, type Shape } from '../testing/scripted_api.ts';
import { CloudHypervisor } from './driver.ts';

const disk: Shape = {
  'path?': 'string',
  'readonly?': 'boolean',
  'direct?': 'boolean',
  'num_queues?': 'integer',
  'queue_size?': 'integer',
  'id?': 'string',
  'serial?': 'string',
  'image_type?': ['FixedVhd', 'Qcow2', 'Raw', 'Vhdx', 'Unknown'],
};
const nvdimm: MachineDevice = {
  kind: 'nvdimm',
  id: 'n',
  path: '/n',
  size: 2 << 20,
  align: 2 << 20,
  readOnly: false,
  sync: false,
};
const pmem: Shape = { file: 'string', 'size?': 'integer', 'discard_writes?': 'boolean', 'id?': 'string' };
const net: Shape = { 'tap?': 'string', 'mac?': 'string', 'mtu?': 'integer', 'id?': 'string' };
const fs: Shape = {
  tag: 'string',
  socket: 'string',
  num_queues: 'integer',
  queue_size: 'integer',
  'id?': 'string',
};
const console: Shape = {
  mode: ['Off', 'Pty', 'Tty', 'File', 'Socket', 'Null'],
  'file?': 'string',
  'socket?': 'string',
};
const added = { status: 200, answer: { id: 'x', bdf: '0000:00:05.0' } };

/** The operations that are used, with the properties of the published schemas (API version 0.3.0). */
const API: Record<string, Operation> = {
  'PUT /api/v1/vm.create': {
    status: 204,
    body: {
      payload: { 'kernel?': 'string', 'cmdline?': 'string', 'initramfs?': 'string', 'firmware?': 'string' },
      'cpus?': { boot_vcpus: 'integer', max_vcpus: 'integer' },
      'memory?': {
        size: 'integer',
        'hotplug_size?': 'integer',
        'hotplug_method?': 'string',
        'shared?': 'boolean',
      },
      'rng?': { src: 'string' },
      'serial?': console,
      'console?': console,
      'vsock?': { cid: 'integer', socket: 'string', 'id?': 'string' },
      'disks?': [disk],
      'pmem?': [pmem],
      'net?': [net],
      'fs?': [fs],
    },
  },
  'PUT /api/v1/vm.boot': { status: 204 },
  'PUT /api/v1/vm.pause': { status: 204 },
  'PUT /api/v1/vm.resume': { status: 204 },
  'PUT /api/v1/vmm.shutdown': { status: 204 },
  'PUT /api/v1/vm.resize': { status: 204, body: { 'desired_vcpus?': 'integer', 'desired_ram?': 'integer' } },
  'PUT /api/v1/vm.add-disk': { ...added, body: disk },
  'PUT /api/v1/vm.add-pmem': { ...added, body: pmem },
  'PUT /api/v1/vm.add-net': { ...added, body: net },
  'PUT /api/v1/vm.add-fs': { ...added, body: fs },
  'PUT /api/v1/vm.remove-device': { status: 204, body: { 'id?': 'string' } },
  'GET /api/v1/vm.info': {
    status: 200,
    answer: {
      state: 'Running',
      memory_actual_size: 256 << 20,
      config: { cpus: { boot_vcpus: 1, max_vcpus: 4 } },
    },
  },
};

let api: ScriptedApi;
const driver = (unplugDeadlineMs = 2000): CloudHypervisor =>
  new CloudHypervisor({
    unplugDeadlineMs,
    program: '/usr/bin/cloud-hypervisor',
    addon: addon(),
    agentPort: 1024,
    deadlineMs: 2000,
  });
const config = (changes: Partial<MachineConfig> = {}): MachineConfig =>
  testConfig({ dir: api.dir, accelerator: 'kvm', sharedMemory: true, ...changes });

const devices: MachineDevice[] = [
  { kind: 'block', id: 'root', path: '/images/root', readOnly: true },
  { kind: 'pmem', id: 'nv', path: '/images/nv', size: 2 << 20, mode: 'private' },
  { kind: 'net', id: 'eth0', fd: 9, tap: 'tap0', mac: '02:00:00:00:00:01', mtu: 1450 },
  { kind: 'fs', id: 'share', tag: 'root', socketPath: '/run/fs.sock' },
];

beforeEach(async () => {
  api = new ScriptedApi(API, (reason) => JSON.stringify(['The request is bad', reason]));
  await api.listen();
});

afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

describe('CloudHypervisor', () => {
  it('creates the machine whole, and boots it', async () => {
    const size = { memoryMib: 256, maxMemoryMib: 1024, vcpus: 1, maxVcpus: 4 };
    const launch = await driver().prepare(config({ size, devices }));
    expect(launch.args).toEqual(['cloud-hypervisor', '--seccomp', 'true', '--api-socket', 'fd=3']);
    expect(launch.listen).toEqual([{ path: api.socketPath, descriptor: 3 }]);
    await driver().attach(launch);
    expect(api.seen.map(({ operation }) => operation)).toEqual([
      'PUT /api/v1/vm.create',
      'PUT /api/v1/vm.boot',
    ]);
    expect(api.seen[0]?.body).toMatchObject({
      cpus: { boot_vcpus: 1, max_vcpus: 4 },
      memory: { size: 256 << 20, hotplug_size: 768 << 20, shared: true },
      vsock: { cid: 3, socket: `${api.dir}/own/vsock.sock` },
      disks: [{ id: 'root', path: '/images/root', readonly: true }],
      pmem: [{ id: 'nv', file: '/images/nv', discard_writes: true }],
      net: [{ id: 'eth0', tap: 'tap0', mtu: 1450 }],
      fs: [{ id: 'share', tag: 'root', socket: '/run/fs.sock' }],
    });
  });

  it.each(devices)('plugs a $kind device', async (device) => {
    const machine = await driver().reattach(config());
    expect(await machine.plug(device)).toEqual({ pciPath: '0000:00:05.0' });
    await machine.unplug(device.id);
    expect(api.seen.at(-2)).toEqual({ operation: 'PUT /api/v1/vm.remove-device', body: { id: device.id } });
  });

  it('has unplugged when the guest has let go', async () => {
    const machine = await driver().reattach(config());
    const held = JSON.stringify({ state: 'Running', device_tree: { root: {}, other: {} } });
    api.instead.set('GET /api/v1/vm.info', (response) => void response.writeHead(200).end(held));
    await machine.unplug('root');
    expect(api.seen.slice(-3).map(({ operation }) => operation)).toEqual([
      'PUT /api/v1/vm.remove-device',
      'GET /api/v1/vm.info',
      'GET /api/v1/vm.info',
    ]);
  });

  it('says when a guest does not let go', async () => {
    const machine = await driver(0).reattach(config());
    const held = JSON.stringify({ state: 'Running', device_tree: { root: {} } });
    api.instead.set('GET /api/v1/vm.info', (response) => void response.writeHead(200).end(held));
    await expect(machine.unplug('root')).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: 'vm pod-1: device "root": the guest has not let go of it within 0 s',
    });
  });

  it('grows, stops, continues, and ends', async () => {
    const machine = await driver().reattach(config());
    await machine.growMemory(256);
    await machine.addVcpus(2);
    await machine.stop();
    await machine.cont();
    expect(await machine.status()).toEqual({ running: true, state: 'running' });
    await machine.quit();
    machine.onEvent(() => {})();
    machine.close();
    expect(api.seen.filter(({ operation }) => operation.endsWith('resize')).map(({ body }) => body)).toEqual([
      { desired_ram: 512 << 20 },
      { desired_vcpus: 3 },
    ]);
    expect(api.seen.slice(-4).map(({ operation }) => operation.split('/').at(-1))).toEqual([
      'vm.pause',
      'vm.resume',
      'vm.info',
      'vmm.shutdown',
    ]);
  });

  it.each<[string, Partial<MachineConfig>, string]>([
    [
      'emulation',
      { accelerator: 'tcg' },
      'vm pod-1: cloud-hypervisor: needs KVM; use qemu, which can emulate',
    ],
    [
      'a template',
      { template: { memory: '/m', state: '/s', memorySum: 0n } },
      'does not start from a template of ours',
    ],
    ['a tap without a name', { devices: [{ kind: 'net', id: 'e', fd: 1, mac: 'm' }] }, 'opens taps by name'],
    [
      'read-only persistent memory',
      { devices: [{ kind: 'pmem', id: 'p', path: '/p', size: 1, mode: 'read-only' }] },
      'maps persistent memory shared or private only',
    ],
    ['an NVDIMM', { devices: [nvdimm] }, 'vm pod-1: cloud-hypervisor: has no NVDIMMs; use virtio-pmem'],
  ])('refuses %s before anything is launched', async (_what, changes, reason) => {
    await expect(driver().prepare(config(changes))).rejects.toThrow(reason);
  });

  it('plugs no NVDIMM', async () => {
    const machine = await driver().reattach(config());
    await expect(machine.plug(nvdimm)).rejects.toMatchObject({ code: ErrorCode.Unimplemented });
  });

  it('shares no directory with private memory', async () => {
    const machine = await driver().reattach(config({ sharedMemory: false }));
    await expect(machine.plug(devices[3] as MachineDevice)).rejects.toMatchObject({
      code: ErrorCode.Unimplemented,
    });
  });

  it('passes on why a request was refused, in either form', async () => {
    api.instead.set('PUT /api/v1/vm.boot', (response) => void response.writeHead(500).end('no kernel'));
    const launch = await driver().prepare(config());
    await expect(driver().attach(launch)).rejects.toThrow('vm pod-1: cloud-hypervisor /vm.boot: no kernel');
    api.instead.set('PUT /api/v1/vm.pause', (response) => void response.writeHead(405).end('["a","b"]'));
    const machine = await driver().reattach(config());
    await expect(machine.stop()).rejects.toThrow('/vm.pause: a: b');
    api.instead.set('GET /api/v1/vm.info', (response) => void response.writeHead(404).end());
    await expect(machine.status()).rejects.toMatchObject({ code: ErrorCode.NotFound });
    api.instead.set('PUT /api/v1/vm.add-disk', (response) => void response.writeHead(409).end('["twice"]'));
    await expect(machine.plug(devices[0] as MachineDevice)).rejects.toMatchObject({
      code: ErrorCode.AlreadyExists,
    });
  });

  it('makes a directory that its credentials may write to, and no other', async () => {
    await driver().prepare(config({ credentials: { uid: 4242, gid: 4343 } }));
    const { uid, gid, mode } = statSync(join(api.dir, 'own'));
    expect([uid, gid, mode & 0o777]).toEqual([4242, 4343, 0o700]);
    await expect(driver().prepare(config({ dir: `/${'d'.repeat(100)}` }))).rejects.toThrow(
      'too long for the path of a socket',
    );
  });

  it('boots without an initrd', async () => {
    const launch = await driver().prepare(config({ image: { kernel: '/k', initrd: '' } }));
    await driver().attach(launch);
    expect(api.seen[0]?.body).toMatchObject({ payload: { kernel: '/k' } });
    expect(JSON.stringify(api.seen[0]?.body)).not.toContain('initramfs');
  });
});
