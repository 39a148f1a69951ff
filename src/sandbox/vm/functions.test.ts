import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { readMachine } from '../../devices/machine.ts';
import { FakeTree } from '../../devices/testing/fake_tree.ts';
import { goodHost, pciFiles } from '../../devices/testing/machines.ts';
import { vfioDevice } from '../../devices/vfio/probe.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import type { GuestAgent } from './agent.ts';
import {
  awaitFunction,
  checkLockedMemory,
  guestVariables,
  passedFunctions,
  tooLate,
  withGuestFunctions,
  type GuestFunction,
} from './functions.ts';
import type { PassedFunction } from './hypervisor/hypervisor.ts';

const GIB = 2 ** 30;
const GPU = '0000:41:00.0';
const DISK = '0000:42:00.0';
const machine = readMachine(
  new FakeTree({
    ...goodHost,
    ...pciFiles([
      { address: GPU, class: '0x030200', vendor: '0x10de', group: 12, bars: [16 << 20, 128 * GIB, 32 << 20] },
      { address: DISK, class: '0x010802', vendor: '0x144d', group: 13, bars: [16384] },
    ]),
  }),
);

describe('for the hypervisor', () => {
  it('a function has windows for all its BARs, and the node that every QEMU knows', () => {
    const devices = machine.pci.map((pci) => vfioDevice(machine, pci));
    const nodes = [
      { address: GPU, group: '/dev/vfio/12', device: '/dev/vfio/devices/vfio0' },
      { address: DISK, group: undefined, device: '/dev/vfio/devices/vfio1' },
    ];
    expect(passedFunctions({ machine, devices, nodes })).toEqual([
      {
        address: GPU,
        group: '/dev/vfio/12',
        device: undefined,
        memoryWindow: 16 << 20,
        prefetchWindow: 128 * GIB + (32 << 20),
        rom: true,
        class: 0x030200,
      },
      {
        address: DISK,
        group: undefined,
        device: '/dev/vfio/devices/vfio1',
        memoryWindow: 16384,
        prefetchWindow: 0,
        rom: false,
        class: 0x010802,
      },
    ]);
  });
});

/** An agent whose guest has found these: by "PCI PATH", "PCI PATH SUBSYSTEM" or path. */
function agent(
  found: Record<string, bulkhead.agent.v1.IDevice>,
): Pick<GuestAgent, 'call' | 'waitDevice' | 'refuse'> {
  const find = (match: bulkhead.agent.v1.IDeviceMatch): bulkhead.agent.v1.IDevice => {
    const device = found[match.path || [match.pciPath, match.subsystem].filter(Boolean).join(' ')];
    if (device === undefined) throw new Error('create web: guest wait pci: connection timed out');
    return device;
  };
  return {
    refuse: (_op, _id, what, reason) => new RuntimeError({ code: ErrorCode.Internal, op: what, reason }),
    waitDevice: async (_, match) => find(match),
    call: async (_op, _id, { waitDevice }) =>
      ({ device: find(waitDevice?.device ?? {}) }) as unknown as bulkhead.agent.v1.CallReply,
  };
}

const passed = (address: string, code: number): PassedFunction => ({
  address,
  group: '/dev/vfio/1',
  memoryWindow: 0,
  prefetchWindow: 0,
  rom: false,
  class: code,
});
const sysfs = '/sys/devices/pci0000:00/0000:00:05.0/0000:09:00.0';

describe('in the guest', () => {
  it('a function is known by its address there', async () => {
    const nic = passed('0000:01:10.0', 0x020000);
    expect(await awaitFunction(agent({ '05.0/00.0': { sysfs } }), 'web', nic, '05.0/00.0', () => {})).toEqual(
      {
        host: '0000:01:10.0',
        guest: '0000:09:00.0',
        nodes: [],
      },
    );
  });

  it('a disk has the node that the guest’s driver gave it', async () => {
    const found = {
      '05.0/00.0': { sysfs },
      '05.0/00.0 nvme': { name: 'nvme0', sysfs: `${sysfs}/nvme/nvme0` },
      '/dev/nvme0n1': { path: '/dev/nvme0n1', major: 259, minor: 0 },
    };
    const { nodes } = await awaitFunction(
      agent(found),
      'web',
      passed(DISK, 0x010802),
      '05.0/00.0',
      (message) => {
        throw new Error(message);
      },
    );
    expect(nodes).toEqual([{ path: '/dev/nvme0n1', type: 'b', major: 259, minor: 0, fileMode: 0o660 }]);
  });

  it('a disk without a driver is said, and the container starts', async () => {
    const said: string[] = [];
    const only = agent({ '05.0/00.0': { sysfs } });
    const { nodes } = await awaitFunction(only, 'web', passed(DISK, 0x010802), '05.0/00.0', (message) =>
      said.push(message),
    );
    expect(nodes).toEqual([]);
    expect(said.join()).toContain(`${DISK}: the guest shows no disk of it: `);
  });

  it.each([undefined, '', '/', '/sys/devices/x', `${sysfs}/`, '0000:09:00.0 rm -rf', 'x'.repeat(1 << 20)])(
    'a function is never at %.40j',
    async (path) => {
      const found = agent({ '05.0/00.0': { sysfs: path } });
      await expect(
        awaitFunction(found, 'web', passed('0000:01:10.0', 0x020000), '05.0/00.0', () => {}),
      ).rejects.toThrow('device 0000:01:10.0: tells of a function that there cannot be');
    },
  );

  it.each([
    [{ name: '../sda' }, {}, 'it has no name that a disk can have'],
    [{ name: 'n'.repeat(1 << 20) }, {}, 'it has no name'],
    [{ name: 'nvme0' }, { path: '/etc/shadow', major: 259 }, 'it is not where it was looked for'],
  ])('a disk is never %.40j', async (controller, disk, words) => {
    const found = { '05.0/00.0': { sysfs }, '05.0/00.0 nvme': controller, '/dev/nvme0n1': disk };
    const said: string[] = [];
    const { nodes } = await awaitFunction(agent(found), 'web', passed(DISK, 0x010802), '05.0/00.0', (each) =>
      said.push(each),
    );
    expect(nodes).toEqual([]);
    expect(said.join()).toContain(words);
  });

  it('a function that does not appear fails the create', async () => {
    await expect(
      awaitFunction(agent({}), 'web', passed(DISK, 0x010802), '05.0/00.0', () => {}),
    ).rejects.toThrow('guest wait pci');
  });
});

describe('a machine with functions', () => {
  const config = { size: { memoryMib: 256, vcpus: 1 }, functions: [passed(GPU, 0x030200)] };

  it.each([undefined, 320 << 20])('is made when its memory can be locked: %s', (limit) => {
    expect(() => checkLockedMemory('web', config, limit)).not.toThrow();
    expect(() => checkLockedMemory('web', { ...config, functions: [] }, 1)).not.toThrow();
  });

  it('is refused when its memory cannot be locked', () => {
    expect(() => checkLockedMemory('web', config, 8 << 20)).toThrow(
      'create web: device 0000:41:00.0: a guest of 256 MiB needs RLIMIT_MEMLOCK of 320 MiB, and it is 8 MiB and cannot be raised without CAP_SYS_RESOURCE; raise LimitMEMLOCK of the service that starts containers',
    );
  });

  it('takes none when it runs', () => {
    expect(tooLate('web', [GPU, DISK]).message).toBe(
      'create web: device 0000:41:00.0, 0000:42:00.0: the pod’s machine runs already, and takes functions of the host only when it starts; ask for them with the pod’s first container',
    );
  });
});

describe('what a container is told', () => {
  const functions: GuestFunction[] = [
    { host: '0000:01:10.0', guest: '0000:09:00.0', nodes: [] },
    // The guest has one at an address that is another one's on the host.
    {
      host: '0000:09:00.0',
      guest: '0000:0a:00.0',
      nodes: [{ path: '/dev/nvme0n1', type: 'b', major: 259, minor: 0 }],
    },
  ];

  it('are the guest’s addresses, in the variables of device plugins alone', () => {
    expect(
      guestVariables(
        [
          'PCIDEVICE_INTEL_COM_VF=0000:01:10.0,0000:09:00.0',
          'OTHER=0000:01:10.0',
          'PCIDEVICE_X_INFO={"0000:01:10.0":{}}',
        ],
        functions,
      ),
    ).toEqual([
      'PCIDEVICE_INTEL_COM_VF=0000:09:00.0,0000:0a:00.0',
      'OTHER=0000:01:10.0',
      'PCIDEVICE_X_INFO={"0000:09:00.0":{}}',
    ]);
  });

  it('are the guest’s nodes, with the right to use them', () => {
    const spec = {
      ociVersion: '1.2.0',
      linux: { resources: { devices: [{ allow: false, access: 'rwm' }] } },
    };
    expect(withGuestFunctions(spec, functions).linux).toEqual({
      devices: [{ path: '/dev/nvme0n1', type: 'b', major: 259, minor: 0 }],
      resources: {
        devices: [
          { allow: false, access: 'rwm' },
          { allow: true, type: 'b', major: 259, minor: 0, access: 'rwm' },
        ],
      },
    });
    expect(withGuestFunctions(spec, [])).toBe(spec);
  });
});
