/**
 * Device access rules: `linux.resources.devices` (the last rule that matches decides) and runc's own additions,
 * in a normal form, and as lines for the cgroup v1 devices controller
 * (Documentation/admin-guide/cgroup-v1/devices.rst).
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxDeviceCgroup } from '../oci/types.ts';

/** Access bits, as BPF_DEVCG_ACC_* has them. */
export const Access = { mknod: 1, read: 2, write: 4, all: 7 } as const;

/** One rule for one kind of device. */
export interface DeviceRule {
  allow: boolean;
  type: 'b' | 'c';
  /** undefined: any. */
  major: number | undefined;
  minor: number | undefined;
  /** Bits of `Access`. */
  access: number;
}

const accessBits: Record<string, number> = { m: Access.mknod, r: Access.read, w: Access.write };

function rule(
  allow: boolean,
  type: 'b' | 'c',
  major: number | undefined,
  minor: number | undefined,
  access: string,
): DeviceRule {
  return { allow, type, major, minor, access: bitsOf(access) };
}

function bitsOf(access: string): number {
  return [...access].reduce((bits, letter) => bits | (accessBits[letter] ?? 0), 0);
}

/**
 * What every container may use, whatever its config.json says, as with runc: mknod of any device, the default devices
 * of the runtime-spec, pseudo-terminals, and /dev/net/tun (removed in runc 1.2.0-rc1 and put back: too many rely on it).
 */
export const defaultDeviceRules: readonly DeviceRule[] = [
  rule(true, 'c', undefined, undefined, 'm'),
  rule(true, 'b', undefined, undefined, 'm'),
  rule(true, 'c', 1, 3, 'rwm'), // /dev/null
  rule(true, 'c', 1, 8, 'rwm'), // /dev/random
  rule(true, 'c', 1, 7, 'rwm'), // /dev/full
  rule(true, 'c', 5, 0, 'rwm'), // /dev/tty
  rule(true, 'c', 1, 5, 'rwm'), // /dev/zero
  rule(true, 'c', 1, 9, 'rwm'), // /dev/urandom
  rule(true, 'c', 136, undefined, 'rwm'), // /dev/pts/*
  rule(true, 'c', 5, 2, 'rwm'), // /dev/ptmx
  rule(true, 'c', 10, 200, 'rwm'), // /dev/net/tun
];

/** dev_t has 12 bits of major and 20 of minor (linux/kdev_t.h). */
const maxMajor = 0xfff;
const maxMinor = 0xfffff;

/**
 * The rules of a container: those of config.json, then the defaults. A rule of type "a" becomes one for block and one
 * for character devices. InvalidArgument for a rule that no device can match or that allows nothing.
 */
export function deviceRules(given: readonly LinuxDeviceCgroup[], id: string, op = 'create'): DeviceRule[] {
  const rules = given.flatMap((entry, index): DeviceRule[] => {
    const refuse = (field: string, reason: string): RuntimeError =>
      new RuntimeError({
        code: ErrorCode.InvalidArgument,
        op,
        id,
        object: `linux.resources.devices[${index}]${field}`,
        reason,
      });
    const type = entry.type === undefined || entry.type === '' ? 'a' : entry.type;
    if (type !== 'a' && type !== 'b' && type !== 'c')
      throw refuse('.type', `unknown device type ${JSON.stringify(type)}`);
    const access = entry.access ?? '';
    if (!/^[rwm]+$/.test(access)) throw refuse('.access', 'must be made of r, w and m');
    const major = numberOrAny(entry.major, maxMajor, () =>
      refuse('.major', `must be 0 to ${maxMajor}, or -1 for any`),
    );
    const minor = numberOrAny(entry.minor, maxMinor, () =>
      refuse('.minor', `must be 0 to ${maxMinor}, or -1 for any`),
    );
    const types = type === 'a' ? (['b', 'c'] as const) : ([type] as const);
    return types.map((one) => ({ allow: entry.allow, type: one, major, minor, access: bitsOf(access) }));
  });
  return [...rules, ...defaultDeviceRules];
}

function numberOrAny(
  value: number | undefined,
  max: number,
  refusal: () => RuntimeError,
): number | undefined {
  if (value === undefined || value === -1) return undefined;
  if (!Number.isInteger(value) || value < 0 || value > max) throw refusal();
  return value;
}

/** What the rules say of one access to one device; each access bit is decided by the last rule that has it. */
export function isAllowed(
  rules: readonly DeviceRule[],
  type: 'b' | 'c',
  major: number,
  minor: number,
  access: number,
): boolean {
  let undecided = access;
  for (let i = rules.length - 1; i >= 0 && undecided !== 0; i--) {
    const each = rules[i];
    if (each === undefined || each.type !== type) continue;
    if (each.major !== undefined && each.major !== major) continue;
    if (each.minor !== undefined && each.minor !== minor) continue;
    if (!each.allow && (undecided & each.access) !== 0) return false;
    undecided &= ~each.access;
  }
  return undecided === 0;
}

/** True when every device that `inner` matches is one that `outer` matches. */
export function covers(outer: DeviceRule, inner: DeviceRule): boolean {
  return (
    outer.type === inner.type &&
    (outer.major === undefined || outer.major === inner.major) &&
    (outer.minor === undefined || outer.minor === inner.minor)
  );
}

function overlaps(a: DeviceRule, b: DeviceRule): boolean {
  return (
    a.type === b.type &&
    (a.major === undefined || b.major === undefined || a.major === b.major) &&
    (a.minor === undefined || b.minor === undefined || a.minor === b.minor)
  );
}

/** What goes into the v1 files: first "a" to `first`, then one write a line to `then`. */
export interface DeviceListV1 {
  first: 'devices.deny' | 'devices.allow';
  then: 'devices.allow' | 'devices.deny';
  lines: string[];
}

/**
 * The rules as a v1 list, which is one default and exceptions from it, all of one kind. InvalidArgument for rules that
 * such a list cannot say (a denial inside a wider allowance): the kernel would take the line and not act on it.
 */
export function deviceListV1(rules: readonly DeviceRule[], id: string, op = 'create'): DeviceListV1 {
  let allowByDefault = false;
  let exceptions: DeviceRule[] = [];
  for (const [index, each] of rules.entries()) {
    const pair = wholePair(rules, index);
    if (pair !== undefined) {
      allowByDefault = pair;
      exceptions = [];
      continue;
    }
    exceptions =
      each.allow === allowByDefault
        ? withoutException(exceptions, each, id, op)
        : withException(exceptions, each);
  }
  return {
    first: allowByDefault ? 'devices.allow' : 'devices.deny',
    then: allowByDefault ? 'devices.deny' : 'devices.allow',
    lines: exceptions.map(lineOf),
  };
}

/** For a rule of type "a" for everything, seen at its second half: whether it allows. */
function wholePair(rules: readonly DeviceRule[], index: number): boolean | undefined {
  const [before, each] = [rules[index - 1], rules[index]];
  if (before === undefined || each === undefined) return undefined;
  return isWhole(before) && isWhole(each) && before.type !== each.type && before.allow === each.allow
    ? each.allow
    : undefined;
}

function isWhole(each: DeviceRule): boolean {
  return each.major === undefined && each.minor === undefined && each.access === Access.all;
}

function withException(exceptions: readonly DeviceRule[], each: DeviceRule): DeviceRule[] {
  const same = exceptions.find((other) => covers(other, each) && covers(each, other));
  if (same === undefined) return [...exceptions, each];
  return exceptions.map((other) => (other === same ? { ...same, access: same.access | each.access } : other));
}

function withoutException(
  exceptions: readonly DeviceRule[],
  each: DeviceRule,
  id: string,
  op: string,
): DeviceRule[] {
  return exceptions.flatMap((other) => {
    if (!overlaps(other, each) || (other.access & each.access) === 0) return [other];
    if (!covers(each, other)) {
      throw new RuntimeError({
        code: ErrorCode.InvalidArgument,
        op,
        id,
        object: 'linux.resources.devices',
        reason: `the cgroup v1 devices controller cannot except ${lineOf(each)} from ${lineOf(other)}`,
        remedy: 'list the devices one by one',
      });
    }
    const access = other.access & ~each.access;
    return access === 0 ? [] : [{ ...other, access }];
  });
}

/** "c 1:3 rwm", as the v1 files and messages have it. */
function lineOf(each: DeviceRule): string {
  const access =
    (each.access & Access.read ? 'r' : '') +
    (each.access & Access.write ? 'w' : '') +
    (each.access & Access.mknod ? 'm' : '');
  return `${each.type} ${each.major ?? '*'}:${each.minor ?? '*'} ${access}`;
}
