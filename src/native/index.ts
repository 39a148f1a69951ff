/**
 * The only loader of the addon, and TypeScript's side of it. The addon is loaded at the first use, so that what needs
 * no kernel call (help texts, plans, tests of pure code) does not pay for it and runs where it is not built.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Addon, AddonError } from './addon.d.ts';

export type * from './addon.d.ts';

let loaded: Addon | undefined;

/** The addon. Throws a RuntimeError (FailedPrecondition) that names the file when it is missing or does not load. */
export function addon(): Addon {
  loaded ??= load(findAddon());
  return loaded;
}

/** Where the addon is, by BULKHEAD_ADDON, beside the bundle (installed), or in the tree that it was built in. */
export function findAddon(): string {
  // eslint-disable-next-line no-restricted-properties -- a sanitizer run of any program must be able to swap it
  const forced = process.env['BULKHEAD_ADDON'];
  if (forced !== undefined && forced !== '') return forced;
  const here = import.meta.dirname;
  const beside = join(here, 'addon.node');
  return existsSync(beside) ? beside : join(here, '..', '..', 'build', 'native', 'addon.node');
}

function load(path: string): Addon {
  try {
    return createRequire(import.meta.filename)(path) as Addon;
  } catch (cause) {
    const missing = !existsSync(path);
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'load addon',
      object: path,
      reason: missing ? 'no such file' : cause instanceof Error ? cause.message : String(cause),
      remedy: missing ? 'run `make native`, or `make install`' : undefined,
      path,
      cause,
    });
  }
}

/** True for what the addon's calls throw when the kernel refuses. */
export function isAddonError(thrown: unknown): thrown is AddonError {
  return thrown instanceof Error && 'errno' in thrown && 'code' in thrown && 'syscall' in thrown;
}
