/** Annotations of a pod or container that choose how its sentry works. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';

export interface SentryOptions {
  /** Landlock over the file system: nothing outside the root, not even through a leaked descriptor. */
  landlock: boolean;
}

const PREFIX = 'io.bulkhead.sentry.';

/** Reads the annotations; InvalidArgument for one that is not known, so that a misspelt wish is not lost. */
export function sentryOptions(id: string, annotations: Readonly<Record<string, string>> = {}): SentryOptions {
  const options: SentryOptions = { landlock: false };
  for (const [name, value] of Object.entries(annotations)) {
    if (!name.startsWith(PREFIX)) continue;
    const key = name.slice(PREFIX.length);
    if (key !== 'landlock') refuse(id, name, 'no such option');
    if (value !== 'true' && value !== 'false')
      refuse(id, name, `${JSON.stringify(value)} is not true or false`);
    options.landlock = value === 'true';
  }
  return options;
}

function refuse(id: string, name: string, reason: string): never {
  throw new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'create',
    id,
    object: `annotation ${name}`,
    reason,
  });
}
