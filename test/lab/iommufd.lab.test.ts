/**
 * PCI functions over iommufd, on the kernel of our own guests: Debian's are built without it. It has groups as well, which
 * are hidden in the second half. No driver of the host is there for these functions: to have none is what is given back.
 */
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { hostPassing } from '../../src/sandbox/passing_host.ts';
import { passedFunctions } from '../../src/sandbox/vm/functions.ts';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { prefix } from '../e2e/lib/paths.ts';
import { EnumeratingMachine } from './enumerating_machine.ts';
import { driverOf, expected, functionOf, sh } from './functions.ts';

/** The machine says what it has to within a minute, on a busy host in ten. */
const EMULATED_TWICE_MS = 20 * 60_000;
const NAMESPACE = 'io.containerd.bulkhead.v2';
/** QEMU's device for teaching, and a display, which stands in for a GPU. */
const ids = ['0x1234 0x11e8 0x00ff00', expected.display.ids];
const addresses = ids.map(functionOf);
const [edu = ''] = addresses;
const drivers = (): string[] => addresses.map(driverOf);
const bound = addresses.map(() => 'vfio-pci');
const none = addresses.map(() => 'none');
const asks = (which: readonly string[] = addresses): string[] => [
  '--annotation',
  `cdi.k8s.io/lab=${which.map((address) => `bulkhead.io/vfio=${address}`).join(',')}`,
];
const claims = (root: string): string[] => {
  const dir = join(root, 'devices');
  return existsSync(dir) ? readdirSync(dir) : [];
};

const own = addresses.map((_, index) => `vfio/devices/vfio${index}`);
/** What iommufd_probe says of them. */
const seen = ids.map((each, index) => `${addresses[index]} ${each.split(' ').slice(0, 2).join(' ')}`);

/** A container that lists its nodes, and then runs the program that is the test's subject. */
const probe = async (id: string): Promise<string[]> => {
  const program = join(containerd.dir, 'iommufd_probe');
  sh(`gcc -O1 -static -o ${program} ${join(import.meta.dirname, 'iommufd_probe.c')}`);
  const mount = ['--mount', `type=bind,src=${program},dst=/probe,options=bind:ro`];
  const script = 'cd /dev; ls -d iommu vfio/* vfio/devices/* 2>/dev/null; echo; exec /probe';
  const flags = ['--rm', ...mount, ...asks()];
  const result = await containerd.run(id, ['sh', '-c', script], { flags });
  expect(result).toMatchObject({ code: 0, stderr: '' });
  expect(drivers()).toEqual(none);
  expect(claims(containerd.bulkheadRoot)).toEqual([]);
  expect(result.stdout.trim().split('\n').slice(-seen.length)).toEqual(seen);
  return result.stdout.split('\n\n')[0]?.split('\n') ?? [];
};

let containerd: PrivateContainerd;
beforeAll(async () => void (containerd = await PrivateContainerd.start({ runtime: NAMESPACE })));
afterAll(() => containerd?.stop());

describe('a kernel with iommufd and groups', () => {
  it('is found to have both, before a function was ever bound', () => {
    expect(existsSync('/dev/vfio/devices')).toBe(false);
    expect(drivers()).toEqual(none);
    const { iommu, devices } = JSON.parse(sh(`${join(prefix, 'bin/bulkhead')} devices --json`)) as {
      iommu: unknown;
      devices: { id: string; walls: Record<string, unknown> }[];
    };
    expect(iommu).toEqual({ on: true, interruptRemapping: 'on', vfioPci: true, iommufd: true });
    expect(devices.find(({ id }) => id === edu)?.walls).toMatchObject({
      namespace: { ok: true, as: 'vfio' },
      vm: { ok: true, as: 'vfio' },
    });
  });

  it('gives a container the nodes of both, and a program drives the functions by iommufd', async () => {
    const nodes = await probe('both');
    const groups = addresses.map(groupOf).sort();
    expect(nodes).toEqual([
      'iommu',
      ...groups.map((group) => `vfio/${group}`),
      'vfio/devices',
      ...own,
      'vfio/vfio',
    ]);
  });

  it('gives nobody a function that a process has open by its own node', async () => {
    const at = `/sys/bus/pci/devices/${edu}`;
    sh(`echo vfio-pci > ${at}/driver_override; echo ${edu} > /sys/bus/pci/drivers_probe`);
    const [name = ''] = readdirSync(join(at, 'vfio-dev'));
    const held = openSync(`/dev/vfio/devices/${name}`, 'r+');
    try {
      const refused = await containerd.run('held', ['true'], { flags: ['--rm', ...asks([edu])] });
      expect(refused.code).not.toBe(0);
      expect(refused.stderr).toMatch(
        new RegExp(`create held: PCI function ${edu}: device is in use by process ${process.pid} `),
      );
    } finally {
      closeSync(held);
      sh(`echo ${edu} > ${at}/driver/unbind; echo > ${at}/driver_override`);
    }
    expect(drivers()).toEqual(none);
    expect(await containerd.leaks()).toEqual([]);
  });
});

describe('a host without groups', () => {
  beforeAll(() => hideGroups());

  it('gives a program the nodes of iommufd alone', async () => {
    expect(await probe('alone')).toEqual(['iommu', 'vfio/devices', ...own]);
  });

  it(
    'gives a virtual machine its functions by descriptors; its kernel enumerates them',
    async () => {
      const root = join(containerd.dir, 'vm');
      const dir = join(root, 'machine');
      mkdirSync(dir, { recursive: true });
      const initPath = join(prefix, 'lib/bulkhead/bulkhead-init');
      const passing = hostPassing({ root, initPath, store: { exists: () => true }, log: silentLogger });
      const request = { id: 'machine', owner: 'lab/machine', wall: 'vm' as const, addresses };
      const passed = passedFunctions(await passing.open(request));
      expect(passed.map(({ group, device }) => [group, device])).toEqual(
        own.map((path) => [undefined, `/dev/${path}`]),
      );
      const machine = await EnumeratingMachine.boot(dir, passed);
      try {
        const nodes = ['iommu', ...own].map((path) => `/dev/${path}`);
        const opened = machine.openFiles().filter((path) => nodes.includes(path));
        expect(opened.sort()).toEqual(nodes);
        // "pci 0000:0d:00.0: [1234:1111] type 00 class 0x038000"
        await machine.says(/\[1234:11e8\] type 00 class 0x00ff00/);
        await machine.says(/\[1234:1111\] type 00 class 0x038000/);
        expect(drivers()).toEqual(bound);
      } finally {
        await machine.end();
        await passing.release('lab/machine');
      }
      expect(drivers()).toEqual(none);
      expect(claims(root)).toEqual([]);
    },
    EMULATED_TWICE_MS,
  );
});

const groupOf = (address: string): number =>
  Number(readlinkSync(`/sys/bus/pci/devices/${address}/iommu_group`).split('/').at(-1));

/**
 * In this mount namespace /dev/vfio looks as on a kernel without CONFIG_VFIO_GROUP: there are only the functions' own nodes.
 * The kernel would remove a directory that it has made; this one stays where it is mounted.
 */
function hideGroups(): void {
  sh('mkdir -p /dev/vfio/devices /run/functions; mount --bind /dev/vfio/devices /run/functions');
  sh('mount -t tmpfs vfio /dev/vfio; mkdir /dev/vfio/devices; mount --move /run/functions /dev/vfio/devices');
}
