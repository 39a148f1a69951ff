/** From the name of a CDI device to the machine that boots with its function, and back. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeMonitorExecutor } from '../../../test/fakes/machine.ts';
import { FakeVmHost, podSpec } from '../../../test/fakes/sandbox.ts';
import { createLogger } from '../../base/log.ts';
import { FakeKernel } from '../../devices/testing/fake_kernel.ts';
import { goodHost, pciFiles } from '../../devices/testing/machines.ts';
import type { Spec } from '../../oci/types.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput } from '../backend.ts';
import { injectDevices } from '../devices.ts';
import { DevicePassing } from '../passing.ts';
import { VmBackend } from './backend.ts';
import { guestFacts } from './layout.ts';

const GPU = '0000:41:00.0';
let dir: string;
let host: FakeVmHost;
let kernel: FakeKernel;
let executor: FakeMonitorExecutor;
let backend: VmBackend;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-cold-plug-'));
  mkdirSync(join(dir, 'rootfs'));
  host = new FakeVmHost(dir);
  executor = new FakeMonitorExecutor();
  executor.gate = (key) => (key.startsWith('/') ? '' : 'start');
  executor.guests.answer = ({ waitDevice }) =>
    waitDevice ? { device: { sysfs: '/sys/devices/pci0000:00/0000:00:05.0/0000:09:00.0' } } : {};
  const no = (): never => {
    throw new Error('not here');
  };
  backend = new VmBackend(
    {
      layout: host.deps.layout,
      facts: () => guestFacts,
      compileSeccomp: () => ({ program: new Uint8Array(), flags: 0, warnings: [] }),
      oomAddon: no,
      warn: () => {},
    },
    {
      top: join(dir, 'vm'),
      sandbox: host.deps,
      images: { mapSync: no, readMapped: no },
      rootDevice: 'block',
    },
    new DevicePassing({
      dir: join(dir, 'devices'),
      get host() {
        return kernel;
      },
      write: (path, data) => kernel.write(path, data),
      isAlive: () => true,
      log: createLogger(() => {}),
    }),
  );
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A GPU of group 12, with its driver or with vfio-pci. */
function machine(driver: string): FakeKernel {
  const made = new FakeKernel(
    {
      ...goodHost,
      ...pciFiles([{ address: GPU, class: '0x030200', vendor: '0x10de', driver, group: 12, bars: [4096] }]),
      [`/sys/bus/pci/devices/${GPU}/driver_override`]: '(null)',
      [`/sys/bus/pci/drivers/${driver}`]: {},
    },
    { [GPU]: driver },
  );
  if (driver === 'vfio-pci') made.files.set('/dev/vfio/12', { node: 'c 245:12' });
  return made;
}

/** As device plugins for virtual machines write it: the function is bound, and its group's nodes are the device. */
const plugin = {
  cdiVersion: '0.5.0',
  kind: 'nvidia.com/pgpu',
  containerEdits: { deviceNodes: [{ path: '/dev/vfio/vfio', type: 'c', major: 10, minor: 196 }] },
  devices: [
    {
      name: '12',
      containerEdits: {
        env: [`PCIDEVICE_NVIDIA_COM_GPU=${GPU}`],
        deviceNodes: [{ path: '/dev/vfio/12', type: 'c', major: 245, minor: 12 }],
      },
    },
  ],
};

async function create(name: string): Promise<{ record: ContainerRecord; spec: Spec }> {
  writeFileSync(join(dir, 'plugin.json'), JSON.stringify(plugin));
  const annotations = { 'cdi.k8s.io/gpu': name };
  const request = { op: 'create', id: 'pod', wall: 'vm' as const, specDirs: [dir] };
  const { spec, functions } = await injectDevices(podSpec({ annotations }), request);
  const rootfs = join(dir, 'rootfs');
  const record = { namespace: 'ns', id: 'pod', group: 'pod', bundle: dir, rootfs, init: {} };
  const input: CreateInput = {
    spec,
    functions,
    rootfsMounts: [],
    stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
    options: {},
    executor,
    journal: () => {},
    runCreateHooks: async () => {},
  };
  await backend.create(record, input);
  return { record, spec };
}

describe('a function by CDI', () => {
  it.each([
    ['bulkhead.io/vfio=0000:41:00.0', 'nvidia'],
    ['nvidia.com/pgpu=12', 'vfio-pci'],
  ])('%s boots with the machine and goes back with it', async (name, driver) => {
    kernel = machine(driver);
    const before = kernel.snapshot();
    const { record } = await create(name);
    expect(host.pods[0]?.functions).toMatchObject([
      { address: GPU, group: '/dev/vfio/12', memoryWindow: 4096, class: 0x030200 },
    ]);
    expect(readdirSync(join(dir, 'devices'))).toEqual([`pci-${GPU}.json`]);
    await backend.destroy(record, executor);
    expect(kernel.snapshot()).toBe(before);
    expect(readdirSync(join(dir, 'devices'))).toEqual([]);
  });

  it('is known to the container by its address in the guest', async () => {
    kernel = machine('vfio-pci');
    await create('nvidia.com/pgpu=12');
    const plan = JSON.stringify(executor.launched('pod')?.plan);
    expect(plan).toContain('PCIDEVICE_NVIDIA_COM_GPU=0000:09:00.0');
    expect(plan).not.toContain(GPU);
  });
});
