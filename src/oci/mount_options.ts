/**
 * Mount options of config.json (config-linux.md, "Linux mount options"), sorted into what the kernel takes where:
 * attributes of one mount (mount_setattr(2)), the same recursively ("rro"), options of the superblock (fsconfig(2)),
 * propagation, and what a runtime does itself (tmpcopyup, idmap). Whatever the table does not know belongs to the
 * file system.
 */
import {
  MOUNT_ATTR__ATIME,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NODIRATIME,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_NOSYMFOLLOW,
  MOUNT_ATTR_RDONLY,
  MOUNT_ATTR_RELATIME,
  MOUNT_ATTR_STRICTATIME,
} from '../base/constants.ts';

export type PropagationKind = 'private' | 'slave' | 'shared' | 'unbindable';
export interface PropagationChange {
  kind: PropagationKind;
  recursive: boolean;
}

/** MOUNT_ATTR_* to set and to clear. An access-time mode in `set` has MOUNT_ATTR__ATIME in `clear`. */
export interface AttributeChange {
  set: number;
  clear: number;
}

export interface MountOptions {
  bind: boolean;
  recursiveBind: boolean;
  remount: boolean;
  attributes: AttributeChange;
  recursiveAttributes: AttributeChange;
  /** In the order given: ["rslave", "rshared"] is both, one after the other. */
  propagation: PropagationChange[];
  /** "sync", "dirsync", "lazytime"…: flags of the superblock, as fsconfig(2) spells them. */
  superblock: string[];
  tmpcopyup: boolean;
  idmap: 'none' | 'mount' | 'recursive';
  /** The file system's own ("size=64m"). */
  data: string[];
}

const attributes: Record<string, number> = {
  ro: MOUNT_ATTR_RDONLY,
  nosuid: MOUNT_ATTR_NOSUID,
  nodev: MOUNT_ATTR_NODEV,
  noexec: MOUNT_ATTR_NOEXEC,
  nodiratime: MOUNT_ATTR_NODIRATIME,
  nosymfollow: MOUNT_ATTR_NOSYMFOLLOW,
};
const cleared: Record<string, number> = {
  rw: MOUNT_ATTR_RDONLY,
  suid: MOUNT_ATTR_NOSUID,
  dev: MOUNT_ATTR_NODEV,
  exec: MOUNT_ATTR_NOEXEC,
  diratime: MOUNT_ATTR_NODIRATIME,
  symfollow: MOUNT_ATTR_NOSYMFOLLOW,
};
/** Access-time modes are one field of three values. The "no" forms of a mode that is not set change nothing. */
const accessTimes: Record<string, number> = {
  relatime: MOUNT_ATTR_RELATIME,
  noatime: MOUNT_ATTR_NOATIME,
  strictatime: MOUNT_ATTR_STRICTATIME,
};
const accessTimesOff: Record<string, number> = {
  atime: MOUNT_ATTR_NOATIME,
  nostrictatime: MOUNT_ATTR_STRICTATIME,
  norelatime: MOUNT_ATTR_RELATIME,
};
const superblockFlags = new Set(['dirsync', 'lazytime', 'mand', 'sync', 'iversion']);
const superblockFlagsOff: Record<string, string> = {
  async: 'sync',
  nolazytime: 'lazytime',
  nomand: 'mand',
  noiversion: 'iversion',
};
const propagations = ['private', 'slave', 'shared', 'unbindable'] as const;
const propagationTable = new Map<string, PropagationChange>(
  propagations.flatMap((kind) => [
    [kind, { kind, recursive: false }],
    [`r${kind}`, { kind, recursive: true }],
  ]),
);
/** "defaults" is nothing; "silent" and "loud" are about the kernel's log; "acl" is no flag of any file system today. */
const withoutEffect = new Set(['defaults', 'silent', 'loud']);

/** Everything that parseMountOptions understands by itself, sorted: for `features`. */
export function knownMountOptions(): string[] {
  const single = [attributes, cleared, accessTimes, accessTimesOff].flatMap((table) => Object.keys(table));
  return [
    ...single,
    ...single.map((name) => `r${name}`),
    ...superblockFlags,
    ...Object.keys(superblockFlagsOff),
    ...propagationTable.keys(),
    ...withoutEffect,
    ...['bind', 'rbind', 'remount', 'tmpcopyup', 'idmap', 'ridmap'],
  ].sort();
}

/** A value of the `rootfsPropagation` and propagation options, undefined when it is none. */
export function parsePropagation(text: string): PropagationChange | undefined {
  return propagationTable.get(text);
}

/** Sorts options; never fails (unknown ones are the file system's). */
export function parseMountOptions(options: readonly string[]): MountOptions {
  const parsed: MountOptions = {
    bind: false,
    recursiveBind: false,
    remount: false,
    attributes: { set: 0, clear: 0 },
    recursiveAttributes: { set: 0, clear: 0 },
    propagation: [],
    superblock: [],
    tmpcopyup: false,
    idmap: 'none',
    data: [],
  };
  for (const option of options) parseOption(option, parsed);
  return parsed;
}

function parseOption(option: string, parsed: MountOptions): void {
  if (applyAttribute(option, parsed.attributes)) return;
  if (option.startsWith('r') && applyAttribute(option.slice(1), parsed.recursiveAttributes)) return;
  const propagation = propagationTable.get(option);
  if (propagation !== undefined) {
    parsed.propagation.push(propagation);
    return;
  }
  if (withoutEffect.has(option)) return;
  if (superblockFlags.has(option)) {
    parsed.superblock.push(option);
    return;
  }
  const off = own(superblockFlagsOff, option);
  if (off !== undefined) {
    parsed.superblock = parsed.superblock.filter((flag) => flag !== off);
    return;
  }
  switch (option) {
    case 'bind':
      parsed.bind = true;
      return;
    case 'rbind':
      parsed.bind = true;
      parsed.recursiveBind = true;
      return;
    case 'remount':
      parsed.remount = true;
      return;
    case 'tmpcopyup':
      parsed.tmpcopyup = true;
      return;
    case 'idmap':
      parsed.idmap = 'mount';
      return;
    case 'ridmap':
      parsed.idmap = 'recursive';
      return;
    case '':
      return;
    default:
      parsed.data.push(option);
  }
}

/** True when `name` is an attribute; the later of two contradicting options wins. */
function applyAttribute(name: string, change: AttributeChange): boolean {
  const set = own(attributes, name);
  if (set !== undefined) {
    change.set |= set;
    change.clear &= ~set;
    return true;
  }
  const clear = own(cleared, name);
  if (clear !== undefined) {
    change.set &= ~clear;
    change.clear |= clear;
    return true;
  }
  const mode = own(accessTimes, name);
  if (mode !== undefined) {
    change.set = (change.set & ~MOUNT_ATTR__ATIME) | mode;
    // mount_setattr(2): the mode is a field, which has to be cleared as a whole to be set
    change.clear |= MOUNT_ATTR__ATIME;
    return true;
  }
  const off = own(accessTimesOff, name);
  if (off === undefined) return false;
  // "atime" undoes "noatime": back to relatime, the kernel's default
  if (off !== MOUNT_ATTR_RELATIME || (change.set & MOUNT_ATTR__ATIME) === MOUNT_ATTR_RELATIME) {
    change.set &= ~MOUNT_ATTR__ATIME;
    change.clear |= MOUNT_ATTR__ATIME;
  }
  return true;
}

/** Own property of a table: option names such as "constructor" are not in it. */
function own<Value>(table: Record<string, Value>, name: string): Value | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}
