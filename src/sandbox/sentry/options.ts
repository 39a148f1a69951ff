/** Annotations of a pod or container that choose how its sentry works. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Report } from './filter.ts';

export interface SentryOptions {
  /** Landlock over the file system: nothing outside the root, not even through a leaked descriptor. */
  landlock: boolean;
  /** kernel: paths are the kernel's business. strict: they are the supervisor's. */
  profile: Profile;
  /** Which refusals the supervisor counts and streams. */
  report: Report;
}

export type Profile = 'kernel' | 'strict';

const PREFIX = 'io.bulkhead.sentry.';

/** Reads one option's value; what it should have been when it is none. */
type Reader = (options: SentryOptions, value: string) => string | undefined;

const oneOf = <T extends string>(values: readonly T[], value: string): T | undefined =>
  values.find((known) => known === value);

const readers: Readonly<Record<string, Reader>> = {
  landlock: (options, value) => {
    const known = oneOf(['true', 'false'], value);
    if (known === undefined) return 'true or false';
    options.landlock = known === 'true';
    return undefined;
  },
  report: (options, value) => {
    const known = oneOf(['none', 'unusual', 'all'], value);
    if (known === undefined) return 'none, unusual or all';
    options.report = known;
    return undefined;
  },
  profile: (options, value) => {
    const known = oneOf(['kernel', 'strict'], value);
    if (known === undefined) return 'kernel or strict';
    options.profile = known;
    return undefined;
  },
};

/** Reads the annotations; InvalidArgument for one that is not known, so that a misspelt wish is not lost. */
export function sentryOptions(id: string, annotations: Readonly<Record<string, string>> = {}): SentryOptions {
  const options: SentryOptions = { landlock: false, profile: 'kernel', report: 'unusual' };
  for (const [name, value] of Object.entries(annotations)) {
    if (!name.startsWith(PREFIX)) continue;
    const key = name.slice(PREFIX.length);
    const read = Object.hasOwn(readers, key) ? readers[key] : undefined;
    if (read === undefined) throw refusal(id, name, 'no such option');
    const wanted = read(options, value);
    if (wanted !== undefined) throw refusal(id, name, `${JSON.stringify(value)} is not ${wanted}`);
  }
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
