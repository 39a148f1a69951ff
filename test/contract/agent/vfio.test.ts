/**
 * BindVfio of the real agent, on a sysfs made of files and nodes that only begin like VFIO's: every step up to the one that
 * needs the kernel's vfio-pci, and what is said of each that fails. The rest is in the lab (test/lab/vfio_guest.lab.test.ts).
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import { AgentRig, type HostSession } from './harness.ts';

const { Call } = bulkhead.agent.v1;
const [EBUSY, ENODEV, ENOTTY, EBADMSG, ETIMEDOUT] = [16, 19, 25, 74, 110];
const BUS = '/sys/bus/pci';
const [NIC, DISK] = ['0000:09:00.0', '0000:0a:00.0'];
const at = (address: string): string =>
  `/sys/devices/pci0000:00/0000:00:0${address === NIC ? '4.0' : '4.1'}/${address}`;

/** A function of class `code` with a driver ("": none) in a group ("": none). */
const pci = (address: string, driver: string, group: string, code = '0x020000'): string[] => {
  const dir = at(address);
  return [
    `mkdir -p ${dir}`,
    `touch ${dir}/driver_override`,
    `echo ${code} > ${dir}/class`,
    ...(driver === '' ? [] : [`mkdir -p ${BUS}/drivers/${driver}`, `touch ${BUS}/drivers/${driver}/unbind`]),
    ...(driver === '' ? [] : [`ln -s ${BUS}/drivers/${driver} ${dir}/driver`]),
    ...(group === '' ? [] : [`mkdir -p /sys/kernel/iommu_groups/${group}/devices`]),
    ...(group === '' ? [] : [`ln -s /sys/kernel/iommu_groups/${group} ${dir}/iommu_group`]),
    ...(group === '' ? [] : [`ln -s ${dir} /sys/kernel/iommu_groups/${group}/devices/${address}`]),
  ];
};
const DRIVER = [`mkdir -p ${BUS}/drivers/vfio-pci`];
/** Nodes by those names, which open and know no call of VFIO's. */
const nodes = (...names: string[]): string[] => names.map((name) => `mknod /dev/${name} c 1 3`);

let rig: AgentRig;
let host: HostSession;
beforeEach(() => {
  rig = new AgentRig();
});
afterEach(() => rig.dispose());

const start = async (...script: string[]): Promise<void> => {
  rig.start(
    [
      'mount -t tmpfs none /sys && mount -t tmpfs none /mnt && mkdir -p /mnt/vfio/devices',
      'mknod -m 666 /mnt/null c 1 3 && mount --bind /mnt /dev',
      `mkdir -p ${BUS} && touch ${BUS}/drivers_probe`,
      ...script,
    ].join(' && '),
  );
  host = await rig.session();
  await host.hello();
};
const failed = async (pciPaths: string[], timeoutMs = 60_000): Promise<bulkhead.agent.v1.IFailure> => {
  const { errno, reply } = await host.call({ bindVfio: { pciPaths, timeoutMs } }, timeoutMs + 60_000);
  expect(errno).toBe(reply.failure?.errno);
  expect(reply.functions).toEqual([]);
  return reply.failure ?? {};
};
const texts = async (...paths: string[]): Promise<string[]> => {
  const { reply } = await host.call({ readFiles: { paths } });
  return reply.files.map(({ data }) => Buffer.from(data ?? []).toString());
};
/** For what will not come. */
const LATE_MS = 300;
const NIC_PATH = '04.0/00.0';
const DISK_PATH = '04.1/00.0';

describe('BindVfio', () => {
  it('is refused by a kernel without vfio-pci', async () => {
    await start(...pci(NIC, 'igbvf', '3'));
    expect(await failed([NIC_PATH])).toEqual({ op: 'driver', path: 'vfio-pci', errno: ENODEV });
    expect(await texts(`${at(NIC)}/driver_override`)).toEqual(['']);
  });

  it('is refused for a function that never appears', async () => {
    await start(...DRIVER);
    expect(await failed([NIC_PATH], LATE_MS)).toEqual({
      op: 'wait',
      path: `pci ${NIC_PATH}`,
      errno: ETIMEDOUT,
    });
  });

  it('is refused for a function without a group, which keeps its driver', async () => {
    await start(...DRIVER, ...pci(NIC, 'igbvf', ''));
    expect(await failed([NIC_PATH])).toEqual({ op: 'group', path: NIC, errno: ENODEV });
    expect(await texts(`${BUS}/drivers/igbvf/unbind`, `${at(NIC)}/driver_override`)).toEqual(['', '']);
  });

  it('takes a function from its driver, offers it to vfio-pci, and does not believe that', async () => {
    await start(...DRIVER, ...pci(NIC, 'igbvf', '3'));
    expect(await failed([NIC_PATH])).toEqual({ op: 'bind', path: NIC, errno: ENODEV });
    expect(
      await texts(`${at(NIC)}/driver_override`, `${BUS}/drivers/igbvf/unbind`, `${BUS}/drivers_probe`),
    ).toEqual(['vfio-pci', NIC, NIC]);
  });

  it('leaves a function as it is that vfio-pci has, and asks for its nodes', async () => {
    await start(...DRIVER, ...pci(NIC, 'vfio-pci', '3'), ...nodes('vfio/vfio'));
    expect(await failed([NIC_PATH], LATE_MS)).toEqual({ op: 'open', path: '/dev/vfio/3', errno: ETIMEDOUT });
    expect(await texts(`${at(NIC)}/driver_override`, `${BUS}/drivers_probe`)).toEqual(['', '']);
  });

  it('tries the group as a driver in user space does', async () => {
    await start(...DRIVER, ...pci(NIC, 'vfio-pci', '3'), ...nodes('vfio/vfio', 'vfio/3'));
    expect(await failed([NIC_PATH])).toEqual({ op: 'open', path: '/dev/vfio/3', errno: ENOTTY });
  });

  it('asks for nodes of iommufd only where there is /dev/iommu', async () => {
    const bound = pci(NIC, 'vfio-pci', '3');
    const cdev = [`mkdir -p ${at(NIC)}/vfio-dev/vfio0`];
    await start(...DRIVER, ...bound, ...cdev, ...nodes('vfio/vfio', 'vfio/3', 'iommu'));
    expect(await failed([NIC_PATH], LATE_MS)).toEqual({
      op: 'open',
      path: '/dev/vfio/devices/vfio0',
      errno: ETIMEDOUT,
    });
  });

  it.each([
    ['another driver', 'nvme', '0x010802', { op: 'viable', path: DISK, errno: EBUSY }],
    ['no driver', '', '0x010802', { op: 'open', path: '/dev/vfio/3', errno: ENOTTY }],
    ['a bridge’s driver', 'pcieport', '0x060400', { op: 'open', path: '/dev/vfio/3', errno: ENOTTY }],
  ])('looks at the other functions of a group: %s', async (_what, driver, code, failure) => {
    const other = pci(DISK, driver, '3', code);
    await start(...DRIVER, ...pci(NIC, 'vfio-pci', '3'), ...other, ...nodes('vfio/vfio', 'vfio/3'));
    expect(await failed([NIC_PATH])).toEqual(failure);
  });

  it('asks for all functions before it looks at what is between them', async () => {
    const both = [...pci(NIC, 'vfio-pci', '3'), ...pci(DISK, 'vfio-pci', '3', '0x010802')];
    await start(...DRIVER, ...both, ...nodes('vfio/vfio', 'vfio/3'));
    expect(await failed([NIC_PATH, DISK_PATH])).toEqual({ op: 'open', path: '/dev/vfio/3', errno: ENOTTY });
  });

  it('says that a container node is missing', async () => {
    await start(...DRIVER, ...pci(NIC, 'vfio-pci', '3'), ...nodes('vfio/3'));
    expect(await failed([NIC_PATH], LATE_MS)).toEqual({
      op: 'open',
      path: '/dev/vfio/vfio',
      errno: ETIMEDOUT,
    });
  });

  it('has nothing to do for no function, and takes no more than it can', async () => {
    await start(...DRIVER);
    const none = await host.call({ bindVfio: {} });
    expect(none).toMatchObject({ errno: 0, reply: { functions: [] } });
    const pciPaths = Array.from({ length: 65 }, () => NIC_PATH);
    expect((await host.callBytes(Call.encode({ bindVfio: { pciPaths } }).finish())).errno).toBe(EBADMSG);
  });
});
