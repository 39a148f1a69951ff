/** Seccomp profiles to programs, by the addon (libseccomp), cached by content. */
import { createHash } from 'node:crypto';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { LinuxSeccomp } from '../oci/types.ts';
import type { Addon } from './addon.d.ts';
import { errnoText } from '../base/errno.ts';
import { addon, isAddonError } from './index.ts';
import {
  flattenSeccomp,
  seccompActions,
  seccompArchs,
  seccompFlagBits,
  seccompFlags,
  seccompOperators,
} from './seccomp_policy.ts';
import { readProgram, writeProgram, type StoredProgram } from './seccomp_cache.ts';

export interface CompiledSeccomp {
  /** struct sock_filter[], shared by all callers: not to be written to. */
  program: Uint8Array;
  /** SECCOMP_FILTER_FLAG_*; who installs it with a listener adds NEW_LISTENER. */
  flags: number;
  /** What was passed over, for the log. */
  warnings: string[];
}

/** Profiles in use on one host are few: the engine's default one, and some of one pod each. */
const CACHE_SIZE = 64;
/** By the hash of the profile's JSON. Oldest first: a Map keeps the order of insertion. */
const cache = new Map<string, CompiledSeccomp>();

/** Changes when the same profile compiles to another program: what is on disk then is not used any more. */
const FORMAT = 1;

/**
 * Compiles `linux.seccomp`. System calls and architectures that libseccomp does not know are passed over with a
 * warning. Throws a RuntimeError (InvalidArgument) that names the field.
 *
 * `dir`: where programs are kept on disk too (for short-lived processes); only its owner may be able to write there.
 */
export function compileSeccomp(profile: LinuxSeccomp, dir?: string): CompiledSeccomp {
  const key = contentHash(profile);
  const found = cache.get(key);
  if (found !== undefined) {
    cache.delete(key);
    cache.set(key, found);
    return found;
  }
  const compiled = dir === undefined ? compileUncached(profile) : compileStored(profile, key, dir);
  cache.set(key, compiled);
  const [oldest] = cache.keys();
  if (cache.size > CACHE_SIZE && oldest !== undefined) cache.delete(oldest);
  return compiled;
}

/** As compileSeccomp, every time anew. */
export function compileUncached(profile: LinuxSeccomp, native: Addon = addon()): CompiledSeccomp {
  const library = native.seccompLibrary();
  return {
    flags: seccompFlagBits(profile, library.kernelFlags),
    ...compileProgram(profile, library, native),
  };
}

function compileStored(profile: LinuxSeccomp, hash: string, dir: string, native = addon()): CompiledSeccomp {
  const library = native.seccompLibrary();
  const flags = seccompFlagBits(profile, library.kernelFlags);
  const key = [FORMAT, library.version, library.nativeArch, hash].join('-');
  const stored = readProgram(dir, key);
  if (stored !== undefined) return { flags, ...stored };
  const compiled = compileProgram(profile, library, native);
  writeProgram(dir, key, compiled);
  return { flags, ...compiled };
}

function compileProgram(profile: LinuxSeccomp, library: { version: string }, native: Addon): StoredProgram {
  const policy = flattenSeccomp(profile);
  const { program, unknownSyscalls, unknownArchs } = translateErrors(() => native.compileSeccomp(policy));
  const by = `not known to libseccomp ${library.version}, passed over`;
  const warnings = [
    ...(unknownSyscalls.length > 0 ? [`seccomp: system calls ${unknownSyscalls.join(', ')}: ${by}`] : []),
    ...(unknownArchs.length > 0 ? [`seccomp: architectures ${unknownArchs.join(', ')}: ${by}`] : []),
  ];
  return { program, warnings };
}

export interface SeccompInfo {
  actions: string[];
  operators: string[];
  archs: string[];
  knownFlags: string[];
  /** Of these, what the running kernel takes. */
  supportedFlags: string[];
  libraryVersion: string;
  apiLevel: number;
}

/** What profiles may say here (runtime-spec features-linux.md). */
export function seccompInfo(native: Addon = addon()): SeccompInfo {
  const library = native.seccompLibrary();
  return {
    actions: Object.keys(seccompActions),
    operators: Object.keys(seccompOperators),
    archs: Object.keys(seccompArchs),
    knownFlags: Object.keys(seccompFlags),
    supportedFlags: Object.entries(seccompFlags)
      .filter(([, bit]) => (library.kernelFlags & bit) === bit)
      .map(([name]) => name),
    libraryVersion: library.version,
    apiLevel: library.apiLevel,
  };
}

function contentHash(profile: LinuxSeccomp): string {
  const text = JSON.stringify(profile, (_key, value: unknown) =>
    typeof value === 'bigint' ? `${value}n` : value,
  );
  return createHash('sha256').update(text).digest('hex');
}

function translateErrors<T>(compile: () => T): T {
  try {
    return compile();
  } catch (thrown) {
    if (!isAddonError(thrown)) throw thrown;
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'compile seccomp',
      object: thrown.path === undefined ? 'linux.seccomp' : `linux.seccomp: ${thrown.path}`,
      reason: `${thrown.syscall}: ${errnoText(thrown.errno)}`,
      errno: thrown.code,
      cause: thrown,
    });
  }
}
