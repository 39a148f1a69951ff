/**
 * What NVIDIA's toolkit has its hooks do in a container's root file system, as data: libraries for the loader's cache,
 * CUDA's forward compatibility libraries, the driver's parameters, the application profile. Recognised by what CDI has
 * mounted, and left to the toolkit's own hooks where the configuration has these. Pure.
 */
import type { Mount, Spec } from '../../oci/types.ts';
import type { Refusal } from '../model.ts';
import { libraryFlags, mergeCache, readCache, writeCache, type CachedLibrary } from './ld_cache.ts';
import { parseDriverVersion } from './nvidia.ts';

export interface NvidiaPreparation {
  /** "570.86.15". */
  driver: string;
  /** Empty: the toolkit's hook makes the cache. */
  libraries: CachedLibrary[];
  /** Images' newer CUDA libraries may come before the driver's. */
  compatibility: boolean;
  /** A copy of the driver's parameters hides that the driver makes device nodes. */
  parameters: boolean;
  /** Bits by minor number of the GPUs that EGL may show; undefined: no graphics, or the toolkit's hook does it. */
  profile: bigint | undefined;
}

export const PARAMETERS = '/proc/driver/nvidia/params';
export const LD_CACHE = 'etc/ld.so.cache';
export const COMPAT_DIR = 'usr/local/cuda/compat';
export const PROFILE = 'etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf';

const DRIVER = /\/lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)?)$/;
const SONAME = /^(lib.+\.so\.\d+)$/;

/** Undefined: the configuration has nothing of NVIDIA's driver. */
export function nvidiaPreparation(spec: Spec, arch: string = process.arch): NvidiaPreparation | undefined {
  const mounts = spec.mounts ?? [];
  const driver = mounts
    .map(({ destination }) => DRIVER.exec(destination)?.[1])
    .find((found) => found !== undefined);
  if (driver === undefined) return undefined;
  const done = toolkitHooks(spec);
  return {
    driver,
    libraries: done.has('update-ldcache') ? [] : librariesOf(mounts, arch),
    compatibility: !done.has('enable-cuda-compat'),
    parameters: !done.has('disable-device-node-modification'),
    profile: done.has('update-application-profile') ? undefined : profileMask(spec),
  };
}

/**
 * Why the libraries that somebody else has mounted (CRI's CDI, a toolkit) cannot work; undefined: nothing speaks against
 * them. Only NVML's tells: CUDA's own may be of another version on purpose (forward compatibility).
 * @param version text of /proc/driver/nvidia/version
 */
export function staleLibraries({ mounts = [] }: Spec, version: string): Omit<Refusal, 'check'> | undefined {
  const loaded = parseDriverVersion(version);
  const given = mounts
    .map(({ destination }) => /\/libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)$/.exec(destination)?.[1])
    .find((found) => found !== undefined);
  if (loaded === undefined || given === undefined || given === loaded) return undefined;
  return {
    sentence: `libraries of NVIDIA driver ${given} are mounted but ${loaded} is loaded; the CDI spec that they come from is stale`,
    fix: 'write it anew with the program that made it: nvidia-ctk cdi generate, or bulkhead devices cdi generate',
  };
}

/** Subcommands of nvidia-cdi-hook and nvidia-ctk hook that run when the container is created. */
function toolkitHooks({ hooks }: Spec): Set<string> {
  const names = (hooks?.createContainer ?? []).flatMap(({ path, args = [] }): string[] => {
    const program = path.split('/').at(-1);
    if (program === 'nvidia-cdi-hook') return args.slice(1, 2);
    return program === 'nvidia-ctk' && args[1] === 'hook' ? args.slice(2, 3) : [];
  });
  return new Set(names);
}

function librariesOf(mounts: readonly Mount[], arch: string): CachedLibrary[] {
  const flags = libraryFlags(arch);
  if (flags === undefined) return [];
  return mounts.flatMap(({ destination }): CachedLibrary[] => {
    const name = SONAME.exec(destination.split('/').at(-1) ?? '')?.[1];
    return name === undefined ? [] : [{ name, path: destination, flags }];
  });
}

/** EGLVisibleDGPUDevices, as libnvidia-container has it: only where there are graphics libraries to read it. */
function profileMask({ mounts = [], linux }: Spec): bigint | undefined {
  if (!mounts.some(({ destination }) => /\/libEGL_nvidia\.so\.\d/.test(destination))) return undefined;
  const minors = (linux?.devices ?? []).flatMap(({ path }) => {
    const minor = /^\/dev\/nvidia(\d+)$/.exec(path)?.[1];
    return minor === undefined ? [] : [BigInt(minor)];
  });
  return minors.reduce((mask, minor) => mask | (1n << minor), 0n);
}

export function profileText(mask: bigint): string {
  const settings = `"settings":["EGLVisibleDGPUDevices",0x${mask.toString(16)}]`;
  return `{"profiles":[{"name":"_container_",${settings}}],"rules":[{"pattern":[],"profile":"_container_"}]}\n`;
}

/** The driver's parameters as a container is to see them: it would make device nodes that the container may not have. */
export function hiddenParameters(text: string): string {
  return text.replace(/^ModifyDeviceFiles: .*$/m, 'ModifyDeviceFiles: 0');
}

/**
 * CUDA's forward compatibility libraries of an image, when they are of a later driver branch than the host's (CUDA
 * Compatibility guide): an older one would only lose what the host's driver has.
 * @param names in COMPAT_DIR
 */
export function compatibilityLibraries(
  names: readonly string[],
  driver: string,
  arch: string = process.arch,
): CachedLibrary[] {
  const flags = libraryFlags(arch);
  const branch = (version: string | undefined): number => Number(version?.split('.')[0] ?? '0');
  const version = names
    .map((name) => /^libcuda\.so\.(\d+\..+)$/.exec(name)?.[1])
    .find((found) => found !== undefined);
  if (flags === undefined || branch(version) <= branch(driver)) return [];
  return names
    .filter((name) => SONAME.test(name))
    .map((name) => ({ name, path: `/${COMPAT_DIR}/${name}`, flags }));
}

/** musl's loader has no cache but a list: /etc/ld-musl-ARCH.path. The loader's own name says which; undefined: it is none. */
export function muslPathFile(loader: string): string | undefined {
  const arch = /^ld-musl-([a-z0-9_]+)\.so\.1$/.exec(loader)?.[1];
  return arch === undefined ? undefined : `etc/ld-musl-${arch}.path`;
}

/** Where musl's loader looks without such a file (ldso/dynlink.c). */
const MUSL_DIRECTORIES = '/lib:/usr/local/lib:/usr/lib';

/** The list with the directories of the libraries behind its own; undefined: they are in it. */
export function newMuslPath(
  present: string | undefined,
  libraries: readonly CachedLibrary[],
): string | undefined {
  const own = (present ?? MUSL_DIRECTORIES).split(/[\n:]/).filter((dir) => dir !== '');
  const all = new Set([...own, ...libraries.map(({ path }) => path.slice(0, path.lastIndexOf('/')))]);
  return all.size === new Set(own).size ? undefined : `${[...all].join(':')}\n`;
}

/** @param present the image's cache; undefined: it has none. A damaged one is made anew from what is added */
export function newCache(present: Uint8Array | undefined, added: readonly CachedLibrary[]): Buffer {
  return writeCache(mergeCache(present === undefined ? [] : (readCache(present) ?? []), added));
}
