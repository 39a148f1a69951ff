import type { Mount, NamespaceType, ParsedSpec } from './types.ts';
import { OCI_VERSION } from './types.ts';

const keptCapabilities = ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE'];

const defaultMounts: Mount[] = [
  { destination: '/proc', type: 'proc', source: 'proc' },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  {
    destination: '/dev/shm',
    type: 'tmpfs',
    source: 'shm',
    options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'],
  },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  {
    destination: '/sys/fs/cgroup',
    type: 'cgroup',
    source: 'cgroup',
    options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'],
  },
];

export interface DefaultSpecOptions {
  /** The host has nothing but cgroup v2: the container gets a cgroup namespace. */
  cgroupNamespace?: boolean;
  /** For a user who is not root: user namespace with one id, no network namespace, /sys of the host, no limits. */
  rootless?: { uid: number; gid: number };
}

/** The config.json that `bulkhead spec` writes; the same content as runc's, so that scripts which edit it work. */
export function defaultSpec(options: DefaultSpecOptions = {}): ParsedSpec {
  const types: NamespaceType[] = ['pid', 'network', 'ipc', 'uts', 'mount'];
  if (options.cgroupNamespace === true) types.push('cgroup');
  const spec: ParsedSpec = {
    ociVersion: OCI_VERSION,
    process: {
      terminal: true,
      user: { uid: 0, gid: 0 },
      args: ['sh'],
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'TERM=xterm'],
      cwd: '/',
      capabilities: {
        bounding: [...keptCapabilities],
        effective: [...keptCapabilities],
        permitted: [...keptCapabilities],
      },
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: 'rootfs', readonly: true },
    hostname: 'bulkhead',
    mounts: structuredClone(defaultMounts),
    linux: {
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      namespaces: types.map((type) => ({ type })),
      maskedPaths: [
        '/proc/acpi',
        '/proc/asound',
        '/proc/kcore',
        '/proc/keys',
        '/proc/latency_stats',
        '/proc/timer_list',
        '/proc/timer_stats',
        '/proc/sched_debug',
        '/sys/firmware',
        '/proc/scsi',
      ],
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
  };
  return options.rootless === undefined ? spec : rootless(spec, options.rootless);
}

/** What an unprivileged user cannot have goes: network namespace, limits, foreign ids in mount options, sysfs. */
function rootless(spec: ParsedSpec, user: { uid: number; gid: number }): ParsedSpec {
  const { resources: _limits, ...linux } = spec.linux;
  const kept = (linux.namespaces ?? []).filter(({ type }) => type !== 'network' && type !== 'user');
  const sys: Mount = {
    destination: '/sys',
    type: 'none',
    source: '/sys',
    options: ['rbind', 'nosuid', 'noexec', 'nodev', 'ro'],
  };
  return {
    ...spec,
    mounts: (spec.mounts ?? []).map((mount) => {
      if (mount.destination === '/sys') return sys;
      if (mount.options === undefined) return mount;
      return { ...mount, options: mount.options.filter((option) => !/^[ug]id=/.test(option)) };
    }),
    linux: {
      ...linux,
      namespaces: [...kept, { type: 'user' }],
      uidMappings: [{ containerID: 0, hostID: user.uid, size: 1 }],
      gidMappings: [{ containerID: 0, hostID: user.gid, size: 1 }],
    },
  };
}
