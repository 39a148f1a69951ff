/** Reading a bundle (runtime-spec "Filesystem Bundle"). */
import { isAbsolute, join } from 'node:path';
import type { Spec } from '../oci/types.ts';
import { parseSpec } from '../oci/validate/index.ts';
import { readConfigFile } from './config_file.ts';

/** The validated config.json of a bundle and its bytes. NotFound or InvalidArgument, naming the file and the field. */
export function readBundle(op: string, id: string, bundle: string): { spec: Spec; json: Buffer } {
  const json = readConfigFile(op, id, bundle);
  return { spec: parseSpec(json.toString('utf8'), id, op), json };
}

/** Host path of the root directory; config.json may give it relative to the bundle. */
export function rootfsPath(bundle: string, spec: Spec): string {
  const path = spec.root?.path ?? 'rootfs';
  return isAbsolute(path) ? path : join(bundle, path);
}
