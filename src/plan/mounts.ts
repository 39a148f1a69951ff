/**
 * `mounts` of config.json, in the order given (it matters: a later one may lie inside an earlier one).
 *
 * Sources of bind mounts are opened before Clone, by the host's names and with the launcher's rights, and get their
 * attributes while they are detached: no moment in which a container sees one writable that is to be read-only, and
 * no name that is looked up twice. File systems are made after Clone, in the namespaces that they show.
 */
import {
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NODIRATIME,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_NOSYMFOLLOW,
  MOUNT_ATTR_RDONLY,
} from '../base/constants.ts';
import { bulkhead } from '../gen/bulkhead.js';
import {
  parseMountOptions,
  parsePropagation,
  type MountOptions,
  type PropagationChange,
} from '../oci/mount_options.ts';
import { cleanAbsolute, resolveFrom } from '../oci/paths.ts';
import type { Mount } from '../oci/types.ts';
import { isBind } from '../oci/validate/checks_mounts.ts';
import { show } from '../oci/validate/shape.ts';
import { cgroupMount } from './cgroup_mount.ts';
import type { CreateContext } from './context.ts';
import type { Step } from './inputs.ts';
import { idMaps } from './namespaces.ts';
import { propagationValue } from './propagation.ts';

const { TargetKind } = bulkhead.plan.v1;

export interface MountContribution {
  /** Before Clone (after it for an unprivileged launcher). */
  sources: Step[];
  /** After EnterRoot. */
  inner: Step[];
  /** When everything is in place: what was writable so that mount points could be made in it. */
  late: Step[];
}

export function mounts(context: CreateContext): MountContribution {
  const contribution: MountContribution = { sources: [], inner: [], late: [] };
  for (const mount of context.spec.mounts ?? []) {
    const options = parseMountOptions(mount.options ?? []);
    if (isBind(mount)) bindMount(context, mount, options, contribution);
    else if (mount.type === 'cgroup') cgroupMount(context, mount, options, contribution);
    else fileSystem(context, mount, options, contribution);
  }
  return contribution;
}

/** Attributes that "mount --bind -o remount" would reset when they are not asked for. */
const resettable =
  MOUNT_ATTR_RDONLY |
  MOUNT_ATTR_NOSUID |
  MOUNT_ATTR_NODEV |
  MOUNT_ATTR_NOEXEC |
  MOUNT_ATTR_NOSYMFOLLOW |
  MOUNT_ATTR_NODIRATIME;

function bindMount(
  context: CreateContext,
  mount: Mount,
  options: MountOptions,
  contribution: MountContribution,
): void {
  const slot = context.slots.next();
  const path = resolveFrom(context.input.bundle, mount.source ?? '');
  contribution.sources.push(
    { openTree: { slot, path, recursive: options.recursiveBind } },
    ...bindAttributes(context, mount, options, slot),
  );
  contribution.inner.push({
    attach: { slot, target: mount.destination, make: TargetKind.TARGET_KIND_LIKE_SOURCE },
  });
}

/** Attributes, id map and propagation of the detached copy in a slot. */
export function bindAttributes(
  context: CreateContext,
  mount: Mount,
  options: MountOptions,
  slot: number,
): Step[] {
  const { set } = options.attributes;
  let { clear } = options.attributes;
  // As runc: options make up the whole set of the new mount. In a user namespace attributes that come from the host
  // stay ("locked", mount_namespaces(7)) unless an option takes them away by name.
  const locked = context.inUserNamespace || context.host.inUserNamespace === true;
  if ((set !== 0 || clear !== 0) && !locked) clear |= resettable & ~set;
  const own: Setattr = { slot, ...idMapping(context, mount, options) };
  if (set !== 0 || clear !== 0) Object.assign(own, { set, clear });
  const recursive = options.recursiveAttributes;
  const deep: Setattr[] =
    recursive.set === 0 && recursive.clear === 0
      ? []
      : [{ slot, set: recursive.set, clear: recursive.clear, recursive: true }];
  const propagation = propagationChanges(context, options.propagation, options.recursiveBind, slot);
  return merged([own, ...propagation, ...deep]).map((mountSetattr) => ({ mountSetattr }));
}

type Setattr = bulkhead.plan.v1.MountSetattr.$Properties;

/** One step can carry attributes and one change of propagation; a first step that changes nothing goes. */
function merged([first, second, ...rest]: Setattr[]): Setattr[] {
  if (first === undefined || second === undefined) return changes(first) ? [first] : [];
  if (second.propagation !== undefined) return [{ ...first, ...second }, ...rest];
  return changes(first) ? [first, second, ...rest] : [second, ...rest];
}

function changes(step: Setattr | undefined): step is Setattr {
  return step !== undefined && Object.keys(step).length > 1;
}

type IdMapFields = Pick<Setattr, 'uidMaps' | 'gidMaps' | 'idmapRecursive'>;

/** Own mappings of the mount, or with "idmap" alone those of the container. */
function idMapping(
  { linux, host, refuse }: CreateContext,
  mount: Mount,
  options: MountOptions,
): IdMapFields | undefined {
  const own = mount.uidMappings !== undefined && mount.uidMappings.length > 0;
  if (!own && options.idmap === 'none') return undefined;
  if (host.unprivileged === true) {
    refuse(`mount ${show(mount.destination)}`, 'ids can only be mapped by root');
  }
  return {
    uidMaps: idMaps(own ? mount.uidMappings : linux.uidMappings),
    gidMaps: idMaps(own ? mount.gidMappings : linux.gidMappings),
    idmapRecursive: options.idmap === 'recursive',
  };
}

/**
 * A copy of a shared mount is a member of its peer group. What a container mounts in it would appear on the host,
 * unless it is cut off first; only rootfsPropagation "shared" keeps the tie (config-linux.md, "Rootfs Mount
 * Propagation"). Then the mount's own options apply, in their order. Without submounts (`deep` false) nothing has to
 * be recursive, which saves a system call.
 */
export function propagationChanges(
  { linux }: CreateContext,
  wanted: readonly PropagationChange[],
  deep: boolean,
  slot: number,
): Setattr[] {
  const root = parsePropagation(linux.rootfsPropagation ?? '');
  const base: PropagationChange[] =
    root?.kind === 'shared'
      ? []
      : [{ kind: root?.kind === 'private' ? 'private' : 'slave', recursive: true }];
  const all = [...base, ...wanted].map(({ kind, recursive }) => ({ kind, recursive: recursive && deep }));
  const [first, second] = all;
  // Private overrules what came before, and so does the same once more.
  const overruled =
    first !== undefined &&
    second !== undefined &&
    (second.recursive || !first.recursive) &&
    (second.kind === 'private' || second.kind === first.kind);
  return (overruled ? all.slice(1) : all).map(({ kind, recursive }) => ({
    slot,
    propagation: propagationValue(kind),
    propagationRecursive: recursive,
  }));
}

/** File systems without a block device below: "ro" is a matter of the mount, not of the (often shared) superblock. */
const pseudo = new Set([
  'proc',
  'sysfs',
  'tmpfs',
  'ramfs',
  'devpts',
  'mqueue',
  'cgroup',
  'cgroup2',
  'bpf',
  'debugfs',
  'tracefs',
  'securityfs',
  'binfmt_misc',
  'fusectl',
  'configfs',
  'hugetlbfs',
  'overlay',
]);

export function hasSuperblockReadOnly(fstype: string): boolean {
  return !pseudo.has(fstype);
}

/** Types that take no SELinux context option, or whose labels the policy gives (as runc). */
const unlabelled = new Set(['proc', 'sysfs', 'mqueue', 'cgroup', 'cgroup2']);

function fileSystem(
  context: CreateContext,
  mount: Mount,
  options: MountOptions,
  contribution: MountContribution,
): void {
  const slot = context.slots.next();
  const fstype = mount.type ?? '';
  let { set } = options.attributes;
  // Mount points of later mounts and device nodes are still to be made in these.
  const becomesReadOnly =
    (set & MOUNT_ATTR_RDONLY) !== 0 && (fstype === 'tmpfs' || cleanAbsolute(mount.destination) === '/dev');
  if (becomesReadOnly) set &= ~MOUNT_ATTR_RDONLY;
  const label = context.linux.mountLabel ?? '';
  const labelled = label !== '' && context.host.selinux && !unlabelled.has(fstype);
  contribution.inner.push(
    {
      fsMount: {
        slot,
        fstype,
        source: mount.source ?? fstype,
        options: [...options.superblock, ...options.data, ...(labelled ? [`context=${label}`] : [])],
        attrFlags: set,
        superblockRo: (set & MOUNT_ATTR_RDONLY) !== 0 && hasSuperblockReadOnly(fstype),
      },
    },
    {
      attach: {
        slot,
        target: mount.destination,
        make: TargetKind.TARGET_KIND_DIRECTORY,
        requireDirectory: fstype === 'proc' || fstype === 'sysfs',
        tmpcopyup: options.tmpcopyup,
        copyMode: fstype === 'tmpfs' && !options.data.some((option) => option.startsWith('mode=')),
      },
    },
  );
  for (const { kind, recursive } of options.propagation) {
    contribution.inner.push({
      mountSetattr: { slot, propagation: propagationValue(kind), propagationRecursive: recursive },
    });
  }
  if (becomesReadOnly) {
    contribution.late.push({ mountSetattr: { slot, set: MOUNT_ATTR_RDONLY } });
  }
}
