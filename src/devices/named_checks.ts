/**
 * Checks of devices that a container asks for by their CDI names, right before its start: what a spec file promises may
 * have ceased to be true since it was written.
 */
import type { FoundDevice } from './cdi/registry.ts';
import { staleSpec, staleSpecs } from './gpu/checks.ts';
import { probeNvidia } from './gpu/nvidia.ts';
import type { HostTree } from './host_tree.ts';
import type { Refusal, WallName } from './model.ts';
import { ALLOW_NONPERSISTENT, noMapSync } from './pmem/checks.ts';

/** mmap(2), and open(2) with O_TMPFILE on file systems that cannot have DAX either. */
const notDurable = new Set(['EOPNOTSUPP', 'EINVAL', 'EISDIR']);
const PMEM_KIND = 'bulkhead.io/pmem';

export interface NamedChecks {
  host: HostTree;
  /** Throws with `code` EOPNOTSUPP when stores to memory mapped from the path are not durable. */
  mapSync: (path: string) => void;
  annotations: Readonly<Record<string, string>>;
  wall: WallName;
}

/** The first reason against the devices; undefined: none. */
export function checkNamed(devices: readonly FoundDevice[], input: NamedChecks): Refusal | undefined {
  return staleDriver(devices, input) ?? notPersistent(devices, input);
}

function staleDriver(devices: readonly FoundDevice[], { host }: NamedChecks): Refusal | undefined {
  const files = [...new Set(devices.map(({ file }) => file))];
  if (!files.some(({ spec }) => spec.kind === 'nvidia.com/gpu')) return undefined;
  const loaded = probeNvidia(host)?.version;
  if (loaded === undefined) return undefined;
  const [stale] = staleSpecs(files, loaded);
  return stale === undefined ? undefined : { check: 'cdi-stale', ...staleSpec(stale, loaded) };
}

/** A file system is tried, not believed: mount options say dax where the file's own flags or the device do not. */
function notPersistent(
  devices: readonly FoundDevice[],
  { mapSync, annotations, wall }: NamedChecks,
): Refusal | undefined {
  if (annotations[ALLOW_NONPERSISTENT] === 'true') return undefined;
  const paths = devices
    .filter(({ file }) => file.spec.kind === PMEM_KIND)
    .flatMap(({ device }) => (device.containerEdits.mounts ?? []).map(({ hostPath }) => hostPath));
  const allow = `set the annotation ${ALLOW_NONPERSISTENT}=true to go on`;
  for (const path of paths) {
    if (wall === 'vm') return { check: 'map-sync', ...overVirtioFs(path, allow) };
    try {
      mapSync(path);
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      // Nothing else speaks of durability: a read-only file system takes no writes, a missing one fails the mount.
      if (!notDurable.has(code)) continue;
      const { sentence, fix } = noMapSync(path);
      return { check: 'map-sync', sentence, fix: `${fix}, or ${allow}` };
    }
  }
  return undefined;
}

/** A directory of the host is shared with a guest, and what is shared is not mapped. */
function overVirtioFs(path: string, allow: string): Omit<Refusal, 'check'> {
  return {
    sentence: `PMEM volume ${path}: MAP_SYNC not supported (a guest has a directory over virtio-fs, without DAX); writes would not be durable`,
    fix: `make a volume in it (bulkhead devices pmem format ${path}/VOLUME --size SIZE) and mount that with type ext4 and option dax, or ${allow}`,
  };
}
