/**
 * The OCI form of a seccomp profile (runtime-spec config-linux.md, "Seccomp") to the flat policy that the addon
 * compiles. Pure. What libseccomp would refuse with a bare errno is refused here with the field's name.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxSeccomp, LinuxSeccompArg, LinuxSyscall } from '../oci/types.ts';
import type { SeccompPolicy } from './addon.d.ts';

const EPERM = 1;
/** Largest errno that libseccomp takes (the kernel: 4095); ptrace messages take 16 bits. */
const MAX_ERRNO = 4094;
const MAX_TRACE = 0xffff;
/** Arguments of a system call. */
const ARGUMENTS = 6;

/** SECCOMP_RET_* (seccomp(2)); the data bits are added for ERRNO and TRACE. */
export const SECCOMP_RET_ERRNO = 0x00050000;
export const SECCOMP_RET_TRACE = 0x7ff00000;
export const SECCOMP_RET_USER_NOTIF = 0x7fc00000;

export const seccompActions: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL: 0x00000000,
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_KILL_THREAD: 0x00000000,
  SCMP_ACT_TRAP: 0x00030000,
  SCMP_ACT_ERRNO: SECCOMP_RET_ERRNO,
  SCMP_ACT_TRACE: SECCOMP_RET_TRACE,
  SCMP_ACT_ALLOW: 0x7fff0000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_NOTIFY: SECCOMP_RET_USER_NOTIF,
};

/** enum scmp_compare of seccomp_rule_add(3). */
export const seccompOperators: Readonly<Record<string, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
};

/** libseccomp's names. */
export const seccompArchs: Readonly<Record<string, string>> = {
  SCMP_ARCH_X86: 'x86',
  SCMP_ARCH_X86_64: 'x86_64',
  SCMP_ARCH_X32: 'x32',
  SCMP_ARCH_ARM: 'arm',
  SCMP_ARCH_AARCH64: 'aarch64',
  SCMP_ARCH_MIPS: 'mips',
  SCMP_ARCH_MIPS64: 'mips64',
  SCMP_ARCH_MIPS64N32: 'mips64n32',
  SCMP_ARCH_MIPSEL: 'mipsel',
  SCMP_ARCH_MIPSEL64: 'mipsel64',
  SCMP_ARCH_MIPSEL64N32: 'mipsel64n32',
  SCMP_ARCH_PPC: 'ppc',
  SCMP_ARCH_PPC64: 'ppc64',
  SCMP_ARCH_PPC64LE: 'ppc64le',
  SCMP_ARCH_S390: 's390',
  SCMP_ARCH_S390X: 's390x',
  SCMP_ARCH_PARISC: 'parisc',
  SCMP_ARCH_PARISC64: 'parisc64',
  SCMP_ARCH_RISCV64: 'riscv64',
  SCMP_ARCH_LOONGARCH64: 'loongarch64',
  SCMP_ARCH_M68K: 'm68k',
  SCMP_ARCH_SH: 'sh',
  SCMP_ARCH_SHEB: 'sheb',
};

/** SECCOMP_FILTER_FLAG_* (seccomp(2)). */
export const seccompFlags: Readonly<Record<string, number>> = {
  SECCOMP_FILTER_FLAG_TSYNC: 1 << 0,
  SECCOMP_FILTER_FLAG_LOG: 1 << 1,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 1 << 2,
  SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 1 << 5,
};
/** Not in the specification; TSYNC together with a listener needs it (Linux 5.7). */
const TSYNC_ESRCH = 1 << 4;

interface Rule {
  name: string;
  action: number;
  conditions: bigint[];
}

/** The flat policy. Throws a RuntimeError (InvalidArgument) that names the field. */
export function flattenSeccomp(profile: LinuxSeccomp): SeccompPolicy {
  const defaultAction = actionNumber(
    'defaultAction',
    profile.defaultAction,
    'defaultErrnoRet',
    profile.defaultErrnoRet,
  );
  const archs = (profile.architectures ?? []).map((name, index) =>
    lookUp(seccompArchs, name, `architectures[${index}]`, 'architecture'),
  );
  const rules = (profile.syscalls ?? []).flatMap((entry, index) => rulesOf(entry, `syscalls[${index}]`));
  return {
    defaultAction,
    archs,
    names: rules.map((rule) => rule.name),
    actions: Uint32Array.from(rules, (rule) => rule.action),
    conditionCounts: Uint32Array.from(rules, (rule) => rule.conditions.length / 4),
    conditions: BigUint64Array.from(rules.flatMap((rule) => rule.conditions)),
  };
}

/**
 * Flags for seccomp(2). Without `flags` in the profile speculation is left as it is where the kernel can (as runc
 * does: the mitigation costs a filtered process much, and unprivileged BPF, which it was for, is off by default).
 * `kernelFlags`: what this kernel takes.
 */
export function seccompFlagBits(profile: LinuxSeccomp, kernelFlags: number): number {
  const specAllow = seccompFlags['SECCOMP_FILTER_FLAG_SPEC_ALLOW'] ?? 0;
  if (profile.flags === undefined) return specAllow & kernelFlags;
  let bits = 0;
  profile.flags.forEach((name, index) => {
    bits |= lookUp(seccompFlags, name, `flags[${index}]`, 'flag');
  });
  // seccomp(2) takes these only (EINVAL otherwise) with, and only without a listener.
  if (notifies(profile)) {
    if ((bits & 1) !== 0) bits |= TSYNC_ESRCH;
  } else {
    bits &= ~(seccompFlags['SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'] ?? 0);
  }
  const unknown = bits & ~kernelFlags;
  if (unknown !== 0) {
    const names = profile.flags.filter((name) => ((seccompFlags[name] ?? 0) & unknown) !== 0);
    throw refusal('flags', `${names.join(', ')}: not supported by this kernel`);
  }
  return bits;
}

/** Whether some system call is handed to a listener. */
export function notifies(profile: LinuxSeccomp): boolean {
  return (profile.syscalls ?? []).some((entry) => entry.action === 'SCMP_ACT_NOTIFY');
}

function rulesOf(entry: LinuxSyscall, field: string): Rule[] {
  const action = actionNumber(`${field}.action`, entry.action, `${field}.errnoRet`, entry.errnoRet);
  const conditions = (entry.args ?? []).map((arg, index) => conditionOf(arg, `${field}.args[${index}]`));
  const indexes = new Set((entry.args ?? []).map((arg) => arg.index));
  // libseccomp takes one condition an argument. With several on one, each becomes a rule of its own, so that they are
  // alternatives: runc's reading of such profiles, which existing ones rely on.
  const alternatives = indexes.size === conditions.length ? [conditions.flat()] : conditions;
  return entry.names.flatMap((name) => alternatives.map((row) => ({ name, action, conditions: row })));
}

function conditionOf(arg: LinuxSeccompArg, field: string): bigint[] {
  if (!Number.isInteger(arg.index) || arg.index < 0 || arg.index >= ARGUMENTS) {
    throw refusal(`${field}.index`, `must be from 0 to ${ARGUMENTS - 1}, is ${arg.index}`);
  }
  const op = lookUp(seccompOperators, arg.op, `${field}.op`, 'operator');
  const value = word(arg.value, `${field}.value`);
  // For MASKED_EQ the first value is the mask and the second what is left after it.
  return [BigInt(arg.index), BigInt(op), value, word(arg.valueTwo ?? 0, `${field}.valueTwo`)];
}

/** An unsigned 64-bit value. A JSON number above 2^53 has lost its low bits: refused, not guessed. */
function word(value: number | bigint, field: string): bigint {
  const exact = typeof value === 'bigint' || Number.isSafeInteger(value);
  if (!exact) throw refusal(field, `${value} cannot be represented exactly`);
  const wide = BigInt(value);
  if (wide < 0n || wide > 0xffff_ffff_ffff_ffffn) throw refusal(field, `${value} is out of range`);
  return wide;
}

function actionNumber(field: string, name: string, errnoField: string, errnoRet: number | undefined): number {
  const action = lookUp(seccompActions, name, field, 'action');
  const takesErrno = action === SECCOMP_RET_ERRNO || action === SECCOMP_RET_TRACE;
  if (!takesErrno) {
    // The specification: "the runtime MUST print an error and fail".
    if (errnoRet !== undefined) throw refusal(errnoField, `${name} returns no errno`);
    return action;
  }
  const data = errnoRet ?? EPERM;
  const limit = action === SECCOMP_RET_ERRNO ? MAX_ERRNO : MAX_TRACE;
  if (!Number.isInteger(data) || data < 0 || data > limit) {
    throw refusal(errnoField, `must be from 0 to ${limit}, is ${data}`);
  }
  return action | data;
}

function lookUp<T>(table: Readonly<Record<string, T>>, name: string, field: string, what: string): T {
  if (Object.hasOwn(table, name)) return table[name] as T;
  throw refusal(field, `unknown ${what} ${JSON.stringify(String(name).slice(0, 64))}`);
}

function refusal(field: string, reason: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'compile seccomp',
    object: `linux.seccomp.${field}`,
    reason,
  });
}
