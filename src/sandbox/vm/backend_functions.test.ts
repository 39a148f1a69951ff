import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeMonitorExecutor } from '../../../test/fakes/machine.ts';
import { FakeVmHost, podSpec } from '../../../test/fakes/sandbox.ts';
import { readMachine } from '../../devices/machine.ts';
import { FakeTree } from '../../devices/testing/fake_tree.ts';
import { goodHost, pciFiles } from '../../devices/testing/machines.ts';
import { vfioDevice } from '../../devices/vfio/probe.ts';
import type { LinuxDevice, Spec } from '../../oci/types.ts';
import type { Step } from '../../plan/inputs.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { DevicePassing, OpenRequest } from '../passing.ts';
import { VmBackend } from './backend.ts';
import { guestFacts } from './layout.ts';

const NIC = '0000:01:10.0';
const [EPERM, RLIMIT_MEMLOCK] = [1, 8];
const machine = readMachine(
  new FakeTree({
    ...goodHost,
    ...pciFiles([{ address: NIC, class: '0x020000', vendor: '0x8086', group: 10, bars: [16384] }]),
  }),
);
/** As a device plugin gives it, with the environment that names it. */
const NODE: LinuxDevice = { path: '/dev/vfio/10', type: 'c', major: 511, minor: 3, uid: 1000 };
const container: LinuxDevice = { path: '/dev/vfio/vfio', type: 'c', major: 10, minor: 196 };

let dir: string;
let host: FakeVmHost;
let executor: FakeMonitorExecutor;
let opened: OpenRequest[];
let released: string[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-vm-functions-'));
  mkdirSync(join(dir, 'rootfs'));
  host = new FakeVmHost(dir);
  const { machineConfig } = host.deps;
  host.deps.machineConfig = async (...of) => {
    const { machine: made, growMib } = await machineConfig(...of);
    return { machine: { ...made, iommu: (made.functions ?? []).length > 0 }, growMib };
  };
  executor = new FakeMonitorExecutor();
  executor.gate = (key) => (key.startsWith('/') ? '' : 'start');
  executor.guests.answer = ({ bindVfio }) => (bindVfio ? { functions: [inGuest] } : {});
  [opened, released] = [[], []];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const inGuest = {
  address: '0000:09:00.0',
  group: 3,
  nodes: [
    { path: '/dev/vfio/vfio', major: 10, minor: 196 },
    { path: '/dev/vfio/3', major: 240, minor: 0 },
  ],
};

/** The host's side, without a host: what is asked for is bound. */
const passing = {
  functionsOf: async (_id: string, nodes: readonly LinuxDevice[]) => {
    return nodes.some(({ path }) => path === NODE.path) ? [NIC] : [];
  },
  open: async (request: OpenRequest) => {
    opened.push(request);
    const nodes = request.addresses.map((address) => ({ address, group: NODE.path, device: undefined }));
    const devices = machine.pci.filter(({ address }) => request.addresses.includes(address));
    return { machine, nodes, devices: devices.map((pci) => vfioDevice(machine, pci)) };
  },
  release: async (owner: string) => void released.push(owner),
  releaseLater: (owner: string) => void released.push(owner),
} as unknown as DevicePassing;

const no = (): never => {
  throw new Error('no persistent memory here');
};
const backend = (): VmBackend =>
  new VmBackend(
    {
      layout: host.deps.layout,
      facts: () => guestFacts,
      compileSeccomp: () => ({ program: new Uint8Array(), flags: 0, warnings: [] }),
      oomAddon: () => {
        throw new Error('the guest counts its own kills');
      },
      warn: () => {},
    },
    {
      top: join(dir, 'vm'),
      sandbox: host.deps,
      images: { mapSync: no, readMapped: no },
      rootDevice: 'block',
    },
    passing,
  );
const record = (id: string): ContainerRecord => ({
  namespace: 'ns',
  id,
  group: 'pod',
  bundle: dir,
  rootfs: join(dir, 'rootfs'),
  init: {},
});
const create = (vm: VmBackend, of: ContainerRecord, spec: Spec, functions: string[] = []): Promise<void> =>
  vm.create(of, {
    spec,
    rootfsMounts: [],
    stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
    options: {},
    executor,
    journal: () => {},
    runCreateHooks: async () => {},
    functions,
  });
const plugin = (): Spec => {
  const process = { args: ['dpdk'], cwd: '/', user: { uid: 1000, gid: 0 }, env: [`PCIDEVICE_LAB_VF=${NIC}`] };
  const rules = [NODE, container].map(({ major, minor }) => {
    return { allow: true, type: 'c' as const, major: major ?? 0, minor: minor ?? 0, access: 'rw' };
  });
  return podSpec({
    process,
    linux: {
      ...podSpec().linux,
      devices: [NODE, container],
      resources: { devices: [{ allow: false, access: 'rwm' }, ...rules] },
    },
  });
};
const steps = (id: string): Step[] => [...(executor.launched(id)?.plan.steps ?? [])];
const nodesOf = (id: string): (string | null | undefined)[] =>
  steps(id).flatMap(({ mknod }) => (mknod?.target?.startsWith('/dev/vfio') ? [mknod.target] : []));
const environment = (id: string): string[] => steps(id).flatMap(({ exec }) => exec?.env ?? []);

describe('a function for a program behind the vm wall', () => {
  it('that was asked for by its node has the guest’s in its place, for the same user', async () => {
    const annotations = { 'bulkhead.io/allow-host-use': 'true' };
    await create(backend(), record('pod'), { ...plugin(), annotations });
    expect(opened).toMatchObject([{ wall: 'vm', addresses: [NIC], annotations }]);
    expect(executor.guests.asked.filter(({ bindVfio }) => bindVfio)).toHaveLength(1);
    expect(nodesOf('pod')).toEqual(['/dev/vfio/vfio', '/dev/vfio/3']);
    expect(steps('pod').find(({ mknod }) => mknod?.target === '/dev/vfio/3')?.mknod).toMatchObject({
      major: 240,
      minor: 0,
      mode: 0o600,
      uid: 1000,
    });
    expect(environment('pod')).toContain('PCIDEVICE_LAB_VF=0000:09:00.0');
    expect(steps('pod').find(({ rlimit }) => rlimit?.resource === RLIMIT_MEMLOCK)?.rlimit).toBeDefined();
  });

  it('that was asked for by its name is named by its address in the guest', async () => {
    await create(backend(), record('pod'), podSpec(), [NIC]);
    expect(nodesOf('pod')).toEqual(['/dev/vfio/vfio', '/dev/vfio/3']);
    expect(environment('pod')).toContain('PCIDEVICE_BULKHEAD_IO_VFIO=0000:09:00.0');
  });

  it('is the pod’s: a later container may name it, and no other', async () => {
    const vm = backend();
    await create(vm, record('pod'), podSpec(), [NIC]);
    await create(vm, record('app'), plugin());
    expect(opened).toHaveLength(1);
    expect(nodesOf('app')).toEqual(['/dev/vfio/vfio', '/dev/vfio/3']);
    expect(environment('app')).toContain('PCIDEVICE_LAB_VF=0000:09:00.0');
    await expect(create(vm, record('more'), podSpec(), ['0000:02:00.0'])).rejects.toThrow(
      'create more: device 0000:02:00.0: the pod’s machine runs already',
    );
  });

  it('is there for an exec, also after a restart of the engine', async () => {
    const web = record('pod');
    await create(backend(), web, podSpec(), [NIC]);
    const process = { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 }, env: [`PCIDEVICE_X=${NIC}`] };
    const stdio = { stdin: '', stdout: '', stderr: '', terminal: false };
    await backend().exec(web, { execId: 'e', process, stdio, executor });
    expect(environment('pod/e')).toContain('PCIDEVICE_X=0000:09:00.0');
    expect(steps('pod/e').find(({ rlimit }) => rlimit?.resource === RLIMIT_MEMLOCK)).toBeDefined();
  });

  it('that the guest cannot give fails the create, which leaves nothing', async () => {
    const failure = { op: 'iommu', path: '/dev/vfio/3', errno: EPERM };
    executor.guests.answer = ({ bindVfio }) => (bindVfio ? { failure } : {});
    const [vm, web] = [backend(), record('pod')];
    await expect(create(vm, web, podSpec(), [NIC])).rejects.toThrow(/cannot remap interrupts/);
    expect(executor.launched('pod')).toBeUndefined();
    await vm.destroy(web, executor);
    expect(released).toEqual(['ns/pod']);
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
    expect(executor.processes.has('/vm')).toBe(false);
  });
});
