/**
 * The configuration that a container under the sentry wall really gets: config.json, and what the wall adds to it.
 * Pure. What the wall cannot give is refused here, by name and with the wall that can.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type {
  Linux,
  LinuxIDMapping,
  LinuxNamespace,
  Mount,
  NamespaceType,
  Process,
  Spec,
} from '../../oci/types.ts';
import { isBind } from '../../oci/validate/checks_mounts.ts';
import { RANGE_SIZE } from './ids.ts';

export interface SentrySpecInput {
  id: string;
  spec: Spec;
  /** Ids of the pod, for a configuration that has no user namespace of its own. */
  mapping: LinuxIDMapping[];
  /** Files of the host's /sys that programs need and that say nothing of the host but its processors. */
  sysFiles: readonly string[];
}

export interface SentrySpec {
  spec: Spec;
  /** The files of images and volumes have to be mapped: the user namespace is the wall's own idea. */
  mapped: boolean;
}

const needed: readonly NamespaceType[] = ['pid', 'mount', 'network', 'ipc', 'uts'];
/** A container that asks for one of these asks for the host. */
const privileged = ['CAP_SYS_ADMIN', 'CAP_SYS_MODULE', 'CAP_SYS_RAWIO', 'CAP_SYS_BOOT', 'CAP_BPF'];
const plainDevices = new Set(['null', 'zero', 'full', 'random', 'urandom', 'tty', 'ptmx', 'console']);

/** Parts of procfs that tell of the host; each is bound over with nothing. */
const masked = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/buddyinfo',
  '/proc/cmdline',
  '/proc/config.gz',
  '/proc/consoles',
  '/proc/devices',
  '/proc/diskstats',
  '/proc/driver',
  '/proc/dynamic_debug',
  '/proc/execdomains',
  '/proc/fb',
  '/proc/interrupts',
  '/proc/iomem',
  '/proc/ioports',
  '/proc/kallsyms',
  '/proc/kcore',
  '/proc/key-users',
  '/proc/keys',
  '/proc/kmsg',
  '/proc/kpagecgroup',
  '/proc/kpagecount',
  '/proc/kpageflags',
  '/proc/latency_stats',
  '/proc/locks',
  '/proc/mdstat',
  '/proc/misc',
  '/proc/modules',
  '/proc/mtrr',
  '/proc/pagetypeinfo',
  '/proc/partitions',
  '/proc/pressure',
  '/proc/sched_debug',
  '/proc/schedstat',
  '/proc/scsi',
  '/proc/slabinfo',
  '/proc/softirqs',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/version',
  '/proc/vmallocinfo',
  '/proc/vmstat',
  '/proc/zoneinfo',
  '/proc/sys/kernel/osrelease',
  '/proc/sys/kernel/version',
];
const readOnly = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger', '/proc/tty'];

/** @throws RuntimeError FailedPrecondition for what this wall does not give */
export function sentrySpec({ id, spec, mapping, sysFiles }: SentrySpecInput): SentrySpec {
  refuseHostAccess(id, spec);
  const linux = spec.linux ?? {};
  const given = linux.namespaces ?? [];
  const own = given.find(({ type }) => type === 'user');
  const mapped = own === undefined;
  const maps = mapped
    ? { uidMappings: mapping, gidMappings: mapping }
    : { uidMappings: linux.uidMappings ?? [], gidMappings: linux.gidMappings ?? [] };
  if (mapped) refuseForeignIds(id, spec);
  const adapted: Linux = {
    ...linux,
    ...maps,
    namespaces: namespaces(given),
    maskedPaths: [...new Set([...(linux.maskedPaths ?? []), ...masked])],
    readonlyPaths: [...new Set([...(linux.readonlyPaths ?? []), ...readOnly])],
  };
  return {
    spec: {
      ...spec,
      ...(spec.process === undefined ? {} : { process: sentryProcess('create', id, spec.process) }),
      mounts: (spec.mounts ?? []).flatMap((mount) => adaptMount(mount, mapped, sysFiles)),
      linux: adapted,
    },
    mapped,
  };
}

/** A process, a container's first or an exec: never with new privileges, never with those of an administrator. */
export function sentryProcess(op: string, id: string, process: Process): Process {
  const wide = privileged.find((name) => process.capabilities?.bounding?.includes(name) === true);
  if (wide === undefined) return { ...process, noNewPrivileges: true };
  const reason = `the sentry wall has no privileged processes (${wide})`;
  return refuse(id, 'process.capabilities', reason, { op, wall: 'vm' });
}

function refuseHostAccess(id: string, { linux = {} }: Spec): void {
  const types = new Set((linux.namespaces ?? []).map(({ type }) => type));
  for (const type of needed) {
    if (!types.has(type)) {
      refuse(
        id,
        'config.json: linux.namespaces',
        `the sentry wall does not share the host's ${type} namespace`,
      );
    }
  }
  const device = (linux.devices ?? []).find(({ path }) => !plainDevices.has(path.replace(/^\/dev\//, '')));
  if (device !== undefined) {
    refuse(id, `device ${device.path}`, 'the sentry wall hands no devices of the host over');
  }
  if ((linux.seccomp?.listenerPath ?? '') !== '') {
    refuse(id, 'config.json: linux.seccomp.listenerPath', "the one listener of a process is the wall's own");
  }
}

/** Ids beyond the pod's range do not exist in it. */
function refuseForeignIds(id: string, { process }: Spec): void {
  const { uid = 0, gid = 0, additionalGids = [] } = process?.user ?? {};
  const foreign = [uid, gid, ...additionalGids].find((number) => number >= RANGE_SIZE);
  if (foreign !== undefined) {
    refuse(id, 'config.json: process.user', `id ${foreign} is not below ${RANGE_SIZE}`);
  }
}

function refuse(
  id: string,
  object: string,
  reason: string,
  { op = 'create', wall = 'namespace or vm' } = {},
): never {
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op,
    id,
    object,
    reason,
    remedy: `use the ${wall} wall`,
  });
}

/**
 * A container of a pod joins namespaces of the pod's first process: they belong to that one's user namespace, so it is
 * joined too. Otherwise a new one is made.
 */
function namespaces(given: readonly LinuxNamespace[]): LinuxNamespace[] {
  const types = new Set(given.map(({ type }) => type));
  const added: LinuxNamespace[] = [];
  if (!types.has('user')) {
    const sandbox = given
      .filter(({ type }) => type === 'ipc' || type === 'uts' || type === 'pid')
      .map(({ path = '' }) => /^\/proc\/([1-9]\d*)\/ns\/\w+$/.exec(path)?.[1])
      .find((pid) => pid !== undefined);
    added.push(sandbox === undefined ? { type: 'user' } : { type: 'user', path: `/proc/${sandbox}/ns/user` });
  }
  if (!types.has('cgroup')) added.push({ type: 'cgroup' });
  return [...given, ...added];
}

function adaptMount(mount: Mount, mapped: boolean, sysFiles: readonly string[]): Mount[] {
  if (mount.type === 'sysfs') return privateSys(mount.destination, sysFiles);
  if (!isBind(mount)) return [mount];
  const options = [...(mount.options ?? []), 'nosuid', 'nodev'];
  const asked = (mount.uidMappings?.length ?? 0) > 0 || options.some((option) => /^r?idmap$/.test(option));
  if (mapped && !asked) options.push(options.includes('rbind') ? 'ridmap' : 'idmap');
  return [{ ...mount, options }];
}

/** In place of sysfs: an empty tree with the few files that C libraries and language runtimes read. */
function privateSys(destination: string, sysFiles: readonly string[]): Mount[] {
  const hardened = ['nosuid', 'noexec', 'nodev'];
  return [
    {
      destination,
      type: 'tmpfs',
      source: 'tmpfs',
      options: [...hardened, 'mode=755', 'size=64k', 'ro'],
    },
    ...sysFiles.map((path) => ({
      destination: `${destination}${path.slice('/sys'.length)}`,
      type: 'bind',
      source: path,
      options: ['bind', 'ro', ...hardened],
    })),
  ];
}
