/**
 * PCI functions of the host behind the vm wall: a virtual function of an SR-IOV network card, an NVMe disk and a display,
 * which stands in for a GPU. The IOMMU, the drivers and vfio-pci are real; only the hardware is emulated.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { eventually } from '../e2e/lib/exec.ts';
import { engines, hypervisors, machineDirectories, monitors, vm } from '../e2e/vm/machines.ts';

const MINUTE = 60_000;
const PCI = '/sys/bus/pci/devices';
const TEXT = 'written on the host';

interface Expected {
  /** Driver of the host. */
  driver: string;
  /** vendor, device and class as sysfs has them. */
  ids: string;
}
const expected: Readonly<Record<string, Expected>> = {
  vf: { driver: 'igbvf', ids: '0x8086 0x10ca 0x020000' },
  nvme: { driver: 'nvme', ids: '0x1b36 0x0010 0x010802' },
  display: { driver: 'bochs-drm', ids: '0x1234 0x1111 0x038000' },
};
const names = Object.keys(expected);

const text = (path: string): string => readFileSync(path, 'utf8').trim();
const idsOf = (address: string): string =>
  ['vendor', 'device', 'class'].map((name) => text(join(PCI, address, name))).join(' ');
const driverOf = (address: string): string => {
  const link = join(PCI, address, 'driver');
  return existsSync(link) ? basename(readlinkSync(link)) : 'none';
};
const sh = (script: string): string => execFileSync('bash', ['-euc', script], { encoding: 'utf8' });

const addresses: Record<string, string> = {};
const drivers = (): Record<string, string> =>
  Object.fromEntries(names.map((name) => [name, driverOf(addresses[name] ?? '')]));
const asExpected = Object.fromEntries(names.map((name) => [name, expected[name]?.driver]));
const allVfio = Object.fromEntries(names.map((name) => [name, 'vfio-pci']));

/** The first block device of the NVMe function, which the host's driver has made. */
const disk = (): string => {
  const [controller = ''] = readdirSync(join(PCI, addresses.nvme ?? '', 'nvme'));
  return `/dev/${controller}n1`;
};

let containerd: PrivateContainerd;
beforeAll(async () => {
  const [physical = ''] = readdirSync(PCI)
    .filter((name) => existsSync(join(PCI, name, 'sriov_numvfs')))
    .filter((name) => driverOf(name) === 'igb');
  writeFileSync(join(PCI, physical, 'sriov_numvfs'), '2');
  for (const name of names) {
    const find = (): string | undefined =>
      readdirSync(PCI).find(
        (address) => idsOf(address) === expected[name]?.ids && driverOf(address) === expected[name]?.driver,
      );
    addresses[name] = await eventually(`a function ${name}`, find);
  }
  await eventually('the disk', () => existsSync(disk()));
  sh(`printf '%s' '${TEXT}' | dd of=${disk()} conv=fsync bs=4096 2>/dev/null`);
  containerd = await PrivateContainerd.start({ runtime: vm });
}, 4 * MINUTE);
afterAll(() => containerd?.stop());

const annotation = (): string[] => [
  '--annotation',
  `cdi.k8s.io/lab=${names.map((name) => `bulkhead.io/vfio=${addresses[name] ?? ''}`).join(',')}`,
];
/** A pod that has all three, and stays. */
const pod = async (id: string): Promise<void> => {
  const started = await containerd.run(id, ['sleep', '10000'], {
    flags: ['-d', ...annotation()],
    timeout: 4 * MINUTE,
  });
  expect(started).toMatchObject({ code: 0, stderr: '' });
  expect(drivers()).toEqual(allVfio);
};
const restored = async (): Promise<void> => {
  await eventually(
    'the host’s drivers',
    () => JSON.stringify(drivers()) === JSON.stringify(asExpected),
    30_000,
  );
  const claims = join(containerd.bulkheadRoot, 'devices');
  expect(existsSync(claims) ? readdirSync(claims) : []).toEqual([]);
};

describe('functions of the host in a virtual machine', () => {
  it('are enumerated by its kernel', async () => {
    await pod('three');
    const script = 'cd /sys/bus/pci/devices; for d in *; do echo $(cat $d/vendor $d/device $d/class); done';
    const seen = await containerd.exec('three', 'e1', ['sh', '-c', script], { timeout: MINUTE });
    expect(seen).toMatchObject({ code: 0, stderr: '' });
    expect(seen.stdout.split('\n')).toEqual(expect.arrayContaining(names.map((name) => expected[name]?.ids)));
  });

  it('are nobody else’s meanwhile', async () => {
    const second = await containerd.run('second', ['true'], { flags: ['--rm', ...annotation()] });
    expect(second.code).not.toBe(0);
    expect(second.stderr).toMatch(/second: .*0000:\S+/);
    expect(drivers()).toEqual(allVfio);
  });

  it('are the host’s again after the container’s end', async () => {
    await containerd.remove('three');
    await restored();
    expect(sh(`head -c ${TEXT.length} ${disk()}`)).toBe(TEXT);
    expect(machineDirectories(containerd)).toEqual([]);
  });

  const victims: [string, () => number[]][] = [
    ['the hypervisor', () => hypervisors(containerd)],
    ['the engine', () => engines(containerd)],
    ['the monitor', () => monitors(containerd)],
  ];
  it.each(victims)(
    'are the host’s again after SIGKILL of %s and delete',
    async (what, pids) => {
      const id = `killed-${what.split(' ')[1]}`;
      await pod(id);
      for (const pid of pids()) process.kill(pid, 'SIGKILL');
      await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', id], { timeout: MINUTE });
      await eventually('the end', async () => {
        await containerd.ctr(['task', 'delete', '--force', id], { timeout: MINUTE });
        return (await containerd.status(id)) === undefined;
      });
      await containerd.ctr(['container', 'rm', id]);
      await restored();
    },
    8 * MINUTE,
  );

  it(
    'leave nothing behind',
    async () => {
      expect(await containerd.leaks()).toEqual([]);
    },
    MINUTE,
  );
});
