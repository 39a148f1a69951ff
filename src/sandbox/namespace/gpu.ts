/**
 * NVIDIA's driver in a container, without NVIDIA's toolkit: what has to be in the root file system beside CDI's mounts is
 * put there when that is mounted and before anything of the container runs. Paths are resolved beneath the root
 * (openat2(2)); nothing of the image is executed, and of what is in it only the loader's cache is read.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type * as GpuLibrary from '../../devices/gpu/prepare.ts';
import type { NvidiaPreparation } from '../../devices/gpu/prepare.ts';
import type { Addon } from '../../native/index.ts';
import type { Spec } from '../../oci/types.ts';

export interface GpuTools {
  /** Where files lie that are mounted into containers: below the state root. */
  dir: string;
  addon: () => Pick<Addon, 'readFileInRoot' | 'writeFileInRoot' | 'listInRoot'>;
  /** procfs of the host; default /proc. */
  proc?: string | undefined;
}

export interface PreparedGpu {
  spec: Spec;
  /** @param root of the container, as this process reaches it; `warn` gets what could not be done */
  prepareRoot: (root: string, warn: (message: string) => void) => void;
}

const MAX_CACHE_BYTES = 16 << 20;

/** Whether a configuration may need any of it: the library is loaded for those only. */
export function mountsNvidia({ mounts = [] }: Spec): boolean {
  return mounts.some(({ destination }) => /\/lib(?:cuda|nvidia-ml)\.so\.\d/.test(destination));
}

/**
 * undefined: the configuration has nothing of NVIDIA's driver. FailedPrecondition for libraries of another driver than the
 * loaded one, with nothing made: every call of theirs would fail.
 */
export async function prepareGpu(id: string, spec: Spec, tools: GpuTools): Promise<PreparedGpu | undefined> {
  if (!mountsNvidia(spec)) return undefined;
  const library = await import('../../devices/gpu/prepare.ts');
  const stale = library.staleLibraries(spec, textOf(join(tools.proc ?? '/proc', 'driver/nvidia/version')));
  if (stale !== undefined) {
    const { sentence: reason, fix: remedy } = stale;
    throw new RuntimeError({ code: ErrorCode.FailedPrecondition, op: 'create', id, reason, remedy });
  }
  const work = library.nvidiaPreparation(spec);
  if (work === undefined) return undefined;
  return {
    spec: work.parameters ? withParameters(spec, tools, library) : spec,
    prepareRoot: (root, warn) => prepareRoot({ root, work, library, addon: tools.addon(), warn }),
  };
}

type Library = typeof GpuLibrary;

/** Empty: there is no such file. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** A file of ours, mounted over the driver's. Absent when the host's driver has none. */
function withParameters(spec: Spec, { dir, proc = '/proc' }: GpuTools, library: Library): Spec {
  const text = textOf(library.PARAMETERS.replace(/^\/proc/, proc));
  if (text === '') return spec;
  const source = join(dir, 'nvidia-params');
  mkdirSync(dir, { recursive: true, mode: 0o755 });
  const temporary = `${source}.${process.pid}`;
  writeFileSync(temporary, library.hiddenParameters(text), { mode: 0o444 });
  renameSync(temporary, source);
  const options = ['bind', 'ro', 'nosuid', 'nodev', 'noexec', 'rprivate'];
  const mount = { destination: library.PARAMETERS, type: 'bind', source, options };
  return { ...spec, mounts: [...(spec.mounts ?? []), mount] };
}

interface RootWork {
  root: string;
  work: NvidiaPreparation;
  library: Library;
  addon: ReturnType<GpuTools['addon']>;
  warn: (message: string) => void;
}

function prepareRoot({ root, work, library, addon, warn }: RootWork): void {
  const attempt = (what: string, run: () => void): void => {
    try {
      run();
    } catch (error) {
      warn(`GPU: ${what}: ${(error as Error).message}`);
    }
  };
  const absent = <T>(run: () => T): T | undefined => {
    try {
      return run();
    } catch {
      return undefined;
    }
  };
  attempt(`/${library.LD_CACHE} not written`, () => {
    const names = work.compatibility ? (absent(() => addon.listInRoot(root, library.COMPAT_DIR)) ?? []) : [];
    const compatible = library.compatibilityLibraries(names, work.driver);
    const newer = new Set(compatible.map(({ name }) => name));
    const added = [...compatible, ...work.libraries.filter(({ name }) => !newer.has(name))];
    if (added.length === 0) return;
    const present = absent(() => addon.readFileInRoot(root, library.LD_CACHE, MAX_CACHE_BYTES));
    addon.writeFileInRoot(root, library.LD_CACHE, library.newCache(present, added), 0o644);
  });
  const lists = (absent(() => addon.listInRoot(root, 'lib')) ?? []).map(library.muslPathFile);
  for (const file of lists.filter((each) => each !== undefined)) {
    attempt(`/${file} not written`, () => {
      const present = absent(() => addon.readFileInRoot(root, file, MAX_CACHE_BYTES));
      const text = library.newMuslPath(present && Buffer.from(present).toString(), work.libraries);
      if (text !== undefined) addon.writeFileInRoot(root, file, Buffer.from(text), 0o644);
    });
  }
  const { profile } = work;
  if (profile === undefined) return;
  attempt(`/${library.PROFILE} not written`, () => {
    addon.writeFileInRoot(root, library.PROFILE, Buffer.from(library.profileText(profile)), 0o644);
  });
}
