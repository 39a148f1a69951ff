/**
 * PCI functions of the host for programs of a container behind the vm wall (`vfio_mode = "vfio"`): the guest has an IOMMU and
 * gives the functions to its own vfio-pci. Everything that a driver in user space begins with is done inside.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../e2e/lib/containerd.ts';
import { eventually, type RunResult } from '../e2e/lib/exec.ts';
import { hypervisors, machineDirectories, vm } from '../e2e/vm/machines.ts';
import { allVfio, expected, Functions, hostDrivers, sh, type Name } from './functions.ts';
import { ON_KVM, runInMachine } from './machines.ts';

const MINUTE = 60_000;
const VFIO_ANNOTATION = 'io.katacontainers.config.runtime.vfio_mode';

let functions: Functions;
let containerd: PrivateContainerd;
beforeAll(async () => {
  functions = await Functions.find();
  containerd = await PrivateContainerd.start({ runtime: vm, vmConfig: `vfio_mode = "vfio"\n${ON_KVM}` });
});
afterAll(() => containerd?.stop());

/** Runs vfio_probe on each address of the variable, with the group that the guest's sysfs says it is in. */
const PROBE = [
  'echo "limit $(ulimit -l)"',
  'ls -l /dev/vfio | sed -n "s/^\\(c[rwx-]*\\).* /\\1 /p"',
  'set --',
  'for a in $(echo $PCIDEVICE_BULKHEAD_IO_VFIO | tr , " "); do',
  '  g=$(basename $(readlink /sys/bus/pci/devices/$a/iommu_group))',
  '  echo "driver $(basename $(readlink /sys/bus/pci/devices/$a/driver)) $a"',
  '  [ -c /dev/vfio/$g ] || exit 9',
  '  set -- "$@" $g=$a',
  'done',
  '/probe "$@"',
].join('\n');

const build = (on: PrivateContainerd, name: string): string => {
  const program = join(on.dir, name);
  sh(`gcc -O1 -static -o ${program} ${join(import.meta.dirname, `${name}.c`)}`);
  return program;
};

const probe = async (
  on: PrivateContainerd,
  id: string,
  names: readonly Name[],
  flags: string[] = [],
): Promise<RunResult> => {
  const program = build(on, 'vfio_probe');
  const devices = names.map((name) => `bulkhead.io/vfio=${functions.addresses[name]}`);
  return runInMachine(on, id, ['sh', '-c', PROBE], {
    flags: [
      '--rm',
      ...['--mount', `type=bind,src=${program},dst=/probe,options=bind:ro`],
      ...['--annotation', `cdi.k8s.io/lab=${devices.join(',')}`],
      ...flags,
    ],
    timeout: 4 * MINUTE,
  });
};

/** What the probe is to say of these: the guest's addresses, the same ids. */
const expectProbed = ({ code, stdout, stderr }: RunResult, names: readonly Name[]): void => {
  expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' });
  const lines = stdout.trim().split('\n');
  expect(lines[0]).toBe('limit unlimited');
  const guest = lines.flatMap((line) => /^driver vfio-pci (\S+)$/.exec(line)?.[1] ?? []);
  expect(guest).toHaveLength(names.length);
  // Not the host's: each is behind a root port of the guest.
  for (const address of Object.values(functions.addresses)) expect(guest).not.toContain(address);
  const ids = names.map((name) => expected[name].ids.split(' ').slice(0, 2).join(' '));
  expect(lines.slice(-names.length).sort()).toEqual(
    guest.map((address, at) => `${address} ${ids[at]}`).sort(),
  );
};

const restored = (): Promise<unknown> =>
  eventually(
    'the host’s drivers',
    () => JSON.stringify(functions.drivers()) === JSON.stringify(hostDrivers),
    30_000,
  );

describe('functions for a program behind the vm wall', () => {
  it('are opened, given an IOMMU and memory, and read by it', async () => {
    const names: Name[] = ['vf', 'nvme', 'display'];
    expectProbed(await probe(containerd, 'three', names), names);
    await restored();
  });

  it('have their nodes in an exec too, with locked memory, and go back with the pod', async () => {
    const started = await runInMachine(containerd, 'pod', ['sleep', '10000'], {
      flags: ['-d', ...functions.annotation()],
      timeout: 4 * MINUTE,
    });
    expect(started).toMatchObject({ code: 0, stderr: '' });
    expect(functions.drivers()).toEqual(allVfio);
    const script =
      'ulimit -l; ls /dev/vfio | wc -l; for n in /dev/vfio/*; do [ -d $n ] || head -c 0 $n; done';
    const seen = await containerd.exec('pod', 'e1', ['sh', '-c', script], { timeout: MINUTE });
    expect(seen).toMatchObject({ code: 0, stderr: '' });
    expect(seen.stdout.split('\n')[0]).toBe('unlimited');
    await containerd.remove('pod');
    await restored();
    expect(await containerd.leaks()).toEqual([]);
    expect(hypervisors(containerd)).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });

  it('may be named by their node, as device plugins do, and be driven over iommufd', async () => {
    const address = functions.addresses.display;
    const on = `/sys/bus/pci/devices/${address}`;
    const group = sh(`basename $(readlink ${on}/iommu_group)`).trim();
    const bind = (driver: string): string =>
      sh(`echo ${driver} > ${on}/driver_override; echo ${address} > ${on}/driver/unbind
          echo ${address} > /sys/bus/pci/drivers_probe; basename $(readlink ${on}/driver)`).trim();
    const program = build(containerd, 'iommufd_probe');
    expect(bind('vfio-pci')).toBe('vfio-pci');
    try {
      const script = [
        'a=$PCIDEVICE_LAB_DISPLAY',
        'echo $(ls /dev/vfio/vfio /dev/vfio/[0-9]*)',
        'PCIDEVICE_BULKHEAD_IO_VFIO=$a /probe',
      ].join('\n');
      const run = await runInMachine(containerd, 'by-node', ['sh', '-c', script], {
        flags: [
          '--rm',
          ...['--mount', `type=bind,src=${program},dst=/probe,options=bind:ro`],
          ...['--device', '/dev/vfio/vfio', '--device', `/dev/vfio/${group}`],
          ...['--env', `PCIDEVICE_LAB_DISPLAY=${address}`],
        ],
        timeout: 4 * MINUTE,
      });
      expect({ code: run.code, stderr: run.stderr }, run.stdout).toEqual({ code: 0, stderr: '' });
      const [nodes = '', seen = ''] = run.stdout.trim().split('\n');
      expect(nodes).toMatch(/^\/dev\/vfio\/\d+ \/dev\/vfio\/vfio$/);
      expect(seen).toMatch(/^0000:\S+ 0x1234 0x1111$/);
      expect(seen).not.toContain(address);
      // It stays with whoever has bound it.
      expect(functions.drivers().display).toBe('vfio-pci');
    } finally {
      expect(bind('')).toBe(hostDrivers.display);
    }
  });

  it('are taken from the drivers that the guest has for them, where an annotation asks for it', async () => {
    const guest = (process.env.BULKHEAD_LAB_GUEST ?? '').replace(/^(\w+)=(.*)$/gm, '$1 = "$2"');
    const stock = await PrivateContainerd.start({
      runtime: vm,
      vmConfig: `template = false\nannotations = ["${VFIO_ANNOTATION}"]\n${ON_KVM}${guest}`,
    });
    try {
      const names: Name[] = ['vf', 'nvme'];
      const flags = ['--annotation', `${VFIO_ANNOTATION}=vfio`];
      expectProbed(await probe(stock, 'stock', names, flags), names);
      await restored();
      expect(await stock.leaks()).toEqual([]);
    } finally {
      await stock.stop();
    }
  });
});
