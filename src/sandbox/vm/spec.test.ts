import { describe, expect, it } from 'vitest';
import { podSpec } from '../../../test/fakes/sandbox.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Linux, LinuxDevice, Mount, NamespaceType, Spec } from '../../oci/types.ts';
import type { HostDevice } from './images.ts';
import {
  guestProcess,
  guestResources,
  guestSpec,
  hostHooks,
  type FileKind,
  type GuestSpec,
  type GuestSpecInput,
} from './spec.ts';

const kinds: Record<string, FileKind> = {
  '/srv/data': 'directory',
  '/b/conf': 'file',
  '/run/s.sock': 'socket',
  '/run/fifo': 'fifo',
  '/dev/sda': 'block device',
  '/dev/ttyS0': 'character device',
};
const adapt = (spec: Spec, more: Partial<GuestSpecInput> = {}): GuestSpec =>
  guestSpec({
    id: 'c1',
    spec,
    bundle: '/b',
    serial: 3,
    inspect: (path) => kinds[path] ?? 'missing',
    image: (path) =>
      path === '/img' ? { kind: 'file', size: 4 << 20, identity: 'one', inUse: false } : undefined,
    places: { share: '/run/bulkhead/share', shm: '/run/bulkhead/shm' },
    device: () => undefined,
    ...more,
  });
const withMounts = (...mounts: Mount[]): GuestSpec => adapt(podSpec({ mounts }));
const withLinux = (linux: Linux): Spec => podSpec({ linux: { ...podSpec().linux, ...linux } });
const bind = (source: string, ...options: string[]): Mount => ({
  destination: '/m',
  type: 'bind',
  source,
  options: ['rbind', ...options],
});

function refusal(run: () => unknown): RuntimeError {
  try {
    run();
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('not refused');
}

describe('mounts', () => {
  it('of the host become names in the share, with what the host enforces', () => {
    const { spec, shares } = withMounts(bind('/srv/data', 'ro'), bind('conf', 'rro', 'rslave'));
    expect(spec.mounts?.map(({ source }) => source)).toEqual([
      '/run/bulkhead/share/c3/m0',
      '/run/bulkhead/share/c3/m1',
    ]);
    expect(shares).toEqual([
      {
        name: 'm0',
        source: '/srv/data',
        recursive: true,
        readOnly: true,
        readOnlyBelow: false,
        follows: false,
      },
      { name: 'm1', source: '/b/conf', recursive: true, readOnly: false, readOnlyBelow: true, follows: true },
    ]);
  });

  it('of images are the guest’s, by the volume’s place', () => {
    const { spec, shares, volumes } = withMounts({
      destination: '/d',
      type: 'ext4',
      source: '/img',
      options: ['noatime', 'data=ordered'],
    });
    expect(shares).toEqual([]);
    expect(volumes).toMatchObject([{ source: '/img', transport: 'block', data: ['data=ordered'] }]);
    expect(spec.mounts).toEqual([
      { destination: '/d', type: 'bind', source: volumes[0]?.target, options: ['bind', 'noatime'] },
    ]);
  });

  it('of kernels are the guest’s own, and so is /dev/shm', () => {
    const proc = { destination: '/proc', type: 'proc', source: 'proc' };
    const shm = { destination: '/dev/shm', type: 'bind', source: '/run/k8s/shm', options: ['rbind'] };
    const adapted = withMounts(proc, shm);
    expect(adapted.spec.mounts).toEqual([proc, { ...shm, source: '/run/bulkhead/shm' }]);
    expect(adapted.shm).toBe('/run/k8s/shm');
    expect(adapted.shares).toEqual([]);
  });

  it.each<[string, Mount, string]>([
    ['the host’s /sys', bind('/sys/fs/bpf'), "mount /m: /sys/fs/bpf is the host's kernel"],
    ['a disk', bind('/dev/sda'), 'mount /m: /dev/sda is a block device of the host'],
    ['a terminal', bind('/dev/ttyS0'), 'mount /m: /dev/ttyS0 is a character device of the host'],
    [
      'a socket',
      bind('/run/s.sock'),
      'mount /m: /run/s.sock is a socket of the host, whose other end no guest reaches',
    ],
    [
      'a fifo',
      bind('/run/fifo'),
      'mount /m: /run/fifo is a fifo of the host, whose other end no guest reaches',
    ],
    [
      'propagation to the host',
      bind('/srv/data', 'rshared'),
      'mount /m: mounts made in the guest cannot be seen on the host (option shared)',
    ],
    [
      'huge pages',
      { destination: '/h', type: 'hugetlbfs', source: 'none' },
      'mount /h: the guest has no huge pages of its own',
    ],
  ])('refuses %s', (_, mount, reason) => {
    const error = refusal(() => withMounts(mount));
    expect(error.code).toBe(ErrorCode.FailedPrecondition);
    expect(error.message).toBe(`create c1: ${reason}; use the namespace wall`);
  });

  it('names a source that is missing', () => {
    const error = refusal(() => withMounts(bind('/nowhere')));
    expect(error.code).toBe(ErrorCode.NotFound);
    expect(error.message).toBe('create c1: mount /m: /nowhere: no such file or directory');
  });
});

describe('namespaces', () => {
  it('lose the network, which is the guest’s own, and gain the cgroup', () => {
    const { spec } = adapt(podSpec());
    expect(spec.linux?.namespaces?.map(({ type }) => type)).toEqual(['pid', 'ipc', 'uts', 'mount', 'cgroup']);
  });

  it('of the pod’s first container are joined by its pid in the guest', () => {
    const types: NamespaceType[] = ['pid', 'ipc', 'uts', 'network'];
    const namespaces = types.map((type) => ({
      type,
      path: `/proc/77/ns/${type === 'network' ? 'net' : type}`,
    }));
    const { spec } = adapt(withLinux({ namespaces }), { sandbox: { hostPid: 77, guestPid: 9 } });
    expect(spec.linux?.namespaces?.slice(0, 3)).toEqual([
      { type: 'pid', path: '/proc/9/ns/pid' },
      { type: 'ipc', path: '/proc/9/ns/ipc' },
      { type: 'uts', path: '/proc/9/ns/uts' },
    ]);
  });

  it('of others are refused', () => {
    const namespaces = [...(podSpec().linux?.namespaces ?? [])];
    namespaces[0] = { type: 'pid', path: '/proc/78/ns/pid' };
    const error = refusal(() => adapt(withLinux({ namespaces }), { sandbox: { hostPid: 77, guestPid: 9 } }));
    expect(error.message).toBe(
      'create c1: namespace /proc/78/ns/pid: is not of the same virtual machine; use the namespace wall',
    );
  });

  it.each(['pid', 'network', 'ipc', 'uts'])('of the host are refused: %s', (missing) => {
    const namespaces = (podSpec().linux?.namespaces ?? []).filter(({ type }) => type !== missing);
    const error = refusal(() => adapt(withLinux({ namespaces })));
    expect(error.message).toBe(
      `create c1: config.json: linux.namespaces: the vm wall does not share the host's ${missing} namespace; use the namespace wall`,
    );
  });
});

describe('what the host has and a guest has not', () => {
  it.each<[string, Linux, string]>([
    [
      'a device',
      { devices: [{ path: '/dev/kvm', type: 'c', major: 10, minor: 232 }] },
      'device /dev/kvm: the vm wall hands no devices of the host over',
    ],
    [
      'a seccomp listener',
      { seccomp: { defaultAction: 'SCMP_ACT_ALLOW', listenerPath: '/run/s.sock' } },
      'config.json: linux.seccomp.listenerPath: a listener on the host cannot look into a process of the guest',
    ],
    [
      'a network device',
      { netDevices: { eth1: {} } },
      'config.json: linux.netDevices: the vm wall moves no network devices of the host',
    ],
  ])('is refused: %s', (_, linux, reason) => {
    const error = refusal(() => adapt(withLinux(linux)));
    expect(error.code).toBe(ErrorCode.FailedPrecondition);
    expect(error.message).toBe(`create c1: ${reason}; use the namespace wall`);
  });

  it('is left out: labels, and limits by the host’s numbers', () => {
    const process = { args: ['a'], cwd: '/', user: { uid: 0, gid: 0 } };
    expect(guestProcess({ ...process, apparmorProfile: 'p', selinuxLabel: 'l' })).toEqual(process);
    const kept = { memory: { limit: 5 }, pids: { limit: 3 } };
    const cpu = { shares: 4, quota: 2, cpus: '0-1', mems: '0', realtimeRuntime: 1 };
    const limits = { ...kept, cpu, blockIO: { weight: 10 }, hugepageLimits: [] };
    expect(guestResources(limits)).toEqual({ ...kept, cpu: { shares: 4, quota: 2 } });
  });

  it('is prepared by hooks there: createContainer’s run on the host, startContainer’s in the guest', () => {
    const hook = (path: string): { path: string } => ({ path });
    const hooks = {
      prestart: [hook('/p')],
      createRuntime: [hook('/r')],
      createContainer: [hook('/c')],
      startContainer: [hook('/s')],
    };
    expect(hostHooks(hooks)).toEqual({ prestart: [hook('/p')], createRuntime: [hook('/r'), hook('/c')] });
    expect(adapt(podSpec({ hooks })).spec.hooks).toEqual({ startContainer: [hook('/s')] });
  });
});

describe('nodes of config.json', () => {
  const node = (path: string, minor: number): LinuxDevice => ({ path, type: 'b', major: 8, minor });
  const disk = (source: string): HostDevice => ({
    source,
    image: { kind: 'block', size: 4 << 20, identity: source, inUse: false },
  });

  it('are all given, or refused by the name of the first that cannot be', () => {
    const devices = [node('/dev/sda', 0), node('/dev/null', 3), node('/dev/sdb', 16)];
    const device = ({ minor }: LinuxDevice): HostDevice => disk(`/dev/block${minor}`);
    const { nodes, spec } = adapt(withLinux({ devices }), { device });
    expect(nodes.map((each) => [each.node.path, each.volume.source])).toEqual([
      ['/dev/sda', '/dev/block0'],
      ['/dev/sdb', '/dev/block16'],
    ]);
    expect(spec.linux?.devices?.map(({ path }) => path)).toEqual(['/dev/null']);
    const some = ({ minor }: LinuxDevice): HostDevice | undefined =>
      minor === 0 ? disk('/dev/sda') : undefined;
    expect(refusal(() => adapt(withLinux({ devices }), { device: some })).message).toContain(
      'device /dev/sdb: the vm wall hands no devices of the host over',
    );
  });
});

it('a configuration without a process stays without one', () => {
  const { process: _, ...spec } = podSpec();
  expect(adapt(spec).spec.process).toBeUndefined();
  expect(adapt(podSpec()).spec.process).toMatchObject({ args: ['true'] });
});
