/**
 * The text of a spec file → a spec that everything else can rely on, or CdiError about the first thing wrong with it.
 * Strict, as SPEC.md's reference implementation is: unknown fields and fields given twice are refused.
 */
import { ShapeError } from '../../oci/validate/shape.ts';
import { CdiError } from './error.ts';
import { deviceNameFault, parseKind } from './names.ts';
import { specShape } from './shapes.ts';
import type { CdiSpec, ContainerEdits } from './types.ts';
import { versionFault } from './version.ts';

/** Largest spec file that is read; a node's worth of GPUs with all their partitions is some 100 KiB. */
export const MAX_SPEC_BYTES = 8 * 1024 * 1024;
const MAX_DEPTH = 32;

export type SpecFormat = 'json' | 'yaml';

/** Parses and checks a spec. `object` names it in errors: a path. */
export async function parseCdiSpec(text: string, format: SpecFormat, object: string): Promise<CdiSpec> {
  try {
    if (text.length > MAX_SPEC_BYTES) {
      throw new ShapeError('', `is ${text.length} characters long, at most ${MAX_SPEC_BYTES} are read`);
    }
    const value = format === 'json' ? parseJson(text) : (await import('./yaml.ts')).parseYaml(text);
    return checkCdiSpec(value);
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw new CdiError(error.path === '' ? object : `${object}: ${error.path}`, error.message, error);
  }
}

/** Checks a decoded value; throws ShapeError. */
export function checkCdiSpec(value: unknown): CdiSpec {
  specShape(value, '');
  const spec = value as CdiSpec;
  const kind = parseKind(spec.kind);
  if (typeof kind === 'string') throw new ShapeError('kind', kind);
  const seen = new Set<string>();
  for (const [index, device] of spec.devices.entries()) {
    const at = `devices[${index}]`;
    const fault = deviceNameFault(device.name);
    if (fault !== undefined) throw new ShapeError(`${at}.name`, fault);
    if (seen.has(device.name)) {
      throw new ShapeError(`${at}.name`, `${JSON.stringify(device.name)} is given twice`);
    }
    seen.add(device.name);
    if (isEmpty(device.containerEdits)) {
      throw new ShapeError(`${at}.containerEdits`, 'is empty: the device would change nothing');
    }
  }
  if (seen.size === 0) throw new ShapeError('devices', 'must not be empty');
  const version = versionFault(spec);
  if (version !== undefined) throw new ShapeError('cdiVersion', version);
  return spec;
}

/** True for edits that change nothing. */
export function isEmpty(edits: ContainerEdits): boolean {
  const { env, deviceNodes, netDevices, hooks, mounts, additionalGids, intelRdt } = edits;
  const lists = [env, deviceNodes, netDevices, hooks, mounts, additionalGids];
  return intelRdt === undefined && lists.every((one) => (one ?? []).length === 0);
}

function parseJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ShapeError('', 'is not JSON');
  }
  const twice = repeatedKey(text);
  if (twice !== undefined) throw new ShapeError('', `field ${JSON.stringify(twice)} is given twice`);
  return value;
}

/** The first key that an object of this JSON text, known to be well-formed, has twice. JSON.parse keeps the last. */
function repeatedKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]]/g;
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const [word] = match;
    if (word === '{' || word === '[') {
      open.push(word === '{' ? new Set() : undefined);
      if (open.length > MAX_DEPTH) throw new ShapeError('', `is nested deeper than ${MAX_DEPTH} levels`);
    } else if (word === '}' || word === ']') open.pop();
    else if (/^\s*:/.test(text.slice(token.lastIndex, token.lastIndex + 256))) {
      const key = JSON.parse(word) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return undefined;
}
