/** Mounts: targets that are refused, options that contradict the kind of mount. */
import { parseMountOptions } from '../mount_options.ts';
import { cleanAbsolute, isBelow } from '../paths.ts';
import type { Mount, ParsedSpec } from '../types.ts';
import type { Refuse } from './checks.ts';
import { checkRanges } from './checks_namespaces.ts';
import { show } from './shape.ts';

/** Files of /proc that lxcfs and CRIU replace by bind mounts; anything else below /proc is refused (CVE-2019-16884). */
const replaceableProcFiles = new Set([
  '/proc/cpuinfo',
  '/proc/diskstats',
  '/proc/meminfo',
  '/proc/stat',
  '/proc/swaps',
  '/proc/uptime',
  '/proc/loadavg',
  '/proc/slabinfo',
  '/proc/sys/kernel/ns_last_pid',
  '/proc/sys/crypto/fips_enabled',
]);

/** A bind mount is one by its options, or by its type when it has no such option. */
export function isBind(mount: Mount): boolean {
  return mount.type === 'bind' || (mount.options ?? []).some((option) => /^r?bind$/.test(option));
}

export function checkMountTargets({ mounts = [], linux }: ParsedSpec, refuse: Refuse): void {
  if (mounts.length > 0 && !(linux.namespaces ?? []).some(({ type }) => type === 'mount')) {
    refuse('mounts', 'needs a mount namespace, and linux.namespaces has none');
  }
  mounts.forEach((mount, index) => {
    const field = `mounts[${index}]`;
    const target = cleanAbsolute(mount.destination);
    if (target === '/') refuse(`${field}.destination`, 'must not be the root directory');
    if (target === '/proc' && mount.type !== 'proc' && !(isBind(mount) && mount.source === '/proc')) {
      refuse(`${field}.destination`, 'only a file system of type "proc" can be mounted at /proc');
    }
    if (isBelow('/proc', target) && !replaceableProcFiles.has(target)) {
      refuse(`${field}.destination`, `${show(mount.destination)} is inside /proc, where mounts are refused`);
    }
    if (isBind(mount) ? (mount.source ?? '') === '' : (mount.type ?? '') === '') {
      refuse(`${field}.${isBind(mount) ? 'source' : 'type'}`, 'is required and missing');
    }
  });
}

export function checkBindOptions({ mounts = [] }: ParsedSpec, refuse: Refuse): void {
  mounts.forEach((mount, index) => {
    const options = parseMountOptions(mount.options ?? []);
    if (isBind(mount)) {
      // The kernel would ignore them without a word: a bind mount has no superblock of its own.
      if (options.data.length > 0) {
        refuse(`mounts[${index}].options`, `a bind mount has no file system option ${show(options.data[0])}`);
      }
    } else if (options.remount) {
      refuse(`mounts[${index}].options`, 'only a bind mount can have the option "remount"');
    }
    if (options.tmpcopyup && mount.type !== 'tmpfs') {
      refuse(`mounts[${index}].options`, 'only a tmpfs can have the option "tmpcopyup"');
    }
    const comma = [...options.data, mount.type ?? ''].find((option) => option.includes(','));
    if (comma !== undefined && mount.type !== 'overlay') {
      refuse(
        `mounts[${index}].options`,
        `option ${show(comma)} contains a comma`,
        'list the options one by one',
      );
    }
  });
}

export function checkIdMappedMounts({ mounts = [], linux }: ParsedSpec, refuse: Refuse): void {
  const containerMaps = (linux.uidMappings ?? []).length > 0 && (linux.gidMappings ?? []).length > 0;
  mounts.forEach((mount, index) => {
    const field = `mounts[${index}]`;
    const { uidMappings = [], gidMappings = [] } = mount;
    const own = uidMappings.length > 0 || gidMappings.length > 0;
    const wanted = own || parseMountOptions(mount.options ?? []).idmap !== 'none';
    if (!wanted) return;
    if (!isBind(mount)) refuse(field, 'only a bind mount can map ids');
    if (own && (uidMappings.length === 0 || gidMappings.length === 0)) {
      refuse(
        `${field}.${uidMappings.length === 0 ? 'uidMappings' : 'gidMappings'}`,
        'is required and missing',
      );
    }
    if (!own && !containerMaps) {
      refuse(`${field}.options`, 'the container has no id mappings that "idmap" could take over');
    }
    checkRanges(uidMappings, `${field}.uidMappings`, refuse);
    checkRanges(gidMappings, `${field}.gidMappings`, refuse);
  });
}
