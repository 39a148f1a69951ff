import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { makeRootfs } from '../lib/image.ts';
import { machineDirectories, vm } from './machines.ts';

const namespaces = ['network', 'pid', 'mount', 'ipc', 'uts'].map((type) => ({ type }));
const without = (name: string): object => ({ namespaces: namespaces.filter(({ type }) => type !== name) });

/** What this wall cannot give is one sentence with the wall that can, and nothing is left. */
describe('what the vm wall refuses', () => {
  let containerd: PrivateContainerd;
  let rootfs: string;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
    rootfs = join(containerd.dir, 'rootfs');
    mkdirSync(rootfs);
    await makeRootfs(rootfs);
  });
  afterAll(() => containerd?.stop());

  const bind = (source: string, options: string[] = ['rbind']): object => ({
    mounts: [{ source, destination: '/mnt', type: 'bind', options }],
  });
  const cases: readonly (readonly [string, object, RegExp])[] = [
    ['the network of the host', { linux: without('network') }, /host's network namespace.*namespace wall/],
    ['the processes of the host', { linux: without('pid') }, /host's pid namespace.*namespace wall/],
    [
      'a namespace of the host',
      {
        linux: {
          namespaces: [
            ...namespaces.filter(({ type }) => type !== 'ipc'),
            { type: 'ipc', path: '/proc/1/ns/ipc' },
          ],
        },
      },
      /\/proc\/1\/ns\/ipc: is not of the same virtual machine/,
    ],
    [
      'a device',
      { linux: { namespaces, devices: [{ path: '/dev/fuse', type: 'c', major: 10, minor: 229 }] } },
      /device \/dev\/fuse: the vm wall hands no devices of the host over.*namespace wall/,
    ],
    [
      'a function that is not there',
      { annotations: { 'cdi.k8s.io/test': 'bulkhead.io/vfio=ffff:00:00.0' } },
      /PCI function ffff:00:00\.0: not on this host; see what there is with: bulkhead devices/,
    ],
    [
      'a VFIO node of no function',
      { linux: { namespaces, devices: [{ path: '/dev/vfio/9999', type: 'c', major: 511, minor: 9999 }] } },
      /device \/dev\/vfio\/9999: no function that is bound to vfio-pci on this host has this node/,
    ],
    [
      'a GPU of the host’s driver',
      { linux: { namespaces, devices: [{ path: '/dev/nvidia0', type: 'c', major: 195, minor: 0 }] } },
      /device \/dev\/nvidia0: the vm wall hands no devices of the host over.*namespace wall/,
    ],
    ['a device as a volume', bind('/dev/null'), /\/dev\/null is a character device of the host/],
    ['the sysfs of the host', bind('/sys/kernel'), /\/sys\/kernel is the host's kernel/],
    ['mounts that come back', bind('/tmp', ['rbind', 'rshared']), /cannot be seen on the host/],
    [
      'a seccomp listener',
      {
        linux: {
          namespaces,
          seccomp: { defaultAction: 'SCMP_ACT_ALLOW', listenerPath: '/run/l.sock' },
        },
      },
      /listenerPath/,
    ],
    [
      'more memory than a machine may have',
      { linux: { namespaces, resources: { memory: { limit: 64 * 2 ** 30 } } } },
      /above the largest machine/,
    ],
  ];

  it.each(cases)('%s', async (name, changes, sentence) => {
    const id = name.replace(/\W+/g, '-');
    const file = join(containerd.dir, `${id}.json`);
    const config = {
      ociVersion: '1.0.2',
      process: { user: { uid: 0, gid: 0 }, args: ['/bin/true'], env: ['PATH=/bin'], cwd: '/' },
      root: { path: rootfs },
      mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
      linux: { namespaces },
      ...changes,
    };
    writeFileSync(file, JSON.stringify(config));
    const result = await containerd.ctr(['run', '--rm', '--runtime', vm, '--config', file, id]);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toMatch(sentence);
    expect(result.stderr.trim().split('\n')).toHaveLength(1);
    await containerd.ctr(['container', 'rm', id]);
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });

  it('functions of the host for a pod that runs', async () => {
    const group = ['--annotation', 'io.containerd.runc.v2.group=first'];
    await containerd.detached('first', ['sleep', '1000'], group);
    const device = ['--annotation', 'cdi.k8s.io/x=bulkhead.io/vfio=ffff:00:00.0'];
    const second = await containerd.run('second', ['true'], { flags: ['--rm', ...group, ...device] });
    expect(second.stderr).toContain(
      'create second: device ffff:00:00.0: the pod’s machine runs already, and takes functions of the host only when it starts; ask for them with the pod’s first container',
    );
    expect((await containerd.exec('first', 'alive', ['true'])).code).toBe(0);
    await containerd.remove('first');
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});

/** Where there is such a device the lab's tests use it (vsock.lab.test.ts). */
describe.skipIf(existsSync('/dev/vhost-vsock'))('a channel by vsock', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm, vmConfig: 'channel = "vsock"\n' });
  }, 180_000);
  afterAll(() => containerd?.stop());

  it('is refused where the host has no device for it', async () => {
    const result = await containerd.run('web', ['true'], { flags: ['--rm'] });
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain(
      'create web: /dev/vhost-vsock: no such device; load it with `modprobe vhost_vsock`, or configure vm.channel = "serial"',
    );
    await containerd.ctr(['container', 'rm', 'web']);
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});
