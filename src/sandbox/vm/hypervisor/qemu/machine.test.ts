import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../../../base/errors.ts';
import { addon } from '../../../../native/index.ts';
import type { MachineConfig, MachineDevice, MachineEvent, NvdimmDevice } from '../hypervisor.ts';
import { testConfig } from '../testing/config.ts';
import { QmpRefusal, ScriptedQmp, type QmpScript } from '../testing/scripted_qmp.ts';
import { QemuMachine } from './machine.ts';
import { Qmp } from './qmp.ts';

let dir: string;
let qemu: ScriptedQmp;
let daemon: Server;

const standard: QmpScript = ({ execute }) => {
  if (execute === 'add-fd') return { 'fdset-id': 7, fd: 20 };
  if (execute === 'query-fdsets') return [{ 'fdset-id': 7, fds: [{ fd: 20, opaque: 'block-disk' }] }];
  if (execute === 'query-memory-devices' || execute === 'qom-list') return [];
  if (execute === 'query-status') return { running: true, status: 'running' };
  return {};
};

async function machine(changes: Partial<MachineConfig> = {}, deadlineMs = 2000): Promise<QemuMachine> {
  const qmp = await Qmp.connect(qemu.path, {
    id: 'pod-1',
    deadlineMs,
    connect: (path) => addon().connectUnix(path),
    sendFd: (socket, fd, message) => addon().sendFdOver(socket, fd, message),
  });
  return new QemuMachine(testConfig({ sharedMemory: true, ...changes }), qmp, { addon: addon() });
}

/** What is plugged onto ports. */
type PortKind = Exclude<MachineDevice['kind'], 'nvdimm'>;

const devices = (): Record<PortKind, MachineDevice> => ({
  block: { kind: 'block', id: 'disk', path: join(dir, 'disk'), readOnly: false },
  pmem: { kind: 'pmem', id: 'nv', path: join(dir, 'disk'), size: 2 << 20, mode: 'private' },
  net: { kind: 'net', id: 'eth0', fd: 0, mac: '02:00:00:00:00:01', mtu: 1450 },
  fs: { kind: 'fs', id: 'share', tag: 'root', socketPath: join(dir, 'fs.sock') },
});

const argumentsOf = (command: string): unknown[] =>
  qemu.requests.filter(({ execute }) => execute === command).map(({ arguments: args }) => args);

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'bulkhead-machine-'));
  writeFileSync(join(dir, 'disk'), '');
  qemu = await ScriptedQmp.start(standard);
  daemon = createServer();
  await new Promise<void>((resolve) => daemon.listen(join(dir, 'fs.sock'), resolve));
});

afterEach(async () => {
  await qemu[Symbol.asyncDispose]();
  await new Promise((resolve) => daemon.close(resolve));
  rmSync(dir, { recursive: true, force: true });
});

describe('plug', () => {
  const expected: Record<PortKind, { commands: string[]; device: object }> = {
    block: {
      commands: ['add-fd', 'blockdev-add', 'device_add'],
      device: {
        driver: 'virtio-blk-pci-non-transitional',
        drive: 'block-disk',
        serial: 'disk',
        'num-queues': 1,
      },
    },
    pmem: {
      commands: ['add-fd', 'object-add', 'remove-fd', 'device_add'],
      device: { driver: 'virtio-pmem-pci', memdev: 'pmem-nv' },
    },
    net: {
      commands: ['getfd', 'netdev_add', 'device_add'],
      device: {
        driver: 'virtio-net-pci-non-transitional',
        netdev: 'net-eth0',
        mac: '02:00:00:00:00:01',
        host_mtu: 1450,
        romfile: '',
      },
    },
    fs: {
      commands: ['getfd', 'chardev-add', 'device_add'],
      device: { driver: 'vhost-user-fs-pci', chardev: 'fs-share', tag: 'root', 'queue-size': 1024 },
    },
  };

  it.each(['block', 'pmem', 'net', 'fs'] as const)(
    'puts a %s device on the first free port',
    async (kind) => {
      const target = await machine();
      const device = devices()[kind];
      expect(await target.plug(device)).toEqual({ pciPath: '0000:00:04.0/00.0' });
      expect(qemu.commands).toEqual(expected[kind].commands);
      expect(argumentsOf('device_add')).toEqual([
        { ...expected[kind].device, id: `dev-${device.id}`, bus: 'rp0', addr: '0' },
      ]);
      target.close();
    },
  );

  const backends: Record<PortKind, string[]> = {
    block: ['blockdev-del', 'query-fdsets', 'remove-fd'],
    pmem: ['object-del'],
    net: ['netdev_del'],
    fs: ['chardev-remove'],
  };

  it.each(['block', 'pmem', 'net', 'fs'] as const)(
    'leaves nothing of a %s device that QEMU refuses',
    async (kind) => {
      qemu.script = (request) =>
        request.execute === 'device_add' ? new QmpRefusal('Bus is full') : standard(request);
      const target = await machine();
      await expect(target.plug(devices()[kind])).rejects.toThrow('vm pod-1: qemu device_add: bus is full');
      expect(qemu.commands.slice(expected[kind].commands.length)).toEqual(backends[kind]);
      qemu.script = standard;
      expect(await target.plug(devices()[kind])).toEqual({ pciPath: '0000:00:04.0/00.0' });
      target.close();
    },
  );

  it('hands a block device over by descriptor, read-only where that is asked for', async () => {
    const target = await machine();
    const device = {
      ...devices().block,
      readOnly: true,
      serial: 'a-serial-of-more-than-twenty',
    } as MachineDevice;
    await target.plug(device);
    expect(argumentsOf('blockdev-add')).toEqual([
      {
        driver: 'raw',
        'node-name': 'block-disk',
        'read-only': true,
        discard: 'ignore',
        file: { driver: 'file', filename: '/dev/fdset/7', 'read-only': true },
      },
    ]);
    expect(argumentsOf('device_add')).toMatchObject([{ serial: 'a-serial-of-more-tha' }]);
    target.close();
  });

  it('takes ports one after the other, also at once, and says when there is none', async () => {
    const target = await machine();
    const { pmem, net, fs } = devices();
    const placed = await Promise.all([target.plug(pmem), target.plug(net)]);
    expect(placed).toEqual([{ pciPath: '0000:00:04.0/00.0' }, { pciPath: '0000:00:04.1/00.0' }]);
    await expect(target.plug(fs)).rejects.toMatchObject({
      code: ErrorCode.ResourceExhausted,
      message: 'vm pod-1: device "share": all 2 ports are taken; configure more ports for virtual machines',
    });
    target.close();
  });

  it.each<[string, Partial<MachineConfig>, (all: ReturnType<typeof devices>) => MachineDevice, string]>([
    ['a bad id', {}, ({ net }) => ({ ...net, id: 'a b' }), 'device "a b": not a valid id'],
    ['an id that is too long', {}, ({ net }) => ({ ...net, id: 'x'.repeat(25) }), 'not a valid id'],
    ['a microvm', { type: 'microvm' }, ({ net }) => net, 'machine microvm takes no devices while it runs'],
    [
      'no such file',
      {},
      ({ block }) => ({ ...block, path: '/nowhere' }) as MachineDevice,
      '/nowhere: no such file or directory',
    ],
    [
      'no daemon',
      {},
      ({ fs }) => ({ ...fs, socketPath: '/nowhere' }) as MachineDevice,
      '/nowhere: no such file or directory',
    ],
    ['private memory', { sharedMemory: false }, ({ fs }) => fs, 'this machine has private memory'],
  ])('refuses %s', async (_what, changes, choose, reason) => {
    const target = await machine(changes);
    await expect(target.plug(choose(devices()))).rejects.toThrow(reason);
    expect(qemu.commands).toEqual([]);
    target.close();
  });

  it('refuses an id twice', async () => {
    const target = await machine();
    await target.plug(devices().net);
    await expect(target.plug(devices().net)).rejects.toMatchObject({ code: ErrorCode.AlreadyExists });
    target.close();
  });

  it.each([
    ['block', 'blockdev-add', ['query-fdsets', 'remove-fd']],
    ['pmem', 'object-add', ['remove-fd']],
    ['net', 'netdev_add', ['closefd']],
    ['fs', 'chardev-add', ['closefd']],
  ] as const)(
    'gives the descriptor of a %s device back when %s is refused',
    async (kind, refused, undone) => {
      qemu.script = (request) => (request.execute === refused ? new QmpRefusal('no') : standard(request));
      const target = await machine();
      await expect(target.plug(devices()[kind])).rejects.toThrow(`vm pod-1: qemu ${refused}: no`);
      expect(qemu.commands.slice(2)).toEqual(undone);
      target.close();
    },
  );
});

describe('unplug', () => {
  it('waits until the guest has let go, and frees the port', async () => {
    const target = await machine();
    await target.plug(devices().net);
    const events: MachineEvent[] = [];
    target.onEvent((event) => events.push(event));
    const gone = target.unplug('eth0');
    while (!qemu.commands.includes('device_del')) await new Promise((resolve) => setTimeout(resolve, 1));
    qemu.event('DEVICE_DELETED', { device: 'dev-other', path: '/x' });
    qemu.event('DEVICE_DELETED', { path: '/x/virtio-backend' });
    qemu.event('DEVICE_DELETED', { device: 'dev-eth0', path: '/x' });
    await gone;
    expect(qemu.commands.slice(-2)).toEqual(['device_del', 'netdev_del']);
    expect(events).toEqual([
      { type: 'unplugged', id: 'other' },
      { type: 'unplugged', id: 'eth0' },
    ]);
    expect(await target.plug(devices().net)).toEqual({ pciPath: '0000:00:04.0/00.0' });
    target.close();
  });

  it('of what the guest has thrown out by itself takes the back end away, and frees the port', async () => {
    const target = await machine();
    await target.plug(devices().block);
    qemu.script = (request) =>
      request.execute === 'device_del'
        ? new QmpRefusal("Device 'dev-disk' not found", 'DeviceNotFound')
        : standard(request);
    await target.unplug('disk');
    expect(qemu.commands.slice(-4)).toEqual(['device_del', 'blockdev-del', 'query-fdsets', 'remove-fd']);
    expect(await target.plug(devices().block)).toEqual({ pciPath: '0000:00:04.0/00.0' });
    qemu.script = (request) =>
      request.execute === 'device_del' ? new QmpRefusal('Bus is busy') : standard(request);
    await expect(target.unplug('disk')).rejects.toThrow('bus is busy');
    await expect(target.plug(devices().block)).rejects.toMatchObject({ code: ErrorCode.AlreadyExists });
    target.close();
  });

  it('of what QEMU has not answered for leaves the port alone', async () => {
    qemu.script = (request) => (request.execute === 'device_add' ? undefined : standard(request));
    const target = await machine({}, 100);
    await expect(target.plug(devices().net)).rejects.toMatchObject({ code: ErrorCode.DeadlineExceeded });
    qemu.script = standard;
    expect(await target.plug(devices().fs)).toEqual({ pciPath: '0000:00:04.1/00.0' });
    target.close();
  });

  it('knows what is plugged after an engine restart', async () => {
    qemu.script = (request) => {
      const { execute, arguments: args } = request;
      if (execute === 'qom-list')
        return [
          { name: 'type', type: 'string' },
          { name: 'rp0', type: 'child<pcie-root-port>' },
          { name: 'dev-eth0', type: 'child<virtio-net-pci-non-transitional>' },
        ];
      if (execute === 'qom-get')
        return args?.['path'] === '/machine/peripheral/dev-eth0' ? '/machine/peripheral/rp1/rp1' : '';
      return standard(request);
    };
    const target = await machine();
    await target.recall();
    expect(await target.plug(devices().pmem)).toEqual({ pciPath: '0000:00:04.0/00.0' });
    await expect(target.plug(devices().fs)).rejects.toThrow('all 2 ports are taken');
    await expect(target.unplug('nobody')).rejects.toMatchObject({
      code: ErrorCode.NotFound,
      message: 'vm pod-1: device "nobody": no such device',
    });
    const gone = target.unplug('eth0');
    while (!qemu.commands.includes('device_del')) await new Promise((resolve) => setTimeout(resolve, 1));
    qemu.event('DEVICE_DELETED', { device: 'dev-eth0' });
    await gone;
    expect(qemu.commands.at(-1)).toBe('netdev_del');
    target.close();
  });
});

describe('an NVDIMM', () => {
  const dimm = (): NvdimmDevice => ({
    kind: 'nvdimm',
    id: 'nv',
    path: join(dir, 'disk'),
    size: 64 << 20,
    align: 2 << 20,
    readOnly: false,
    sync: true,
  });
  /** QEMU lists what has been plugged. */
  const board: QmpScript = (request) => {
    const plugged = qemu.requests.some(({ execute }) => execute === 'device_add');
    return request.execute === 'query-memory-devices' && plugged
      ? [
          { type: 'dimm', data: { id: 'dimm-0', addr: 0x100000000, size: 1 } },
          { type: 'nvdimm', data: { id: 'dev-nv', addr: 0x108000000, size: 64 << 20 } },
        ]
      : standard(request);
  };
  const backendOf = { 'qom-type': 'memory-backend-file', id: 'nvdimm-nv', 'mem-path': '/proc/self/fd/20' };

  it('is found by its address; one that is there is answered again, and takes no port', async () => {
    qemu.script = board;
    const target = await machine();
    expect(await target.plug(dimm())).toEqual({ pciPath: '', address: 0x108000000 });
    const commands = [
      'query-memory-devices',
      'add-fd',
      'object-add',
      'remove-fd',
      'device_add',
      'query-memory-devices',
    ];
    expect(qemu.commands).toEqual(commands);
    expect(argumentsOf('object-add')).toEqual([
      { ...backendOf, size: 64 << 20, share: true, readonly: false, align: 2 << 20, pmem: true },
    ]);
    expect(argumentsOf('device_add')).toEqual([{ driver: 'nvdimm', id: 'dev-nv', memdev: 'nvdimm-nv' }]);
    expect(await target.plug(dimm())).toEqual({ pciPath: '', address: 0x108000000 });
    expect(qemu.commands).toEqual([...commands, 'query-memory-devices']);
    await Promise.all([target.plug(devices().net), target.plug(devices().fs)]);
    await expect(target.unplug('nv')).rejects.toMatchObject({ code: ErrorCode.NotFound });
    target.close();
  });

  it('is mapped without MAP_SYNC, and not armed, where that is asked for', async () => {
    qemu.script = board;
    const target = await machine();
    await target.plug({ ...dimm(), sync: false, readOnly: true });
    expect(argumentsOf('object-add')).toEqual([
      { ...backendOf, size: 64 << 20, share: true, readonly: true, align: 2 << 20 },
    ]);
    expect(argumentsOf('device_add')).toMatchObject([{ driver: 'nvdimm', unarmed: true }]);
    target.close();
  });

  it('leaves nothing when QEMU refuses it', async () => {
    const lacking = 'Lack of libpmem support while setting the pmem=on of nvdimm-nv';
    qemu.script = (request) =>
      request.execute === 'object-add' ? new QmpRefusal(lacking) : standard(request);
    const target = await machine();
    await expect(target.plug(dimm())).rejects.toThrow('vm pod-1: qemu object-add: lack of libpmem support');
    expect(qemu.commands.at(-1)).toBe('remove-fd');
    qemu.script = (request) =>
      request.execute === 'device_add' ? new QmpRefusal('no slot') : standard(request);
    await expect(target.plug(dimm())).rejects.toThrow('vm pod-1: qemu device_add: no slot');
    expect(qemu.commands.at(-1)).toBe('object-del');
    // It was plugged, and is not there.
    qemu.script = standard;
    await expect(target.plug(dimm())).rejects.toThrow('qemu does not say where the guest has it');
    expect(qemu.commands.at(-1)).toBe('object-del');
    target.close();
  });

  it('is not for a microvm', async () => {
    const target = await machine({ type: 'microvm' });
    await expect(target.plug(dimm())).rejects.toThrow('machine microvm takes no devices while it runs');
    target.close();
  });
});

describe('growth', () => {
  it('puts memory at the border of a section, behind persistent memory', async () => {
    qemu.script = (request) =>
      request.execute === 'query-memory-devices'
        ? [
            { type: 'virtio-pmem', data: { memaddr: 0x100000000, size: 32 << 20, id: 'dev-nv' } },
            { type: 'dimm', data: { addr: 0x108000000, size: 128 << 20, id: 'dimm-0' } },
          ]
        : standard(request);
    const target = await machine();
    await target.growMemory(256);
    expect(argumentsOf('object-add')).toEqual([
      { 'qom-type': 'memory-backend-memfd', id: 'grown-1', size: 256 << 20, share: true },
    ]);
    expect(argumentsOf('device_add')).toEqual([
      { driver: 'pc-dimm', id: 'dimm-1', memdev: 'grown-1', addr: 0x110000000 },
    ]);
    target.close();
  });

  it('undoes memory that QEMU refuses, and refuses sizes that the guest would', async () => {
    qemu.script = (request) =>
      request.execute === 'device_add' ? new QmpRefusal('not enough space') : standard(request);
    const target = await machine({ sharedMemory: false });
    await expect(target.growMemory(128)).rejects.toThrow('not enough space');
    expect(argumentsOf('object-add')).toEqual([
      { 'qom-type': 'memory-backend-ram', id: 'grown-0', size: 128 << 20 },
    ]);
    expect(qemu.commands.at(-1)).toBe('object-del');
    await expect(target.growMemory(100)).rejects.toThrow(
      'vm pod-1: 100 MiB of memory: not a multiple of 128 MiB',
    );
    target.close();
  });

  it('plugs vcpus into empty slots, lowest first', async () => {
    const slot = (socket: number, taken: boolean): object => ({
      type: 'max-x86_64-cpu',
      'vcpus-count': 1,
      props: { 'socket-id': socket, 'core-id': 0, 'thread-id': 0 },
      ...(taken ? { 'qom-path': '/x' } : {}),
    });
    qemu.script = (request) =>
      request.execute === 'query-hotpluggable-cpus'
        ? [slot(2, false), slot(1, false), slot(0, true)]
        : standard(request);
    const target = await machine();
    await target.addVcpus(1);
    expect(argumentsOf('device_add')).toEqual([
      { driver: 'max-x86_64-cpu', id: 'vcpu-1-0-0', 'socket-id': 1, 'core-id': 0, 'thread-id': 0 },
    ]);
    await expect(target.addVcpus(3)).rejects.toMatchObject({
      code: ErrorCode.ResourceExhausted,
      message: 'vm pod-1: 3 more vcpus: room for 2; configure more vcpus at the start',
    });
    target.close();
  });
});

/** What a QEMU that was taken over by its guest may say to each command that is asked for something. */
const nonsense: unknown[] = [null, 7, 'text', {}, [null], [{}], [[]], Array(5000).fill({ a: 1 })];
const asked: [command: string, what: string, ask: (target: QemuMachine) => Promise<unknown>][] = [
  ['add-fd', 'block', (target) => target.plug(devices().block)],
  ['add-fd', 'pmem', (target) => target.plug(devices().pmem)],
  ['qom-list', 'recall', (target) => target.recall()],
  ['query-memory-devices', 'growth', (target) => target.growMemory(128)],
  ['query-hotpluggable-cpus', 'vcpus', (target) => target.addVcpus(1)],
  ['query-cpus-fast', 'threads', (target) => target.vcpuThreads()],
  ['query-status', 'status', (target) => target.status()],
];

describe('an answer of another kind', () => {
  it.each(asked.flatMap((each) => nonsense.map((said) => [...each, said] as const)))(
    'to %s (%s) is one error, and the end of the connection',
    async (command, _what, ask, said) => {
      qemu.script = (request) => (request.execute === command ? said : standard(request));
      const target = await machine();
      const ended = new Promise<MachineEvent>((resolve) => void target.onEvent(resolve));
      await expect(ask(target)).rejects.toMatchObject({
        code: ErrorCode.Internal,
        message: `vm pod-1: qemu ${command}: an answer of another kind`,
      });
      expect(await ended).toEqual({
        type: 'closed',
        reason: `answered ${command} with what is no answer to it`,
      });
      await expect(target.cont()).rejects.toThrow('with what is no answer to it');
    },
  );

  it.each([-1, 1.5, '7', 2 ** 60, null])('is a thread of number %j', async (thread) => {
    qemu.script = () => [{ 'cpu-index': 0, 'thread-id': thread }];
    await expect((await machine()).vcpuThreads()).rejects.toThrow('an answer of another kind');
  });
});

describe('the machine', () => {
  it('tells the threads of its vCPUs in their order', async () => {
    qemu.script = ({ execute }) =>
      execute === 'query-cpus-fast'
        ? [
            { 'cpu-index': 1, 'thread-id': 71 },
            { 'cpu-index': 0, 'thread-id': 70 },
          ]
        : {};
    expect(await (await machine()).vcpuThreads()).toEqual([70, 71]);
  });

  it('stops, continues, tells how it is, and quits', async () => {
    qemu.script = ({ execute }) => (execute === 'query-status' ? { running: false, status: 'paused' } : {});
    const target = await machine();
    await target.stop();
    await target.cont();
    expect(await target.status()).toEqual({ running: false, state: 'paused' });
    await target.quit();
    expect(qemu.commands).toEqual(['stop', 'cont', 'query-status', 'quit']);
    target.close();
  });

  it('takes an end instead of an answer to quit', async () => {
    qemu.script = ({ execute }) => {
      if (execute === 'quit') qemu.hangUp();
      return undefined;
    };
    const target = await machine();
    await target.quit();
  });

  it('tells what happens to it', async () => {
    const target = await machine();
    const events: MachineEvent[] = [];
    target.onEvent((event) => events.push(event));
    qemu.event('STOP');
    qemu.event('RESUME');
    qemu.event('NIC_RX_FILTER_CHANGED', { name: 'x' });
    qemu.event('GUEST_PANICKED', { action: 'pause' });
    qemu.event('SHUTDOWN', { guest: true, reason: 'guest-reset' });
    await target.status();
    qemu.hangUp();
    while (events.at(-1)?.type !== 'closed') await new Promise((resolve) => setTimeout(resolve, 1));
    expect(events).toEqual([
      { type: 'stopped' },
      { type: 'resumed' },
      { type: 'panicked' },
      { type: 'shutdown', guest: true, reason: 'guest-reset' },
      { type: 'closed', reason: 'the connection was closed' },
    ]);
  });
});
