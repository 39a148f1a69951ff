import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { readMachine } from '../../devices/machine.ts';
import { FakeTree } from '../../devices/testing/fake_tree.ts';
import { goodHost, pciFiles } from '../../devices/testing/machines.ts';
import { vfioDevice } from '../../devices/vfio/probe.ts';
import { vfioNodesOf } from '../../devices/vfio/request.ts';
import type { Spec } from '../../oci/types.ts';
import type { HostFacts } from '../../plan/inputs.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput } from '../backend.ts';
import type { DevicePassing, OpenRequest } from '../passing.ts';
import { withFunctions } from './functions.ts';

const NIC = '0000:43:00.0';
const machine = readMachine(
  new FakeTree({
    ...goodHost,
    ...pciFiles([{ address: NIC, class: '0x020000', vendor: '0x8086', driver: 'vfio-pci', group: 14 }]),
    '/dev/vfio/14': { node: 'c 245:1' },
    '/dev/iommu': { node: 'c 10:125' },
    '/dev/vfio/devices/vfio3': { node: 'c 244:3' },
    [`/sys/bus/pci/devices/${NIC}/vfio-dev/vfio3/dev`]: '244:3',
  }),
);
const spec: Spec = {
  ociVersion: '1.2.0',
  process: {
    args: ['dpdk'],
    cwd: '/',
    user: { uid: 0, gid: 0 },
    env: ['A=1'],
    rlimits: [{ type: 'RLIMIT_MEMLOCK', soft: 1, hard: 1 }],
  },
  linux: { resources: { devices: [{ allow: false, access: 'rwm' }] } },
};
const facts = (changes: Partial<HostFacts> = {}): HostFacts => ({
  capLastCap: 40,
  kernelRelease: '6.1.0',
  canRaiseLimits: true,
  apparmor: false,
  selinux: false,
  ...changes,
});

function create(given: Spec = spec, host: HostFacts = facts()) {
  const order: string[] = [];
  const record: ContainerRecord = { id: 'dpdk', namespace: 'ns' };
  const passing: Pick<DevicePassing, 'open'> = {
    open: async ({ owner, wall, annotations = {} }: OpenRequest) => {
      order.push(['open', owner, wall, ...Object.keys(annotations)].join(' '));
      return {
        machine,
        devices: machine.pci.map((pci) => vfioDevice(machine, pci)),
        nodes: [vfioNodesOf(machine.host, NIC)],
      };
    },
  };
  const input = {
    spec: given,
    functions: [NIC],
    journal: () => order.push('journal'),
  } as unknown as CreateInput;
  return { order, record, result: withFunctions(record, input, { passing, facts: host }) };
}

describe('a function for a program that drives it itself', () => {
  it('has its nodes with rules, a variable, and memory that can be locked; the record comes first', async () => {
    const { order, record, result } = create();
    const edited = (await result).spec;
    expect(order).toEqual(['journal', 'open ns/dpdk namespace']);
    expect(edited.linux?.devices?.map(({ path }) => path)).toEqual([
      '/dev/vfio/vfio',
      '/dev/vfio/14',
      '/dev/iommu',
      '/dev/vfio/devices/vfio3',
    ]);
    expect(edited.linux?.resources?.devices?.slice(1)).toEqual([
      { allow: true, type: 'c', major: 10, minor: 196, access: 'rw' },
      { allow: true, type: 'c', major: 245, minor: 1, access: 'rw' },
      { allow: true, type: 'c', major: 10, minor: 125, access: 'rw' },
      { allow: true, type: 'c', major: 244, minor: 3, access: 'rw' },
    ]);
    expect(edited.process?.env).toEqual(['A=1', `PCIDEVICE_BULKHEAD_IO_VFIO=${NIC}`]);
    expect(edited.process?.rlimits).toEqual([{ type: 'RLIMIT_MEMLOCK', soft: 2 ** 64, hard: 2 ** 64 }]);
    expect(JSON.parse(Buffer.from(record.spec ?? []).toString())).toEqual(edited);
  });

  it('says what it goes on without', async () => {
    const { order, result } = create({ ...spec, annotations: { 'bulkhead.io/allow-host-use': 'true' } });
    await result;
    expect(order.at(-1)).toBe('open ns/dpdk namespace bulkhead.io/allow-host-use');
  });

  const poor = facts({ canRaiseLimits: false, hardLimits: { RLIMIT_MEMLOCK: 8 << 20 } });

  it('is refused where the memory cannot be locked, before anything is changed', async () => {
    const { order, result } = create(spec, poor);
    await expect(result).rejects.toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: `create dpdk: device ${NIC}: RLIMIT_MEMLOCK is 8388608 bytes and cannot be raised without CAP_SYS_RESOURCE; DMA needs locked memory; raise LimitMEMLOCK of the service that starts containers, or give the container CAP_IPC_LOCK`,
    });
    expect(order).toEqual([]);
  });

  it('keeps its limit with the capability to lock anyway', async () => {
    const effective = ['CAP_IPC_LOCK'];
    const given = { ...spec, process: { ...spec.process, capabilities: { effective } } } as Spec;
    const { result } = create(given, poor);
    expect((await result).spec.process?.rlimits).toEqual(spec.process?.rlimits);
  });
});
