/**
 * Namespaces: joined by path in the outer stage, made by Clone, and what belongs right behind Clone.
 *
 * Order of joining: a privileged launcher joins the user namespace last, because the other namespaces may belong to
 * the initial user namespace, over which it has no power once it has left that. An unprivileged launcher joins it
 * first, because it has no power before.
 */
import {
  CLONE_NEWCGROUP,
  CLONE_NEWIPC,
  CLONE_NEWNET,
  CLONE_NEWNS,
  CLONE_NEWPID,
  CLONE_NEWTIME,
  CLONE_NEWUSER,
  CLONE_NEWUTS,
} from '../base/constants.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import { sysctlWithDots } from '../oci/validate/checks_namespaces.ts';
import type { LinuxIDMapping, NamespaceType } from '../oci/types.ts';
import type { CreateContext } from './context.ts';
import type { Step } from './inputs.ts';

export const cloneFlags: Readonly<Record<NamespaceType, number>> = {
  pid: CLONE_NEWPID,
  network: CLONE_NEWNET,
  mount: CLONE_NEWNS,
  ipc: CLONE_NEWIPC,
  uts: CLONE_NEWUTS,
  user: CLONE_NEWUSER,
  cgroup: CLONE_NEWCGROUP,
  time: CLONE_NEWTIME,
};

const joinOrder: readonly NamespaceType[] = ['network', 'ipc', 'uts', 'pid', 'cgroup', 'time'];

/** What this version cannot do with namespaces, told before anything is made. */
export function checkNamespaces({ namespaces, linux, host, refuse }: CreateContext): void {
  if (namespaces.mount.kind === 'none') {
    refuse('config.json: linux.namespaces', 'has no mount namespace, which this version needs');
  }
  if (namespaces.mount.kind === 'joined') {
    refuse('config.json: linux.namespaces', 'joining a mount namespace by path is not supported');
  }
  if (host.unprivileged === true && namespaces.user.kind === 'none') {
    refuse('config.json: linux.namespaces', 'has no user namespace, which a launcher that is not root needs');
  }
  if (host.unprivileged === true && Object.keys(linux.timeOffsets ?? {}).length > 0) {
    refuse('config.json: linux.timeOffsets', 'can only be set by root');
  }
}

export function joinNamespaces(context: CreateContext): Step[] {
  const { namespaces, host } = context;
  const order: readonly NamespaceType[] =
    host.unprivileged === true ? ['user', ...joinOrder] : [...joinOrder, 'user'];
  const steps: Step[] = [];
  for (const type of order) {
    const namespace = namespaces[type];
    if (namespace.kind !== 'joined') continue;
    steps.push({ joinNamespace: { path: namespace.path, types: cloneFlags[type] } });
    if (type === 'network' && setsHostNetwork(context)) steps.push(...hostNetworkSysctls(context));
  }
  return steps;
}

/**
 * A time namespace takes its offsets before the first process is in it (time_namespaces(7)): unshare(2) makes it for
 * children only, the offsets are written, and Clone makes the child.
 */
export function timeNamespace({ namespaces, linux, host }: CreateContext): Step[] {
  if (namespaces.time.kind !== 'new' || host.unprivileged === true) return [];
  const steps: Step[] = [{ unshare: { flags: CLONE_NEWTIME } }];
  const offsets = Object.entries(linux.timeOffsets ?? {});
  if (offsets.length > 0) {
    const lines = offsets.map(([clock, { secs = 0, nanosecs = 0 }]) => `${clock} ${secs} ${nanosecs}\n`);
    const data = new TextEncoder().encode(lines.join(''));
    steps.push({ writeFile: { path: '/proc/self/timens_offsets', data } });
  }
  return steps;
}

export function clone({ namespaces, linux, host }: CreateContext): Step {
  let flags = 0;
  for (const [type, namespace] of Object.entries(namespaces) as [NamespaceType, { kind: string }][]) {
    if (namespace.kind !== 'new') continue;
    if (type === 'time' && host.unprivileged !== true) continue; // made by timeNamespace
    flags += cloneFlags[type];
  }
  const makesUser = namespaces.user.kind === 'new';
  return {
    clone: {
      namespaces: flags,
      uidMaps: makesUser ? idMaps(linux.uidMappings) : [],
      gidMaps: makesUser ? idMaps(linux.gidMappings) : [],
      // user_namespaces(7): without privilege gid_map can be written only after setgroups is given up
      denySetgroups: makesUser && host.unprivileged === true,
    },
  };
}

export function idMaps(mappings: readonly LinuxIDMapping[] = []): bulkhead.plan.v1.IdMap.$Properties[] {
  return mappings.map(({ containerID, hostID, size }) => ({
    containerId: containerID,
    hostId: hostID,
    size,
  }));
}

/** The host's id for a container's id; undefined when it has none. */
export function hostId(mappings: readonly LinuxIDMapping[] | undefined, id: number): number | undefined {
  const range = mappings?.find(({ containerID, size }) => id >= containerID && id < containerID + size);
  return range === undefined ? undefined : range.hostID + id - range.containerID;
}

/** The loopback device of a new network namespace starts down. */
export function loopback({ namespaces }: CreateContext): Step[] {
  return namespaces.network.kind === 'new' ? [{ loopbackUp: {} }] : [];
}

export function names({ spec }: CreateContext): Step[] {
  const steps: Step[] = [];
  if ((spec.hostname ?? '') !== '') steps.push({ hostname: { name: spec.hostname } });
  if ((spec.domainname ?? '') !== '') steps.push({ domainname: { name: spec.domainname } });
  return steps;
}

/**
 * A network namespace made by others belongs to another user namespace than the container's, whose root may not write
 * its settings: they are written while the launcher is in it and in no user namespace yet.
 */
function setsHostNetwork({ namespaces, host, inUserNamespace }: CreateContext): boolean {
  return namespaces.network.kind === 'joined' && inUserNamespace && host.unprivileged !== true;
}

function hostNetworkSysctls(context: CreateContext): Step[] {
  return sysctlEntries(context)
    .filter(([key]) => key.startsWith('net/'))
    .map(([key, value]) => ({
      writeFile: { path: `/proc/sys/${key}`, data: new TextEncoder().encode(value) },
    }));
}

export function sysctls(context: CreateContext): Step[] {
  const early = setsHostNetwork(context);
  return sysctlEntries(context)
    .filter(([key]) => !early || !key.startsWith('net/'))
    .map(([key, value]) => ({ sysctl: { key, value } }));
}

/** Keys as paths below /proc/sys: dots of names stay dots ("net.ipv4.conf.eno2/100.rp_filter" is eno2.100). */
function sysctlEntries({ linux }: CreateContext): [key: string, value: string][] {
  return Object.entries(linux.sysctl ?? {}).map(([key, value]) => [
    sysctlWithDots(key).replace(/[./]/g, (separator) => (separator === '.' ? '/' : '.')),
    value,
  ]);
}
