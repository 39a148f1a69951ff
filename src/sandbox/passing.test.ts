import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import { createLogger } from '../base/log.ts';
import { FakeKernel } from '../devices/testing/fake_kernel.ts';
import { goodHost, gpuFunction, nvidiaFiles, pciFiles, type FakePci } from '../devices/testing/machines.ts';
import { DevicePassing, type PassingDeps } from './passing.ts';

const NIC = '0000:01:10.0';
const DISK = '0000:03:00.0';
const AUDIO = '0000:03:00.1';

let dir = '';
let lines: string[] = [];
beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), 'bh-passing-')), 'devices');
  lines = [];
});
afterEach(() => rmSync(join(dir, '..'), { recursive: true, force: true }));

const nic: FakePci = { address: NIC, class: '0x020000', vendor: '0x8086', driver: 'igbvf', group: 7 };
const disk: FakePci = { address: DISK, class: '0x010802', vendor: '0x144d', driver: 'nvme', group: 9 };
const audio: FakePci = { address: AUDIO, class: '0x040300', vendor: '0x10de', driver: 'snd', group: 9 };

function machine(functions: FakePci[] = [nic, disk]): FakeKernel {
  const overrides = functions.map(({ address }) => [
    `/sys/bus/pci/devices/${address}/driver_override`,
    '(null)',
  ]);
  const drivers = functions.map(({ driver = '' }) => [`/sys/bus/pci/drivers/${driver}`, {}]);
  const natural = Object.fromEntries(functions.map(({ address, driver = '' }) => [address, driver]));
  return new FakeKernel(
    {
      ...goodHost,
      ...pciFiles(functions),
      ...Object.fromEntries(overrides),
      ...Object.fromEntries(drivers),
    },
    natural,
  );
}

function passing(kernel: FakeKernel, changes: Partial<PassingDeps> = {}): DevicePassing {
  return new DevicePassing({
    dir,
    host: kernel,
    write: (path, data) => kernel.write(path, data),
    isAlive: () => true,
    log: createLogger((line) => lines.push(line)),
    ...changes,
  });
}

const claims = (): string[] => {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
};
const request = { id: 'web', owner: 'ns/web', wall: 'vm' as const, addresses: [NIC, DISK] };

describe('open', () => {
  it('binds what was checked, and says by which nodes it is reached', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const devices = passing(kernel);
    const opened = await devices.open(request);
    expect(opened.nodes).toEqual([
      { address: NIC, group: '/dev/vfio/7', device: undefined },
      { address: DISK, group: '/dev/vfio/9', device: undefined },
    ]);
    expect(opened.devices.map(({ pci }) => pci.driver)).toEqual(['vfio-pci', 'vfio-pci']);
    expect(claims()).toHaveLength(2);
    await devices.release('ns/web');
    expect(kernel.snapshot()).toBe(before);
    expect(claims()).toEqual([]);
  });

  it('gives functions of one group together', async () => {
    const kernel = machine([disk, audio]);
    const devices = passing(kernel);
    await devices.open({ ...request, addresses: [DISK, AUDIO] });
    await devices.release('ns/web');
    expect(kernel.link(`/sys/bus/pci/devices/${AUDIO}/driver`)).toContain('snd');
  });

  it.each<[string, FakeKernel, string[], string]>([
    [
      'of a group that another driver is in',
      machine([disk, audio]),
      [DISK],
      `create web: NVMe controller ${DISK}: cannot pass by VFIO: IOMMU group 9 is not viable: ${AUDIO} (audio function, snd) is bound to a host driver; driverctl set-override ${AUDIO} vfio-pci`,
    ],
    [
      'that is not there',
      machine(),
      ['0000:99:00.0'],
      'create web: PCI function 0000:99:00.0: not on this host; see what there is with: bulkhead devices',
    ],
    [
      'that is a bridge',
      machine([{ ...nic, class: '0x060400' }]),
      [NIC],
      `create web: PCI function ${NIC}: a bridge cannot be given away`,
    ],
  ])('refuses a function %s, with nothing changed', async (_, kernel, addresses, message) => {
    const before = kernel.snapshot();
    await expect(passing(kernel).open({ ...request, addresses })).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message,
    });
    expect([kernel.snapshot(), kernel.writes, claims()]).toEqual([before, [], []]);
  });

  it('refuses a GPU that a process uses: its driver would not let go', async () => {
    const gpu = { address: '0000:41:00.0', minor: 0 };
    const kernel = machine([gpuFunction(gpu)]);
    for (const [path, entry] of Object.entries(nvidiaFiles('570.86.15', [gpu])))
      kernel.files.set(path, entry);
    kernel.files.set('/proc/1234/comm', 'nvidia-persiste');
    kernel.files.set('/proc/1234/fd/3', { link: '/dev/nvidia0' });
    const asked = { ...request, addresses: [gpu.address] };
    await expect(passing(kernel).open(asked)).rejects.toThrow(
      'create web: GPU 0000:41:00.0: device is in use by process 1234 (nvidia-persiste); unbinding would block until it is closed; end this process first',
    );
    expect([kernel.writes, claims()]).toEqual([[], []]);
  });

  it('refuses a function that another container has', async () => {
    const kernel = machine();
    const devices = passing(kernel);
    await devices.open({ ...request, addresses: [NIC] });
    await expect(devices.open({ ...request, id: 'two', owner: 'ns/two' })).rejects.toThrow(
      `create two: device ${NIC}: device is in use by ns/web`,
    );
    expect(kernel.link(`/sys/bus/pci/devices/${DISK}/driver`)).toContain('nvme');
    expect(claims()).toEqual([`pci-${NIC}.json`]);
  });

  it('refuses a BAR that the guest’s processor cannot address', async () => {
    const gib = 2 ** 30;
    const kernel = machine([{ ...nic, bars: [4096, 128 * gib] }]);
    await expect(passing(kernel).open({ ...request, addresses: [NIC], physicalBits: 40 })).rejects.toThrow(
      `cannot pass by VFIO: BAR1 is 128 GiB; guest phys-bits 40 allow 64 GiB`,
    );
    expect((await passing(kernel).open({ ...request, addresses: [NIC] })).nodes).toHaveLength(1);
  });

  it('undoes the binding when nobody makes a node for it', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    kernel.makesNodes = false;
    await expect(passing(kernel).open(request)).rejects.toThrow(
      `create web: device ${NIC}: bound to vfio-pci, but its node in /dev/vfio is not there; mount devtmpfs at /dev, or let udev run`,
    );
    expect([kernel.snapshot(), claims()]).toEqual([before, []]);
  });

  /** Every write of binding two functions that have a driver: override, unbind, probe, twice. */
  it.each([0, 1, 2, 3, 4, 5])('leaves nothing when the kernel refuses write %i', async (at) => {
    const kernel = machine();
    const before = kernel.snapshot();
    let count = 0;
    const write: PassingDeps['write'] = (path, data) => {
      if (count++ === at) {
        return Promise.reject(Object.assign(new Error('write: no such device'), { code: 'ENODEV' }));
      }
      return kernel.write(path, data);
    };
    await expect(passing(kernel, { write }).open(request)).rejects.toThrow('create web: ');
    expect([kernel.snapshot(), claims()]).toEqual([before, []]);
  });
});

describe('functions of a configuration’s nodes', () => {
  it('are known when vfio-pci has them', async () => {
    const kernel = machine([{ ...nic, driver: 'vfio-pci' }]);
    kernel.files.set('/dev/vfio/7', { node: 'c 245:7' });
    const nodes = [{ path: '/dev/vfio/7', type: 'c' }];
    expect(await passing(kernel).functionsOf('web', nodes)).toEqual([NIC]);
    await expect(passing(kernel).functionsOf('web', [{ path: '/dev/vfio/8', type: 'c' }])).rejects.toThrow(
      'create web: device /dev/vfio/8: no function that is bound to vfio-pci on this host has this node',
    );
  });

  it('are claimed without a change, and given back without one', async () => {
    const kernel = machine([{ ...nic, driver: 'vfio-pci' }]);
    kernel.files.set('/dev/vfio/7', { node: 'c 245:7' });
    const before = kernel.snapshot();
    const devices = passing(kernel);
    await devices.open({ ...request, addresses: [NIC] });
    await devices.release('ns/web');
    expect([kernel.snapshot(), kernel.writes]).toEqual([before, []]);
  });
});

describe('what nobody has any more', () => {
  it('is given back at the next start, and said', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    await passing(kernel).open(request);
    // The process is gone, the record of the container too.
    await passing(kernel, { isAlive: () => false }).recover();
    expect([kernel.snapshot(), claims()]).toEqual([before, []]);
    expect(lines.join('')).toContain('devices given back after a crash');
  });

  it('is given back before somebody else asks for it', async () => {
    const kernel = machine();
    await passing(kernel).open(request);
    const next = passing(kernel, { isAlive: (owner) => owner !== 'ns/web' });
    await expect(next.open({ ...request, id: 'two', owner: 'ns/two' })).resolves.toBeDefined();
  });

  it('is waited for by the next who asks, not by who gives it back', async () => {
    const kernel = machine();
    let letGo = (): void => {};
    const slow = new Promise<void>((resolve) => (letGo = resolve));
    const write: PassingDeps['write'] = async (path, data) => {
      if (path.endsWith('/driver/unbind') && kernel.link(path.slice(0, -7))?.endsWith('vfio-pci')) await slow;
      return kernel.write(path, data);
    };
    const devices = passing(kernel, { write });
    await devices.open({ ...request, addresses: [NIC] });
    devices.releaseLater('ns/web');
    let opened = false;
    const next = devices.open({ ...request, owner: 'ns/two', addresses: [NIC] }).then(() => (opened = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(opened).toBe(false);
    letGo();
    await next;
    expect(JSON.parse(readFileSync(join(dir, `pci-${NIC}.json`), 'utf8'))).toMatchObject({ owner: 'ns/two' });
  });

  it('stays claimed when a driver does not take it back, and a delete does not fail of it', async () => {
    const kernel = machine();
    const devices = passing(kernel);
    await devices.open({ ...request, addresses: [NIC] });
    kernel.files.delete('/sys/bus/pci/drivers/igbvf');
    await devices.release('ns/web');
    expect(lines.join('')).toContain('driver igbvf did not take it back');
    expect(claims()).toEqual([`pci-${NIC}.json`]);
    kernel.files.set('/sys/bus/pci/drivers/igbvf', {});
    await passing(kernel, { isAlive: () => false }).recover();
    expect(claims()).toEqual([]);
  });

  it('costs nothing where there never was a device', async () => {
    const kernel = machine();
    await passing(kernel).release('ns/web');
    await passing(kernel).recover();
    expect(claims()).toEqual([]);
  });
});
