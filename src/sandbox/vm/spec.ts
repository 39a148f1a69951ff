/**
 * The configuration that a container has inside its guest: config.json without what is the host's, and with the paths
 * of the share in place of the host's. Pure; what kind of file a path is, is asked of `inspect`. What this wall cannot
 * give is refused here, by name and with the wall that can.
 */
import { MOUNT_ATTR_RDONLY } from '../../base/constants.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { parseMountOptions } from '../../oci/mount_options.ts';
import { cleanAbsolute, isBelow, resolveFrom } from '../../oci/paths.ts';
import type {
  Hooks,
  Linux,
  LinuxDevice,
  LinuxNamespace,
  LinuxResources,
  Mount,
  NamespaceType,
  Process,
  Spec,
} from '../../oci/types.ts';
import { isBind } from '../../oci/validate/checks_mounts.ts';
import type { HostDevice } from './images.ts';
import { shareDirectory } from './layout.ts';
import { wantedNodes, type WantedNode } from './nodes.ts';
import type { GuestPlaces } from './pod_agent.ts';
import { bindOptions, imageVolume, type HostImage, type Volume } from './storage.ts';

export type FileKind =
  'file' | 'directory' | 'socket' | 'fifo' | 'character device' | 'block device' | 'missing';

export interface GuestSpecInput {
  id: string;
  spec: Spec;
  /** Relative sources of mounts start here. */
  bundle: string;
  /** Of the container in its sandbox. */
  serial: number;
  /** The pod's first container, for one that joins it: the pid that the host knows, and the guest's. */
  sandbox?: { hostPid: number; guestPid: number } | undefined;
  places: Pick<GuestPlaces, 'share' | 'shm'>;
  inspect: (path: string) => FileKind;
  /** What is in the way of an image's path; undefined when it is neither a block device nor a file. */
  image: (path: string) => HostImage | undefined;
  /** The block device or device-DAX behind a node; undefined when it is another kind of device. */
  device: (node: LinuxDevice) => HostDevice | undefined;
}

/** A file or directory of the host that the container sees, and nothing more of it than that. */
export interface Share {
  /** Below the container's directory in the share. */
  name: string;
  /** Absolute, on the host. */
  source: string;
  /** With what is mounted in it. */
  recursive: boolean;
  readOnly: boolean;
  /** Also what is mounted in it. */
  readOnlyBelow: boolean;
  /** What is mounted in it on the host later comes along (option slave). */
  follows: boolean;
}

export interface GuestSpec {
  spec: Spec;
  shares: Share[];
  /** Images of the host that the guest mounts itself; a mount's source is where. */
  volumes: Volume[];
  /** Devices that the guest has as its own; they are not in the configuration until it has found them. */
  nodes: WantedNode[];
  /** Host path of the tmpfs that is the pod's /dev/shm elsewhere; the guest has its own of that size. */
  shm: string | undefined;
}

const needed: readonly NamespaceType[] = ['pid', 'network', 'ipc', 'uts'];
const plainDevices = new Set(['null', 'zero', 'full', 'random', 'urandom', 'tty', 'ptmx', 'console']);

/** @throws RuntimeError FailedPrecondition for what this wall does not give */
export function guestSpec(input: GuestSpecInput): GuestSpec {
  const { id, spec } = input;
  const nodes = hostNodes(input);
  refuseHostAccess(id, spec);
  const shares: Share[] = [];
  const volumes: Volume[] = [];
  let shm: string | undefined;
  const mounts = (spec.mounts ?? []).map((mount, index) => {
    if (!isBind(mount)) return volumeMount(input, mount, volumes) ?? localMount(id, mount);
    if (isSharedMemory(mount)) {
      shm = mount.source;
      return { ...mount, source: input.places.shm };
    }
    return bindMount(input, mount, index, shares);
  });
  const { startContainer } = spec.hooks ?? {};
  return {
    spec: {
      ...spec,
      ...(spec.process === undefined ? {} : { process: guestProcess(spec.process) }),
      mounts,
      hooks: startContainer === undefined ? {} : { startContainer },
      linux: guestLinux(input),
    },
    shares,
    volumes,
    nodes,
    shm,
  };
}

/** A process, a container's first or an exec: labels are those of the host's security modules. */
export function guestProcess(process: Process): Process {
  const { apparmorProfile: _profile, selinuxLabel: _label, ...rest } = process;
  return rest;
}

/** Limits that mean something in the guest. CPUs and memory nodes are numbered otherwise there; devices are others. */
export function guestResources({
  cpu,
  blockIO: _io,
  network: _network,
  rdma: _rdma,
  ...rest
}: LinuxResources): LinuxResources {
  const { hugepageLimits: _pages, ...resources } = rest;
  if (cpu === undefined) return resources;
  const { cpus: _cpus, mems: _mems, realtimePeriod: _period, realtimeRuntime: _runtime, ...own } = cpu;
  return { ...resources, cpu: own };
}

/** createContainer hooks run on the host as well: in the guest there is nothing of what they could prepare. */
export function hostHooks(hooks: Hooks = {}): Hooks {
  const { createContainer = [], createRuntime = [], startContainer: _start, ...rest } = hooks;
  return { ...rest, createRuntime: [...createRuntime, ...createContainer] };
}

function guestLinux({ id, spec, sandbox }: GuestSpecInput): Linux {
  const {
    mountLabel: _label,
    intelRdt: _rdt,
    memoryPolicy: _policy,
    netDevices,
    ...linux
  } = spec.linux ?? {};
  if (Object.keys(netDevices ?? {}).length > 0) {
    refuse(
      id,
      'config.json: linux.netDevices',
      'the vm wall moves no network devices of the host',
      'namespace',
    );
  }
  return {
    ...linux,
    ...(linux.devices === undefined ? {} : { devices: linux.devices.filter(isPlain) }),
    resources: guestResources(linux.resources ?? {}),
    namespaces: guestNamespaces(id, linux.namespaces ?? [], sandbox),
  };
}

function isPlain({ path }: LinuxDevice): boolean {
  return plainDevices.has(path.replace(/^\/dev\//, ''));
}

function hostNodes({ id, spec: { linux = {} }, device }: GuestSpecInput): WantedNode[] {
  const others = (linux.devices ?? []).filter((node) => !isPlain(node));
  const wanted = wantedNodes(id, others, device);
  const refused = others.find((node) => !wanted.some((each) => each.node === node));
  if (refused !== undefined) {
    refuse(id, `device ${refused.path}`, 'the vm wall hands no devices of the host over', 'namespace');
  }
  return wanted;
}

function refuseHostAccess(id: string, { linux = {} }: Spec): void {
  const types = new Set((linux.namespaces ?? []).map(({ type }) => type));
  for (const type of needed) {
    if (types.has(type)) continue;
    const reason = `the vm wall does not share the host's ${type} namespace`;
    refuse(id, 'config.json: linux.namespaces', reason, 'namespace');
  }
  if ((linux.seccomp?.listenerPath ?? '') !== '') {
    const reason = 'a listener on the host cannot look into a process of the guest';
    refuse(id, 'config.json: linux.seccomp.listenerPath', reason, 'namespace');
  }
}

/**
 * The pod's network is the guest's own. Other namespaces of the pod's first container are joined by its pid in the
 * guest; containerd names them by the pid that it knows.
 */
function guestNamespaces(
  id: string,
  given: readonly LinuxNamespace[],
  sandbox: GuestSpecInput['sandbox'],
): LinuxNamespace[] {
  const namespaces = given
    .filter(({ type }) => type !== 'network')
    .map(({ type, path = '' }): LinuxNamespace => {
      if (path === '') return { type };
      const [, pid, file] = /^\/proc\/([1-9]\d*)\/ns\/(\w+)$/.exec(path) ?? [];
      if (pid !== undefined && sandbox !== undefined && Number(pid) === sandbox.hostPid) {
        return { type, path: `/proc/${sandbox.guestPid}/ns/${file}` };
      }
      return refuse(id, `namespace ${path}`, 'is not of the same virtual machine', 'namespace');
    });
  if (!namespaces.some(({ type }) => type === 'cgroup')) namespaces.push({ type: 'cgroup' });
  return namespaces;
}

/** The tmpfs that CRI and nerdctl make for a pod's shared memory: the guest has one of its own. */
function isSharedMemory({ destination, source = '' }: Mount): boolean {
  return cleanAbsolute(destination) === '/dev/shm' && /\/(shm|dev-shm)$/.test(source);
}

/** A file system in a block device or file of the host; undefined for other mounts. */
function volumeMount({ id, image }: GuestSpecInput, mount: Mount, volumes: Volume[]): Mount | undefined {
  const volume = imageVolume(id, `mount ${mount.destination}`, mount, image);
  if (volume === undefined) return undefined;
  volumes.push(volume);
  return { ...mount, type: 'bind', source: volume.target, options: bindOptions(mount.options) };
}

/** File systems that show a kernel's own things; they are the guest's. */
function localMount(id: string, mount: Mount): Mount {
  if (mount.type === 'hugetlbfs') {
    refuse(id, `mount ${mount.destination}`, 'the guest has no huge pages of its own', 'namespace');
  }
  return mount;
}

function bindMount(input: GuestSpecInput, mount: Mount, index: number, shares: Share[]): Mount {
  const { id, bundle, serial, places, inspect } = input;
  const source = resolveFrom(bundle, mount.source ?? '');
  const object = `mount ${mount.destination}`;
  // What shows the host's kernel, the guest has of its own.
  if (source === '/sys' || source === '/proc' || isBelow('/sys', source) || isBelow('/proc', source)) {
    return refuse(id, object, `${source} is the host's kernel`, 'namespace');
  }
  const kind = inspect(source);
  if (kind === 'missing') {
    throw new RuntimeError({
      code: ErrorCode.NotFound,
      op: 'create',
      id,
      object: `${object}: ${source}`,
      reason: 'no such file or directory',
      path: source,
      errno: 'ENOENT',
    });
  }
  if (kind === 'character device' || kind === 'block device') {
    refuse(id, object, `${source} is a ${kind} of the host`, 'namespace');
  }
  if (kind === 'socket' || kind === 'fifo') {
    refuse(id, object, `${source} is a ${kind} of the host, whose other end no guest reaches`, 'namespace');
  }
  const options = parseMountOptions(mount.options ?? []);
  if (options.propagation.some((change) => change.kind === 'shared')) {
    const reason = 'mounts made in the guest cannot be seen on the host (option shared)';
    refuse(id, object, reason, 'namespace');
  }
  const name = `m${index}`;
  const { attributes, recursiveAttributes, recursiveBind: recursive } = options;
  const readOnly = (attributes.set & MOUNT_ATTR_RDONLY) !== 0;
  const readOnlyBelow = (recursiveAttributes.set & MOUNT_ATTR_RDONLY) !== 0;
  const follows = options.propagation.at(-1)?.kind === 'slave';
  shares.push({ name, source, recursive, readOnly, readOnlyBelow, follows });
  return { ...mount, source: `${places.share}/${shareDirectory(serial)}/${name}` };
}

function refuse(id: string, object: string, reason: string, wall: string): never {
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object,
    reason,
    remedy: `use the ${wall} wall`,
  });
}
