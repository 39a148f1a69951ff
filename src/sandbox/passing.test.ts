import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { createLogger } from '../base/log.ts';
import type { HostTree } from '../devices/host_tree.ts';
import { FakeKernel } from '../devices/testing/fake_kernel.ts';
import type { FakeFiles } from '../devices/testing/fake_tree.ts';
import { goodHost, gpuFunction, nvidiaFiles, pciFiles, type FakePci } from '../devices/testing/machines.ts';
import type { LinuxDeviceCgroup, Spec } from '../oci/types.ts';
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

const add = (kernel: FakeKernel, files: FakeFiles): void => {
  for (const [path, entry] of Object.entries(files)) kernel.files.set(path, entry);
};
const remove = (kernel: FakeKernel, what: string): void => {
  for (const path of kernel.files.keys()) {
    if (path.includes(what) || (what === 'iommu_group' && path.includes('iommu_groups')))
      kernel.files.delete(path);
  }
};
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

  it('minds no companion without a driver, and no bridge of the group', async () => {
    const port: FakePci = { ...disk, address: '0000:00:03.0', class: '0x060400', driver: 'pcieport' };
    const devices = passing(machine([disk, { ...audio, driver: '' }, port]));
    await expect(devices.open({ ...request, addresses: [DISK] })).resolves.toBeDefined();
  });

  it.each<[string, FakeKernel, string[], string]>([
    [
      'of a group that another driver is in',
      machine([disk, audio]),
      [DISK],
      `create web: NVMe controller ${DISK}: cannot pass by VFIO: IOMMU group 9 is not viable: ${AUDIO} (audio function, snd) is bound to a host driver; echo vfio-pci > /sys/bus/pci/devices/${AUDIO}/driver_override && echo ${AUDIO} > /sys/bus/pci/devices/${AUDIO}/driver/unbind && echo ${AUDIO} > /sys/bus/pci/drivers_probe`,
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
      `create web: PCI function ${NIC}: a bridge cannot be given away; see what can with: bulkhead devices`,
    ],
  ])('refuses a function %s, with nothing changed', async (_, kernel, addresses, message) => {
    const before = kernel.snapshot();
    await expect(passing(kernel).open({ ...request, addresses })).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message,
    });
    expect([kernel.snapshot(), kernel.writes, claims()]).toEqual([before, [], []]);
  });

  const mounted: FakeFiles = {
    '/sys/class/block/nvme0n1p1': { link: `../../devices/pci0000:00/${DISK}/nvme/nvme0/nvme0n1p1` },
    '/proc/mounts': '/dev/nvme0n1p1 /srv ext4 rw 0 0\n',
  };
  const routed: FakeFiles = {
    [`/sys/bus/pci/devices/${NIC}/net/eth0`]: {},
    '/proc/net/route': 'Iface\tDestination\neth0\t00000000\n',
  };
  const held: FakeFiles = {
    [`/sys/bus/pci/devices/${NIC}/vfio-dev/vfio3/dev`]: '244:3',
    '/proc/71/comm': 'spdk_tgt',
    '/proc/71/fd/9': { link: '/dev/vfio/devices/vfio3' },
  };
  const cannot = `Ethernet controller ${NIC}: cannot pass by VFIO:`;

  /** The sentences of `bulkhead devices` (test/devices), at a start: nothing begins that cannot work. */
  it.each<[string, (kernel: FakeKernel) => void, string[], string]>([
    [
      'without an IOMMU',
      (kernel) => remove(kernel, 'iommu_group'),
      [NIC],
      `${cannot} IOMMU is off (no /sys/kernel/iommu_groups/*); turn the IOMMU (VT-d, AMD-Vi, SMMU) on in the firmware, on Intel add intel_iommu=on to the kernel command line, and reboot`,
    ],
    [
      'that no IOMMU translates for',
      (kernel) => remove(kernel, `${NIC}/iommu_group`),
      [NIC],
      `${cannot} it is in no IOMMU group: no IOMMU translates for it; turn VT-d or AMD-Vi on for every slot in the firmware, or put the card into another slot`,
    ],
    [
      'without vfio-pci',
      (kernel) => remove(kernel, '/drivers/vfio-pci'),
      [NIC],
      `${cannot} the driver vfio-pci is not loaded; modprobe vfio-pci`,
    ],
    [
      'without interrupt remapping',
      (kernel) => kernel.files.set('/proc/interrupts', ' 24: 0 PCI-MSI-0000:00:1c.0 0-edge\n'),
      [NIC],
      `${cannot} interrupt remapping missing; VFIO_SET_IOMMU would fail with EPERM; turn interrupt remapping on in the firmware and remove intremap=off, or, with guests that are trusted: modprobe vfio_iommu_type1 allow_unsafe_interrupts=1`,
    ],
    [
      'whose file system is mounted',
      (kernel) => add(kernel, mounted),
      [NIC, DISK],
      `NVMe controller ${DISK}: cannot pass by VFIO: the host uses it: /srv; umount /srv, or set the annotation bulkhead.io/allow-host-use=true to go on`,
    ],
    [
      'of the default route',
      (kernel) => add(kernel, routed),
      [NIC],
      `${cannot} the host uses it: the default route, over eth0; ip route delete default dev eth0, or set the annotation bulkhead.io/allow-host-use=true to go on`,
    ],
    [
      'that a process has open',
      (kernel) => add(kernel, held),
      [NIC],
      `Ethernet controller ${NIC}: device is in use by process 71 (spdk_tgt); unbinding would block until it is closed; kill 71`,
    ],
  ])('refuses a function %s in both walls, with nothing changed', async (_, change, addresses, message) => {
    const kernel = machine();
    change(kernel);
    const before = kernel.snapshot();
    for (const wall of ['vm', 'namespace'] as const) {
      await expect(passing(kernel).open({ ...request, wall, addresses })).rejects.toMatchObject({
        code: ErrorCode.FailedPrecondition,
        message: `create web: ${message}`,
      });
    }
    expect([kernel.snapshot(), kernel.writes, claims()]).toEqual([before, [], []]);
  });

  it('refuses a function that the kernel does not answer for, and passes another one', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const read: PassingDeps['read'] = async () => ({
      texts: new Map([[`/sys/bus/pci/devices/${DISK}/class`, '0x010802\n']]),
      stuck: [`/sys/bus/pci/devices/${DISK}`],
    });
    const devices = passing(kernel, { read });
    await expect(devices.open({ ...request, addresses: [DISK] })).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: `create web: NVMe controller ${DISK}: cannot pass by VFIO: the kernel does not answer for it: a driver holds its lock, or the device is dying; see what waits for it with: echo w > /proc/sysrq-trigger && dmesg; when nothing can be ended, reboot`,
    });
    expect([kernel.snapshot(), kernel.writes, claims()]).toEqual([before, [], []]);
    await devices.open({ ...request, addresses: [NIC] });
    expect(claims()).toEqual([`pci-${NIC}.json`]);
  });

  it('reads no attribute itself that another process is to read', async () => {
    const kernel = machine();
    const texts = new Map<string, string>();
    const text = kernel.text.bind(kernel);
    const attribute = /^\/sys\/bus\/pci\/devices\/[^/]+\/[^/]+$/;
    for (const path of kernel.files.keys()) if (attribute.test(path)) texts.set(path, text(path) ?? '');
    const seen: string[] = [];
    const host: HostTree = {
      text: (path) => {
        if (texts.has(path)) seen.push(path);
        return text(path);
      },
      entries: (path) => kernel.entries(path),
      link: (path) => kernel.link(path),
      real: (path) => kernel.real(path),
      node: (path) => kernel.node(path),
      exists: (path) => kernel.exists(path),
    };
    const devices = passing(kernel, { host, read: async () => ({ texts, stuck: [] }) });
    await devices.open(request);
    await devices.release('ns/web');
    expect(seen).toEqual([]);
  });

  it('says that nothing was read', async () => {
    const read: PassingDeps['read'] = () =>
      Promise.reject(
        new RuntimeError({ code: ErrorCode.DeadlineExceeded, op: 'read', object: 'x', reason: 'late' }),
      );
    await expect(passing(machine(), { read }).open(request)).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: 'create web: x: late',
    });
  });

  it('passes a disk that the host uses when that is asked for', async () => {
    const kernel = machine();
    add(kernel, mounted);
    const annotations = { 'bulkhead.io/allow-host-use': 'true' };
    await passing(kernel).open({ ...request, annotations });
    expect(kernel.link(`/sys/bus/pci/devices/${DISK}/driver`)).toContain('vfio-pci');
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
      'create web: GPU 0000:41:00.0: device is in use by process 1234 (nvidia-persiste); unbinding would block until it is closed; kill 1234',
    );
    expect([kernel.writes, claims()]).toEqual([[], []]);
  });

  it('refuses a function that another container has', async () => {
    const kernel = machine();
    const devices = passing(kernel);
    await devices.open({ ...request, addresses: [NIC] });
    await expect(devices.open({ ...request, id: 'two', owner: 'ns/two' })).rejects.toThrow(
      `create two: Ethernet controller ${NIC}: cannot pass by VFIO: claimed by ns/web; delete container web of namespace ns, or name another function`,
    );
    expect(kernel.link(`/sys/bus/pci/devices/${DISK}/driver`)).toContain('nvme');
    expect(claims()).toEqual([`pci-${NIC}.json`]);
  });

  it('refuses a function of a group that a container of the other wall has', async () => {
    const kernel = machine([disk, { ...audio, driver: 'vfio-pci' }]);
    const owner = 'cli/spdk';
    await passing(kernel).open({ ...request, id: 'spdk', owner, wall: 'namespace', addresses: [DISK] });
    const before = [kernel.snapshot(), claims()];
    await expect(passing(kernel).open({ ...request, addresses: [AUDIO] })).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: `create web: audio function ${AUDIO}: cannot pass by VFIO: IOMMU group 9 is claimed by cli/spdk, which has ${DISK}; bulkhead delete --force spdk`,
    });
    expect([kernel.snapshot(), claims()]).toEqual(before);
  });

  it('binds a function once that is named twice', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const devices = passing(kernel);
    const { nodes } = await devices.open({ ...request, addresses: [NIC, NIC] });
    expect([nodes.length, claims()]).toEqual([1, [`pci-${NIC}.json`]]);
    await devices.release('ns/web');
    expect(kernel.snapshot()).toBe(before);
  });

  it('refuses a function whose driver has not let go yet of what was asked of it', async () => {
    const kernel = machine();
    const claim = { version: 1, owner: 'late', bootId: 'boot-1', change: { address: NIC, to: 'vfio-pci' } };
    mkdirSync(dir);
    writeFileSync(join(dir, `pci-${NIC}.json`), JSON.stringify(claim));
    // The recovery that comes first leaves what somebody lives for.
    await expect(passing(kernel).open({ ...request, addresses: [NIC] })).rejects.toThrow(
      `create web: Ethernet controller ${NIC}: cannot pass by VFIO: the driver that was to let go of it has not done so yet; end the processes that have it open, and try again`,
    );
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
      'create web: device /dev/vfio/8: no function that is bound to vfio-pci on this host has this node; see which functions vfio-pci has with: bulkhead devices',
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

describe('nodes of a configuration in the namespace wall', () => {
  const specWith = (path: string, rule: LinuxDeviceCgroup): Spec => ({
    ociVersion: '1.2.0',
    linux: { devices: [{ path, type: 'c' }], resources: { devices: [rule] } },
  });
  const one: LinuxDeviceCgroup = { allow: true, type: 'c', major: 245, minor: 7, access: 'rw' };
  const deny: LinuxDeviceCgroup = { allow: false, access: 'rwm' };
  const all: LinuxDeviceCgroup = { allow: true, access: 'rwm' };

  it('are not those of a function that another container was given by name', async () => {
    const devices = passing(machine());
    const spec = specWith('/dev/vfio/7', one);
    await devices.checkNodes('dpdk', 'ns/dpdk', spec);
    await devices.open({ ...request, addresses: [NIC] });
    await expect(devices.checkNodes('dpdk', 'ns/dpdk', spec)).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: `create dpdk: Ethernet controller ${NIC}: cannot pass /dev/vfio/7: claimed by ns/web; delete container web of namespace ns, or name another function`,
    });
    await expect(devices.checkNodes('dpdk', 'ns/dpdk', specWith('/dev/vfio/7', deny))).rejects.toThrow();
  });

  it('may be its own, another’s of nobody, and every node of the host', async () => {
    const devices = passing(machine());
    await devices.open({ ...request, addresses: [NIC] });
    await devices.checkNodes('web', 'ns/web', specWith('/dev/vfio/7', one));
    await devices.checkNodes('dpdk', 'ns/dpdk', specWith('/dev/vfio/vfio', one));
    await devices.checkNodes('dpdk', 'ns/dpdk', specWith('/dev/vfio/9', one));
    await devices.checkNodes('dpdk', 'ns/dpdk', specWith('/dev/vfio/7', all));
  });
});

describe('two processes of one state root', () => {
  /** flock(2) of a directory, among the objects of a test. */
  function sharedLock(): NonNullable<PassingDeps['lock']> {
    let last: Promise<void> = Promise.resolve();
    return async () => {
      const before = last;
      let unlock = (): void => {};
      last = new Promise((resolve) => (unlock = resolve));
      await before;
      return { [Symbol.dispose]: unlock };
    };
  }

  it('do not undo the same claim, of which the later would take the function from its next owner', async () => {
    const kernel = machine();
    const lock = sharedLock();
    await passing(kernel, { lock }).open({ ...request, addresses: [NIC] });
    let begun = (): void => {};
    const hasBegun = new Promise<void>((resolve) => (begun = resolve));
    let goOn = (): void => {};
    const held = new Promise<void>((resolve) => (goOn = resolve));
    const slow: PassingDeps['write'] = async (path, data) => {
      begun();
      await held;
      return kernel.write(path, data);
    };
    const released = passing(kernel, { lock, write: slow }).release('ns/web');
    await hasBegun;
    // Its record is gone: another process' recovery sees the claim too.
    const other = passing(kernel, { lock, isAlive: (owner) => owner !== 'ns/web' });
    const opened = other.open({ ...request, id: 'two', owner: 'ns/two', addresses: [NIC] });
    await new Promise((resolve) => setImmediate(resolve));
    goOn();
    await Promise.all([released, opened]);
    expect(kernel.link(`/sys/bus/pci/devices/${NIC}/driver`)).toContain('vfio-pci');
    expect(JSON.parse(readFileSync(join(dir, `pci-${NIC}.json`), 'utf8'))).toMatchObject({ owner: 'ns/two' });
  });

  it('say so when the other one stays, and change nothing', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const lock = (): Promise<never> =>
      Promise.reject(
        new RuntimeError({ code: ErrorCode.Unavailable, op: 'lock', object: dir, reason: 'held' }),
      );
    const devices = passing(kernel, { lock });
    await expect(devices.open(request)).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
      message: `create web: ${dir}: held`,
    });
    expect(kernel.snapshot()).toBe(before);
    await passing(kernel).open(request);
    // Who has nothing waits for nobody.
    await devices.release('ns/other');
    expect(lines).toEqual([]);
    await devices.release('ns/web');
    expect(lines.join('')).toContain('device not given back');
    expect(claims()).toHaveLength(2);
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

  it('is given back before the next of the same name, though that one lives', async () => {
    const kernel = machine();
    await passing(kernel).open({ ...request, addresses: [NIC] });
    // Its record is gone, its claim is not: the driver did not take the function back then.
    const override = `/sys/bus/pci/devices/${NIC}/driver_override`;
    const read: PassingDeps['read'] = async () => ({
      texts: new Map([[override, kernel.text(override)]]),
      stuck: [],
    });
    const next = passing(kernel, { read });
    await expect(next.open({ ...request, addresses: [NIC, DISK] })).resolves.toBeDefined();
    expect(claims()).toHaveLength(2);
    await next.release('ns/web');
    expect(kernel.link(`/sys/bus/pci/devices/${NIC}/driver`)).toContain('igbvf');
    expect(kernel.text(override)).toBe('(null)');
  });

  it('is looked for again after a bind that failed', async () => {
    const kernel = machine();
    const before = kernel.snapshot();
    const devices = passing(kernel, {
      isAlive: () => false,
      write: (path, data) =>
        path.endsWith('/driver/unbind') && kernel.writes.length < 2
          ? Promise.reject(
              new RuntimeError({
                code: ErrorCode.DeadlineExceeded,
                op: 'write',
                object: path,
                reason: 'the kernel did not come back within 20000 ms: the device is in use',
                remedy: 'end the processes that hold the device open',
                errno: 'ETIMEDOUT',
              }),
            )
          : kernel.write(path, data),
    });
    await expect(devices.open({ ...request, addresses: [NIC] })).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: `create web: /sys/bus/pci/devices/${NIC}/driver/unbind: the kernel did not come back within 20000 ms: the device is in use; end the processes that hold the device open`,
    });
    expect([kernel.snapshot(), claims()]).toEqual([before, [`pci-${NIC}.json`]]);
    await devices.release('ns/web');
    expect(claims()).toHaveLength(1);
    await devices.recover();
    expect([kernel.snapshot(), claims()]).toEqual([before, []]);
  });

  it('costs nothing where there never was a device', async () => {
    const kernel = machine();
    await passing(kernel).release('ns/web');
    await passing(kernel).recover();
    expect(claims()).toEqual([]);
  });
});
