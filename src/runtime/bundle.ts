/** Reading a bundle (runtime-spec "Filesystem Bundle"). */
import { isAbsolute, join } from 'node:path';
import type { Spec } from '../oci/types.ts';
import { parseSpec } from '../oci/validate/index.ts';
import { readConfigFile } from './config_file.ts';

/**
 * The validated config.json of a bundle and its bytes. NotFound or InvalidArgument, naming the file and the field.
 * @param ahead where the same bytes may have been parsed already
 */
export function readBundle(
  op: string,
  id: string,
  bundle: string,
  ahead?: ParsedAhead,
): { spec: Spec; json: Buffer } {
  const json = readConfigFile(op, id, bundle);
  return { spec: ahead?.take(bundle, json) ?? parseSpec(json.toString('utf8'), id, op), json };
}

/** Creates that were announced and never came (a start that failed) must not add up. */
const MAX_AHEAD = 16;

/** Configurations parsed while nobody waited for them, by bundle; docs/decisions/007. */
export class ParsedAhead {
  readonly #parsed = new Map<string, { json: Buffer; spec: Spec }>();

  /** What is wrong with it the create says. */
  parse(id: string, bundle: string): void {
    try {
      const json = readConfigFile('create', id, bundle);
      const spec = parseSpec(json.toString('utf8'), id, 'create');
      const [oldest] = this.#parsed.keys();
      if (oldest !== undefined && this.#parsed.size >= MAX_AHEAD) this.#parsed.delete(oldest);
      this.#parsed.set(bundle, { json, spec });
    } catch {
      this.#parsed.delete(bundle);
    }
  }

  /** Hands out the configuration of a bundle, once, if it was made of the bytes that the file has now. */
  take(bundle: string, json: Buffer): Spec | undefined {
    const parsed = this.#parsed.get(bundle);
    this.#parsed.delete(bundle);
    return parsed?.json.equals(json) === true ? parsed.spec : undefined;
  }
}

/** Host path of the root directory; config.json may give it relative to the bundle. */
export function rootfsPath(bundle: string, spec: Spec): string {
  const path = spec.root?.path ?? 'rootfs';
  return isAbsolute(path) ? path : join(bundle, path);
}
