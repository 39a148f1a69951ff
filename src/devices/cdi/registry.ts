/**
 * The devices that the spec files of this host describe. A later directory overrides an earlier one; two files of one
 * directory that describe the same device contradict each other, and nobody gets it. A file that is wrong is left out,
 * with its error kept for whoever asks for a device that is not there.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Spec } from '../../oci/types.ts';
import { applyEdits, completeNodes, mergeEdits, type NodeLookup } from './edits.ts';
import { CdiError } from './error.ts';
import { parseKind, parseQualifiedName } from './names.ts';
import { MAX_SPEC_BYTES, parseCdiSpec } from './parse.ts';
import type { CdiDevice, CdiSpec } from './types.ts';

/** Lowest priority first (SPEC.md, "CDI specification file locations"). */
export const defaultSpecDirs = ['/etc/cdi', '/var/run/cdi'] as const;

export interface SpecFile {
  path: string;
  /** Index of its directory: higher wins. */
  priority: number;
  spec: CdiSpec;
}

export interface FoundDevice {
  file: SpecFile;
  device: CdiDevice;
}

export class CdiRegistry {
  readonly files: readonly SpecFile[];
  /** Faults by path of the file or directory. */
  readonly errors: ReadonlyMap<string, readonly string[]>;
  readonly #devices: ReadonlyMap<string, FoundDevice>;

  constructor(files: readonly SpecFile[], errors: ReadonlyMap<string, readonly string[]>) {
    const faults = new Map([...errors].map(([path, list]) => [path, [...list]]));
    this.files = files;
    this.errors = faults;
    this.#devices = index(files, (path, fault) => faults.set(path, [...(faults.get(path) ?? []), fault]));
  }

  /** Qualified names, sorted. */
  get names(): string[] {
    return [...this.#devices.keys()].sort();
  }

  get(name: string): FoundDevice | undefined {
    return this.#devices.get(name);
  }

  /**
   * The configuration with every device of `names`, each once, in that order: the edits of a device's file before its
   * own, once a file. CdiError that names all devices that are not there.
   */
  inject(spec: Spec, names: readonly string[], lookup: NodeLookup): Spec {
    const wanted = [...new Set(names)];
    const missing = wanted.filter((name) => !this.#devices.has(name));
    if (missing.length > 0) throw this.#notFound(missing);
    const seen = new Set<SpecFile>();
    const edits = wanted.flatMap((name) => {
      const { file, device } = this.#devices.get(name) as FoundDevice;
      const shared = seen.has(file) ? [] : [file.spec.containerEdits ?? {}];
      seen.add(file);
      return [...shared, device.containerEdits];
    });
    return applyEdits(spec, completeNodes(mergeEdits(edits), lookup));
  }

  #notFound(missing: readonly string[]): CdiError {
    const [first = ''] = missing;
    const object = `CDI device${missing.length > 1 ? 's' : ''} ${missing.join(', ')}`;
    const parsed = parseQualifiedName(first);
    if (typeof parsed === 'string') return new CdiError(`CDI device ${first}`, parsed);
    const kind = `${parsed.vendor}/${parsed.class}`;
    const known = this.names
      .filter((name) => name.startsWith(`${kind}=`))
      .map((name) => name.slice(kind.length + 1));
    const read = this.files.filter(({ spec }) => spec.kind === kind).map(({ path }) => path);
    const parts = ['not found'];
    if (known.length > 0) parts.push(`known of this kind: ${known.join(', ')}`);
    if (read.length > 0) parts.push(`specs read: ${read.join(', ')}`);
    else parts.push(`no spec file describes ${kind}`);
    const wrong = [...this.errors].map(([path, [fault = '']]) =>
      fault.startsWith(path) ? fault : `${path}: ${fault}`,
    );
    if (wrong.length > 0) parts.push(`files with errors: ${wrong.join(' | ')}`);
    const remedy =
      read.length === 0 && generated.has(kind)
        ? `bulkhead devices cdi generate --kind ${kind} --output /etc/cdi/${kind.replace('/', '-')}.json`
        : 'see what there is with: bulkhead devices cdi list';
    return new CdiError(object, parts.join('; '), undefined, remedy);
  }
}

/** Kinds of which `bulkhead devices cdi generate` makes specs; functions need none to be named. */
const generated = new Set(['nvidia.com/gpu', 'amd.com/gpu', 'intel.com/gpu', 'bulkhead.io/pmem']);

function index(
  files: readonly SpecFile[],
  fault: (path: string, text: string) => void,
): Map<string, FoundDevice> {
  const devices = new Map<string, FoundDevice>();
  const conflicts = new Set<string>();
  for (const file of files) {
    for (const device of file.spec.devices) {
      const name = `${file.spec.kind}=${device.name}`;
      const other = devices.get(name)?.file;
      if (other !== undefined && other.priority > file.priority) continue;
      if (other?.priority === file.priority) {
        conflicts.add(name);
        const text = `conflicting device ${JSON.stringify(name)} (specs ${file.path}, ${other.path})`;
        fault(file.path, text);
        fault(other.path, text);
        continue;
      }
      devices.set(name, { file, device });
    }
  }
  // As in the reference library: a higher directory does not settle what the files of a lower one disagree on.
  for (const name of conflicts) devices.delete(name);
  return devices;
}

export interface ReadOptions {
  /** Read only files whose text speaks of one of these kinds; the others are not parsed. Default: all. */
  kinds?: readonly string[] | undefined;
}

/** Reads `*.json` and `*.yaml` of the directories, not of those below. A directory that is absent is empty. */
export async function readRegistry(
  dirs: readonly string[] = defaultSpecDirs,
  options: ReadOptions = {},
): Promise<CdiRegistry> {
  const files: SpecFile[] = [];
  const errors = new Map<string, string[]>();
  for (const [priority, dir] of dirs.entries()) {
    for (const path of specPaths(dir, errors)) {
      try {
        const text = readSpecText(path);
        if (options.kinds !== undefined && !options.kinds.some((kind) => mentions(text, kind))) continue;
        const format = path.endsWith('.json') ? 'json' : 'yaml';
        files.push({ path, priority, spec: await parseCdiSpec(text, format, path) });
      } catch (error) {
        errors.set(path, [error instanceof Error ? error.message : String(error)]);
      }
    }
  }
  return new CdiRegistry(files, errors);
}

/** The kinds of qualified names, for ReadOptions; names that are none have none. */
export function kindsOf(names: readonly string[]): string[] {
  const kinds = names.map((name) => {
    const parsed = parseKind(name.split('=', 1)[0] ?? '');
    return typeof parsed === 'string' ? '' : `${parsed.vendor}/${parsed.class}`;
  });
  return [...new Set(kinds)].filter((kind) => kind !== '');
}

/** JSON may write a slash as "\/", and any letter as \u…: then the file is parsed to find out. */
function mentions(text: string, kind: string): boolean {
  return text.includes(kind) || text.includes('\\');
}

function specPaths(dir: string, errors: Map<string, string[]>): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => /\.(?:json|yaml)$/.test(entry.name) && !entry.isDirectory())
      .map(({ name }) => join(dir, name))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') errors.set(dir, [String(error)]);
    return [];
  }
}

/** A fifo or device by that name would block or never end. */
function readSpecText(path: string): string {
  const info = statSync(path);
  if (!info.isFile()) throw new CdiError(path, 'is not a regular file');
  if (info.size > MAX_SPEC_BYTES) {
    throw new CdiError(path, `is ${info.size} bytes long, at most ${MAX_SPEC_BYTES} are read`);
  }
  return readFileSync(path, 'utf8');
}
