/** Annotations of a pod or container that choose how its sentry works. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Report } from './filter.ts';
import { parseSocketRules, type SocketRule } from './socket_policy.ts';

export interface SentryOptions {
  /** Landlock over the file system: nothing outside the root, not even through a leaked descriptor. */
  landlock: boolean;
  /** kernel: paths are the kernel's business. strict: they are the supervisor's. */
  profile: Profile;
  /** Which refusals the supervisor counts and streams. */
  report: Report;
  /** mount and umount2 are answered as far as nothing of the host comes in; else they are refused. */
  mounts: boolean;
  /** Where sockets may lead; undefined: wherever the pod's network does. */
  connect?: SocketRule[];
  /** What sockets may be bound to. */
  bind?: SocketRule[];
  /** The rules for sockets refuse nothing: what they would refuse is only counted. */
  audit: boolean;
}

export type Profile = 'kernel' | 'strict';

const PREFIX = 'io.bulkhead.sentry.';

/** Takes one option's value over, or says what is wrong with it. */
type Reader = (options: SentryOptions, value: string) => string | undefined;

const oneOf = <T extends string>(values: readonly T[], value: string): T | undefined =>
  values.find((known) => known === value);

const readers: Readonly<Record<string, Reader>> = {
  landlock: (options, value) => switchOf(value, (on) => (options.landlock = on)),
  mounts: (options, value) => switchOf(value, (on) => (options.mounts = on)),
  audit: (options, value) => switchOf(value, (on) => (options.audit = on)),
  connect: (options, value) => rulesOf(value, (rules) => (options.connect = rules)),
  bind: (options, value) => rulesOf(value, (rules) => (options.bind = rules)),
  report: (options, value) => {
    const known = oneOf(['none', 'unusual', 'all'], value);
    if (known === undefined) return `${JSON.stringify(value)} is not none, unusual or all`;
    options.report = known;
    return undefined;
  },
  profile: (options, value) => {
    const known = oneOf(['kernel', 'strict'], value);
    if (known === undefined) return `${JSON.stringify(value)} is not kernel or strict`;
    options.profile = known;
    return undefined;
  },
};

function switchOf(value: string, take: (on: boolean) => void): string | undefined {
  if (value !== 'true' && value !== 'false') return `${JSON.stringify(value)} is not true or false`;
  take(value === 'true');
  return undefined;
}

function rulesOf(value: string, take: (rules: SocketRule[]) => void): string | undefined {
  const rules = parseSocketRules(value);
  if (typeof rules === 'string') return rules;
  take(rules);
  return undefined;
}

/** Reads the annotations; InvalidArgument for one that is not known, so that a misspelt wish is not lost. */
export function sentryOptions(id: string, annotations: Readonly<Record<string, string>> = {}): SentryOptions {
  const options: SentryOptions = {
    landlock: false,
    profile: 'kernel',
    report: 'unusual',
    mounts: false,
    audit: false,
  };
  for (const [name, value] of Object.entries(annotations)) {
    if (!name.startsWith(PREFIX)) continue;
    const key = name.slice(PREFIX.length);
    const read = Object.hasOwn(readers, key) ? readers[key] : undefined;
    if (read === undefined) throw refusal(id, name, 'no such option');
    const fault = read(options, value);
    if (fault !== undefined) throw refusal(id, name, fault);
  }
  // Then everything that is refused is to be seen.
  if (options.audit && annotations[`${PREFIX}report`] === undefined) options.report = 'all';
  return options;
}

function refusal(id: string, name: string, reason: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'create',
    id,
    object: `annotation ${name}`,
    reason,
  });
}
