/** Reading a bundle (runtime-spec "Filesystem Bundle"). */
import { readFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { errnoText } from '../base/errno.ts';
import type { Spec } from '../oci/types.ts';
import { parseSpec } from '../oci/validate/index.ts';

/** The validated config.json of a bundle and its bytes. NotFound or InvalidArgument, naming the file and the field. */
export function readBundle(op: string, id: string, bundle: string): { spec: Spec; json: Buffer } {
  const path = join(bundle, 'config.json');
  let json: Buffer;
  try {
    json = readFileSync(path);
  } catch (error) {
    const { errno, code } = error as NodeJS.ErrnoException;
    throw new RuntimeError({
      code: code === 'ENOENT' ? ErrorCode.NotFound : ErrorCode.InvalidArgument,
      op,
      id,
      object: path,
      reason: errnoText(-(errno ?? 0)),
      remedy: code === 'ENOENT' ? 'make one with `bulkhead spec`' : undefined,
      path,
      errno: code,
      cause: error,
    });
  }
  return { spec: parseSpec(json.toString('utf8'), id, op), json };
}

/** Host path of the root directory; config.json may give it relative to the bundle. */
export function rootfsPath(bundle: string, spec: Spec): string {
  const path = spec.root?.path ?? 'rootfs';
  return isAbsolute(path) ? path : join(bundle, path);
}
