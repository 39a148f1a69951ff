/** Namespaces and what needs them: id maps, host name, time offsets, sysctls. */
import { isAbsolute } from '../paths.ts';
import type { LinuxIDMapping, NamespaceType, ParsedSpec } from '../types.ts';
import type { Refuse } from './checks.ts';
import { show } from './shape.ts';

const namespaceTypes: ReadonlySet<string> = new Set<NamespaceType>([
  'pid',
  'network',
  'mount',
  'ipc',
  'uts',
  'user',
  'cgroup',
  'time',
]);

/** Namespaces of the list by type. */
function has({ linux }: ParsedSpec, type: NamespaceType): boolean {
  return (linux.namespaces ?? []).some((namespace) => namespace.type === type);
}

function pathOf({ linux }: ParsedSpec, type: NamespaceType): string {
  return (linux.namespaces ?? []).find((namespace) => namespace.type === type)?.path ?? '';
}

export function checkNamespaces({ linux }: ParsedSpec, refuse: Refuse): void {
  const seen = new Set<string>();
  (linux.namespaces ?? []).forEach(({ type, path = '' }, index) => {
    const field = `linux.namespaces[${index}]`;
    if (!namespaceTypes.has(type)) refuse(`${field}.type`, `unknown namespace ${show(type)}`);
    if (seen.has(type)) refuse(`${field}.type`, `namespace ${show(type)} is listed twice`);
    seen.add(type);
    if (path !== '' && !isAbsolute(path)) {
      refuse(`${field}.path`, `must be an absolute path, is ${show(path)}`);
    }
  });
}

export function checkIdMaps(spec: ParsedSpec, refuse: Refuse): void {
  const { uidMappings = [], gidMappings = [] } = spec.linux;
  const given = uidMappings.length > 0 || gidMappings.length > 0;
  if (!has(spec, 'user')) {
    if (given) refuse('linux.uidMappings', 'needs a user namespace, and linux.namespaces has none');
    return;
  }
  checkRanges(uidMappings, 'linux.uidMappings', refuse);
  checkRanges(gidMappings, 'linux.gidMappings', refuse);
  if (pathOf(spec, 'user') !== '') return;
  if (uidMappings.length === 0)
    refuse('linux.uidMappings', 'a new user namespace needs at least one mapping');
  if (gidMappings.length === 0)
    refuse('linux.gidMappings', 'a new user namespace needs at least one mapping');
  for (const [field, mappings] of [
    ['linux.uidMappings', uidMappings],
    ['linux.gidMappings', gidMappings],
  ] as const) {
    // The container is set up by id 0 of its user namespace.
    if (!mappings.some(({ containerID, size }) => containerID === 0 && size > 0)) {
      refuse(field, 'has no mapping for id 0 of the container');
    }
  }
}

/** Also used for the mappings of mounts. */
export function checkRanges(mappings: readonly LinuxIDMapping[], field: string, refuse: Refuse): void {
  mappings.forEach(({ containerID, hostID, size }, index) => {
    if (size === 0) refuse(`${field}[${index}].size`, 'must be at least 1');
    if (containerID + size > 2 ** 32 || hostID + size > 2 ** 32) {
      refuse(`${field}[${index}].size`, 'the range goes past the largest id');
    }
  });
}

export function checkUts(spec: ParsedSpec, refuse: Refuse): void {
  for (const field of ['hostname', 'domainname'] as const) {
    if ((spec[field] ?? '') !== '' && !has(spec, 'uts')) {
      refuse(field, 'needs a uts namespace, and linux.namespaces has none');
    }
  }
}

/** Only these clocks have an offset (time_namespaces(7)). */
const clocks = new Set(['monotonic', 'boottime']);

export function checkTimeOffsets(spec: ParsedSpec, refuse: Refuse): void {
  const offsets = Object.entries(spec.linux.timeOffsets ?? {});
  if (offsets.length === 0) return;
  if (!has(spec, 'time')) {
    refuse('linux.timeOffsets', 'needs a time namespace, and linux.namespaces has none');
  }
  if (pathOf(spec, 'time') !== '') {
    refuse('linux.timeOffsets', 'cannot be set in a time namespace that is joined by path');
  }
  for (const [clock, { nanosecs = 0 }] of offsets) {
    if (!clocks.has(clock)) refuse('linux.timeOffsets', `clock ${show(clock)} has no offset`);
    if (nanosecs >= 1e9) {
      refuse(`linux.timeOffsets[${show(clock)}].nanosecs`, `must be below 1000000000, is ${nanosecs}`);
    }
  }
}

const ipcSysctls = new Set([
  'kernel.msgmax',
  'kernel.msgmnb',
  'kernel.msgmni',
  'kernel.sem',
  'kernel.shmall',
  'kernel.shmmax',
  'kernel.shmmni',
  'kernel.shm_rmid_forced',
]);

/**
 * sysctl.d(5) spellings → dots. When the first separator is a slash, slashes separate and dots belong to names:
 * net/ipv4/conf/eno2.100/rp_filter is net.ipv4.conf.eno2/100.rp_filter.
 */
export function sysctlWithDots(key: string): string {
  const first = key.search(/[./]/);
  if (first < 0 || key[first] === '.') return key;
  return key.replace(/[./]/g, (separator) => (separator === '.' ? '/' : '.'));
}

/** Only sysctls of the container's own namespaces: the others would change the host. */
export function checkSysctls(spec: ParsedSpec, refuse: Refuse): void {
  for (const key of Object.keys(spec.linux.sysctl ?? {})) {
    const field = `linux.sysctl[${show(key)}]`;
    const name = sysctlWithDots(key);
    if (!/^[\w-]+([./][\w\-:@]+)+$/.test(name) || name.split(/[./]/).includes('..')) {
      refuse(field, 'is not a sysctl name');
    }
    const reason = sysctlRefusal(spec, name);
    if (reason !== undefined) refuse(field, reason);
  }
}

function sysctlRefusal(spec: ParsedSpec, name: string): string | undefined {
  const needs = (type: NamespaceType): string | undefined =>
    has(spec, type) ? undefined : `would change the host: the container has no ${type} namespace of its own`;
  if (ipcSysctls.has(name) || name.startsWith('fs.mqueue.')) return needs('ipc');
  if (name.startsWith('net.')) return needs('network');
  if (name.startsWith('user.')) return needs('user');
  if (name === 'kernel.domainname') return needs('uts');
  if (name === 'kernel.hostname') return 'conflicts with the field "hostname", which is the way to set it';
  return 'does not belong to a namespace and would change the host';
}
