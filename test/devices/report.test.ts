import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseCdiSpec } from '../../src/devices/cdi/parse.ts';
import { CdiRegistry } from '../../src/devices/cdi/registry.ts';
import { gpuSharingChecks, gpuVmChecks } from '../../src/devices/gpu/checks.ts';
import { nvidiaSpec } from '../../src/devices/gpu/contribute.ts';
import { probeGpus } from '../../src/devices/gpu/probe.ts';
import { readClaims } from '../../src/devices/journal.ts';
import { readMachine } from '../../src/devices/machine.ts';
import type { Machine, Refusal } from '../../src/devices/model.ts';
import { pmemChecks } from '../../src/devices/pmem/checks.ts';
import { deviceReport } from '../../src/devices/report.ts';
import { FakeTree } from '../../src/devices/testing/fake_tree.ts';
import { vfioChecks } from '../../src/devices/vfio/checks.ts';
import { CLAIMS, machines, stuck } from './machines.ts';

const staleSpec = JSON.stringify({
  cdiVersion: '0.5.0',
  kind: 'nvidia.com/gpu',
  devices: [{ name: '0', containerEdits: { deviceNodes: [{ path: '/dev/nvidia0' }] } }],
  containerEdits: {
    mounts: [{ hostPath: '/usr/lib/libcuda.so.550.54', containerPath: '/usr/lib/libcuda.so.550.54' }],
  },
});

const registryOf = async (name: string): Promise<CdiRegistry> => {
  if (name !== 'stale-cdi-spec') return new CdiRegistry([], new Map());
  const path = '/etc/cdi/nvidia.yaml';
  return new CdiRegistry(
    [{ path, priority: 0, spec: await parseCdiSpec(staleSpec, 'json', path) }],
    new Map(),
  );
};

const machineOf = (name: string, arch = 'x64'): Machine => {
  const host = new FakeTree(machines[name]);
  return { ...readMachine(host, arch), claims: readClaims(host, CLAIMS), stuck: stuck[name] };
};

describe('what a node can pass to which wall', () => {
  it.each(Object.keys(machines))('%s', async (name) => {
    const machine = machineOf(name);
    const report = deviceReport({
      machine,
      registry: await registryOf(name),
      walls: ['namespace', 'vm', 'sentry'],
    });
    await expect(`${JSON.stringify(report, null, 2)}\n`).toMatchFileSnapshot(
      join(import.meta.dirname, 'golden', `${name}.json`),
    );
  });

  it('says of a build without a virtual machine that it has none', async () => {
    const machine = machineOf('one-gpu');
    const report = deviceReport({ machine, registry: await registryOf(''), walls: ['namespace'] });
    expect(report.devices[0]?.walls.vm).toEqual({
      ok: false,
      why: [
        {
          check: 'wall-absent',
          sentence: 'this build has no vm wall that takes devices',
          fix: 'use the namespace wall',
        },
      ],
    });
  });

  it('trusts the interrupt controller of arm64', async () => {
    const machine = machineOf('no-interrupt-remapping', 'arm64');
    const report = deviceReport({ machine, registry: await registryOf(''), walls: ['vm'] });
    expect(report.devices[0]?.walls.vm).toEqual({ ok: true, as: 'vfio' });
  });
});

const refusals = async (name: string): Promise<Refusal[]> => {
  const machine = machineOf(name);
  const report = deviceReport({
    machine,
    registry: await registryOf(name),
    walls: ['namespace', 'vm', 'sentry'],
  });
  return report.devices.flatMap(({ walls }) =>
    [walls.namespace, walls.vm, walls.sentry].flatMap(({ why = [] }) => why),
  );
};
const sentences = async (name: string): Promise<string[]> =>
  (await refusals(name)).map(({ check, sentence }) => `${check}: ${sentence}`);

describe('refusals, word by word', () => {
  it.each([
    [
      'no-iommu',
      'iommu-off: GPU 0000:41:00.0: cannot pass by VFIO: IOMMU is off (no /sys/kernel/iommu_groups/*)',
    ],
    [
      'audio-in-the-group',
      'group-not-viable: GPU 0000:41:00.0: cannot pass by VFIO: IOMMU group 40 is not viable: 0000:41:00.1 (audio function, snd_hda_intel) is bound to a host driver',
    ],
    [
      'no-interrupt-remapping',
      'interrupt-remapping: GPU 0000:41:00.0: cannot pass by VFIO: interrupt remapping missing; VFIO_SET_IOMMU would fail with EPERM',
    ],
    [
      'lab',
      'interrupt-remapping: Ethernet controller 0000:01:10.0: cannot pass by VFIO: interrupt remapping missing; VFIO_SET_IOMMU would fail with EPERM',
    ],
    ['claimed', 'claimed: GPU 0000:41:00.0: cannot share it with a container: claimed by k8s.io/web'],
    [
      'small-address-space',
      'bar-too-large: GPU 0000:41:00.0: cannot pass by VFIO: BAR1 is 128 GiB; guest phys-bits 40 allow 64 GiB',
    ],
    [
      'gpu-in-use',
      'in-use: GPU 0000:41:00.0: device is in use by process 1234 (nvidia-persiste); unbinding would block until it is closed',
    ],
    [
      'pmem-in-every-mode',
      'map-sync: PMEM volume /mnt/p: MAP_SYNC not supported (filesystem mounted without dax); writes would not be durable',
    ],
    [
      'pmem-in-every-mode',
      'pmem-in-use: PMEM namespace7.0: the host has its file system mounted at /srv, and a guest would need it for itself',
    ],
    [
      'pmem-in-every-mode',
      'pmem-not-mounted: PMEM namespace4.0: a guest gets a file of a file system on /dev/pmem4, and none is mounted',
    ],
    ['pmem-in-every-mode', 'pmem-no-driver: PMEM namespace6.0: no driver has taken it'],
    [
      'lab',
      'pmem-misaligned: PMEM namespace1.0: no driver can map it: region1 at 0x10ffe0000, namespace of 0x10000000 bytes, not multiples of the alignment 0x1000000',
    ],
    [
      'stale-cdi-spec',
      'cdi-stale: CDI spec /etc/cdi/nvidia.yaml is for driver 550.54 but 570.86.15 is loaded; regenerate',
    ],
    [
      'gpu-without-driver',
      'vfio-not-loaded: GPU 0000:41:00.0: cannot pass by VFIO: the driver vfio-pci is not loaded',
    ],
    [
      'gpu-without-driver',
      'driver-missing: GPU 0000:41:00.0: cannot share it with a container: no driver is bound, not to nvidia',
    ],
    [
      'gpu-for-vfio',
      'driver-missing: GPU 0000:41:00.0: cannot share it with a container: it is bound to vfio-pci, not to nvidia',
    ],
    [
      'uvm-not-loaded',
      'uvm-missing: GPU 0000:41:00.0: cannot share it with a container: nvidia-uvm is not loaded; CUDA would fail',
    ],
    [
      'nvswitch-without-fabric-manager',
      'fabric-manager: GPU 0000:41:00.0: cannot share it with a container: this machine has NVSwitches and the fabric manager does not run; CUDA would fail',
    ],
    [
      'root-disk',
      'host-uses-it: NVMe controller 0000:04:00.0: cannot pass by VFIO: the host uses it: /, swap',
    ],
    [
      'two-numa-nodes',
      'host-uses-it: Ethernet controller 0000:21:00.0: cannot pass by VFIO: the host uses it: the default route, over eth0',
    ],
    ...[
      '0000:04:00.0: cannot pass by VFIO: the host uses it: /srv/two words on dm-0 (LVM vg--one-srv) on md0 (raid1) on nvme0n1, /srv on dm-0 (LVM vg--one-srv) on md0 (raid1) on nvme0n1, swap on dm-2 (dm-crypt secret) on dm-1 (LVM vg--one-keys) on md0 (raid1) on nvme0n1',
      '0000:05:00.0: cannot pass by VFIO: the host uses it: /srv/two words on dm-0 (LVM vg--one-srv) on md0 (raid1) on nvme1n1p3, /srv on dm-0 (LVM vg--one-srv) on md0 (raid1) on nvme1n1p3, swap on dm-2 (dm-crypt secret) on dm-1 (LVM vg--one-keys) on md0 (raid1) on nvme1n1p3',
      '0000:06:00.0: cannot pass by VFIO: the host uses it: loop0 on nvme2n1',
      '0000:07:00.0: cannot pass by VFIO: the host uses it: /data of process 77, process 78 (postgres) on nvme3n1',
      '0000:08:00.0: cannot pass by VFIO: the host uses it: /multi',
      '0000:0b:00.0: cannot pass by VFIO: the host uses it: /many (btrfs) on nvme8n1',
      '0000:0c:00.0: cannot pass by VFIO: the host uses it: ZFS pool tank on nvme9n1p1',
    ].map((text): [string, string] => ['disks-below-others', `host-uses-it: NVMe controller ${text}`]),
    ...[
      '0000:21:00.0: cannot pass by VFIO: the host uses it: the default route, over br0 on bond0 on eth0',
      '0000:22:00.0: cannot pass by VFIO: the host uses it: the default route, over br0 on bond0 on eth1',
      '0000:23:00.0: cannot pass by VFIO: the host uses it: team0 on eth2',
      '0000:24:00.0: cannot pass by VFIO: the host uses it: addresses of eth3.100 on eth3',
      '0000:25:00.0: cannot pass by VFIO: the host uses it: addresses of eth4',
      '0000:26:00.0: cannot pass by VFIO: the host uses it: the default route, over eth5',
      '0000:27:00.0: cannot pass by VFIO: the host uses it: its network interface is in another network namespace, of a container or a program',
    ].map((text): [string, string] => ['networks-above', `host-uses-it: Ethernet controller ${text}`]),
    [
      'lab',
      'host-uses-it: NVMe controller 0000:03:00.0: cannot pass by VFIO: the host uses it: its virtual functions 0000:03:00.1',
    ],
    ['one-gpu', 'wall: GPU 0000:41:00.0: the sentry wall passes no devices of the host'],
    ['root-disk', 'wall: NVMe controller 0000:04:00.0: the sentry wall passes no devices of the host'],
    ['pmem-in-every-mode', 'wall: PMEM namespace0.0: the sentry wall passes no devices of the host'],
    [
      'amd-and-intel',
      'in-use: GPU 0000:00:02.0: device is in use by process 9 (systemd-logind), 900 (Xorg); unbinding would block until it is closed',
    ],
    [
      'dying-devices',
      'unresponsive: NVMe controller 0000:05:00.0: cannot pass by VFIO: the kernel does not answer for it: a driver holds its lock, or the device is dying',
    ],
    [
      'dying-devices',
      'unresponsive: GPU 0000:41:00.0: cannot share it with a container: the kernel does not answer for it: a driver holds its lock, or the device is dying',
    ],
    ['claimed', 'claimed: Ethernet controller 0000:42:00.0: cannot pass by VFIO: claimed by k8s.io/web'],
    [
      'claimed',
      'claimed: Ethernet controller 0000:42:00.1: cannot pass by VFIO: IOMMU group 42 is claimed by k8s.io/web, which has 0000:42:00.0',
    ],
    ['claimed', 'claimed: Ethernet controller 0000:43:00.0: cannot pass by VFIO: claimed by cli/spdk'],
    [
      'claimed',
      'claimed: Ethernet controller 0000:44:00.0: cannot pass by VFIO: the driver that was to let go of it has not done so yet',
    ],
    [
      'no-iommu-group',
      'no-iommu-group: GPU 0000:41:00.0: cannot pass by VFIO: it is in no IOMMU group: no IOMMU translates for it',
    ],
    [
      'vfio-in-use',
      'in-use: GPU 0000:41:00.0: device is in use by process 71 (qemu-system-x86); unbinding would block until it is closed',
    ],
    [
      'vfio-in-use',
      'in-use: Ethernet controller 0000:42:00.0: device is in use by process 72 (spdk_tgt), 73 (dpdk-testpmd); unbinding would block until it is closed',
    ],
    [
      'gpu-node-missing',
      'node-missing: GPU 0000:41:00.0: cannot share it with a container: /dev/nvidia0 is not there',
    ],
    [
      'another-maker',
      'driver-missing: GPU 0000:06:00.0: cannot share it with a container: no driver for this maker’s GPUs is known',
    ],
  ])('%s: %s', async (name, sentence) => {
    expect(await sentences(name)).toContain(sentence);
  });

  it('are here for every check that there is', async () => {
    const all = [...vfioChecks, ...gpuSharingChecks, ...gpuVmChecks, ...pmemChecks].map(({ name }) => name);
    const seen = (await Promise.all(Object.keys(machines).map(sentences))).flat();
    for (const name of all) expect(seen).toContainEqual(expect.stringMatching(new RegExp(`^${name}: `)));
  });

  it('each name what would change them', async () => {
    const all = (await Promise.all(Object.keys(machines).map(refusals))).flat();
    for (const { fix } of all) expect(fix).toMatch(/\S/);
  });

  it.each([
    [
      'no-iommu',
      'turn the IOMMU (VT-d, AMD-Vi, SMMU) on in the firmware, on Intel add intel_iommu=on to the kernel command line, and reboot',
    ],
    [
      'no-iommu-group',
      'turn VT-d or AMD-Vi on for every slot in the firmware, or put the card into another slot',
    ],
    ['gpu-without-driver', 'modprobe vfio-pci'],
    ['gpu-without-driver', 'modprobe nvidia'],
    [
      'secure-boot',
      'modprobe nvidia (the kernel is locked down: the module must be signed with a key of mokutil --list-enrolled)',
    ],
    [
      'gpu-for-vfio',
      'echo > /sys/bus/pci/devices/0000:41:00.0/driver_override && echo 0000:41:00.0 > /sys/bus/pci/devices/0000:41:00.0/driver/unbind && echo 0000:41:00.0 > /sys/bus/pci/drivers_probe',
    ],
    [
      'audio-in-the-group',
      'echo vfio-pci > /sys/bus/pci/devices/0000:41:00.1/driver_override && echo 0000:41:00.1 > /sys/bus/pci/devices/0000:41:00.1/driver/unbind && echo 0000:41:00.1 > /sys/bus/pci/drivers_probe',
    ],
    [
      'no-interrupt-remapping',
      'turn interrupt remapping on in the firmware and remove intremap=off, or, with guests that are trusted: modprobe vfio_iommu_type1 allow_unsafe_interrupts=1',
    ],
    ['pmem-in-every-mode', 'mkfs.ext4 -b 4096 /dev/pmem4 && mount -o dax=always /dev/pmem4 /mnt'],
    ['small-address-space', 'run on a processor with more address bits (KVM, not TCG)'],
    [
      'resizable-bar',
      'echo 0000:41:00.0 > /sys/bus/pci/devices/0000:41:00.0/driver/unbind && echo 14 > /sys/bus/pci/devices/0000:41:00.0/resource1_resize, or run on a processor with more address bits (KVM, not TCG)',
    ],
    ['root-disk', 'boot from another disk'],
    ['two-numa-nodes', 'ip route delete default dev eth0'],
    [
      'disks-below-others',
      "umount '/srv/two words' && umount /srv && lvchange --activate n vg-one/srv && swapoff /dev/dm-2 && cryptsetup close secret && lvchange --activate n vg-one/keys && mdadm --stop /dev/md0",
    ],
    ['disks-below-others', 'losetup --detach /dev/loop0'],
    ['disks-below-others', 'umount --namespace 77 /data && kill 78'],
    ['disks-below-others', 'umount /multi'],
    ['disks-below-others', 'umount /many'],
    ['disks-below-others', 'zpool export tank'],
    ['networks-above', 'ip link set dev eth0 nomaster'],
    ['networks-above', 'ip link set dev eth2 nomaster'],
    ['networks-above', 'ip link delete dev eth3.100'],
    ['networks-above', 'ip address flush dev eth4'],
    ['networks-above', 'ip -6 route delete default dev eth5'],
    ['networks-above', 'end what has it (lsns --type net names the namespaces)'],
    ['disks-below-others', 'stop what uses /dev/bcache0'],
    ['lab', 'echo 0 > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs'],
    ['gpu-in-use', 'kill 1234'],
    ['vfio-in-use', 'kill 72 73'],
    ['gpu-node-missing', 'nvidia-modprobe -c 0 -u'],
    ['claimed', 'delete container web of namespace k8s.io, or name another function'],
    ['amd-and-intel', 'systemctl isolate multi-user.target'],
    ['amd-and-intel', 'kill 901'],
    ['claimed', 'bulkhead delete --force spdk'],
    ['claimed', 'end the processes that have it open, and try again'],
    ['another-maker', 'pass it whole: --device bulkhead.io/vfio=0000:06:00.0'],
    ['uvm-not-loaded', 'nvidia-modprobe -u'],
    ['nvswitch-without-fabric-manager', 'systemctl start nvidia-fabricmanager'],
    ['stale-cdi-spec', 'bulkhead devices cdi generate --kind nvidia.com/gpu --output /etc/cdi/nvidia.yaml'],
    ['pmem-in-every-mode', 'umount /srv'],
    ['pmem-in-every-mode', 'umount /mnt/p && mount -o dax=always /dev/pmem3 /mnt/p'],
    ['pmem-in-every-mode', 'modprobe device_dax'],
  ])('%s: %s', async (name, fix) => {
    expect((await refusals(name)).map((refusal) => refusal.fix)).toContain(fix);
  });

  it('let go what nobody uses: a disk with another way to it, an interface with its link’s address alone', async () => {
    const all = [...(await sentences('disks-below-others')), ...(await sentences('networks-above'))];
    expect(all.filter((text) => /^host.*0000:(?:09|28):00/.test(text))).toEqual([]);
  });

  it('say once of what a container has: whose it is', async () => {
    expect((await sentences('claimed')).filter((text) => text.startsWith('in-use'))).toEqual([]);
  });

  it('refuses nothing that a good machine can do', async () => {
    expect((await sentences('one-gpu')).filter((text) => !text.startsWith('wall:'))).toEqual([]);
  });
});

describe('CDI specs made from the driver', () => {
  it.each(['one-gpu', 'mig', 'eight-gpus-nvswitch'])('%s', async (name) => {
    const host = new FakeTree(machines[name]);
    const spec = nvidiaSpec(probeGpus(readMachine(host, 'x64')), host);
    const text = `${JSON.stringify(spec, null, 2)}\n`;
    await expect(text).toMatchFileSnapshot(join(import.meta.dirname, 'golden', `cdi-${name}.json`));
    // What is generated is what our own strict parser takes.
    await expect(parseCdiSpec(text, 'json', 'generated')).resolves.toEqual(spec);
  });

  it('makes none without a driver', () => {
    const host = new FakeTree(machines['gpu-without-driver']);
    expect(nvidiaSpec(probeGpus(readMachine(host, 'x64')), host)).toBeUndefined();
  });
});
