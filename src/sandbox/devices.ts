/**
 * Devices asked for by name ("vendor/class=name"), on the command line or in `cdi.k8s.io/*` annotations, put into the
 * configuration before a wall sees it. Once: containerd's CRI plugin and CRI-O have done it already when they made the
 * configuration, and hooks and device rules must not be there twice.
 *
 * The CDI library is loaded when a container asks for a device; most do not.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { FoundDevice } from '../devices/cdi/registry.ts';
import type { ReadApart } from '../devices/read_ahead.ts';
import type { Spec } from '../oci/types.ts';
import { parseSpec } from '../oci/validate/index.ts';
import type { Wall } from './backend.ts';

export interface DeviceRequest {
  op: string;
  id: string;
  wall: Wall;
  /** Names given beside the configuration. */
  names?: readonly string[] | undefined;
  /** Directories of spec files, lowest priority first; default: those of the CDI specification. */
  specDirs?: readonly string[] | undefined;
  /** Reads what may not answer, in another process; default: this one reads it. */
  read?: ReadApart | undefined;
}

const PAGE = 4096;
const CDI_PREFIX = 'cdi.k8s.io/';
/** "io.kubernetes.cri." is containerd's, "io.kubernetes.cri-o." is CRI-O's. */
const CRI_PREFIX = 'io.kubernetes.cri';

/** Walls that hand devices of the host to a container. */
export const passingWalls: readonly Wall[] = ['namespace', 'vm'];

export interface Injected {
  /** The very same object when nothing was added. */
  spec: Spec;
  /** PCI functions that the wall is to bind and hand over (bulkhead.io/vfio=ADDRESS). */
  functions: string[];
}

/**
 * The configuration with the devices asked for. FailedPrecondition when the wall passes none, InvalidArgument for a
 * device that no spec describes or a name that is none.
 */
export async function injectDevices(spec: Spec, request: DeviceRequest): Promise<Injected> {
  if (!asksForDevices(spec, request.names)) return { spec, functions: [] };
  const { op, id, wall } = request;
  const [cdi, { hostNode }, { splitVfioNames }] = await Promise.all([
    import('../devices/cdi/index.ts'),
    import('../devices/host_node.ts'),
    import('../devices/vfio/request.ts'),
  ]);
  try {
    const asked = isAnnotated(spec) ? cdi.parseAnnotations(spec.annotations ?? {}).devices : [];
    const names = [...new Set([...(request.names ?? []), ...asked])];
    if (!passingWalls.includes(wall)) throw refusal(request, names);
    const { addresses: functions, others } = splitVfioNames(names);
    if (others.length === 0) return { spec, functions };
    const registry = await cdi.readRegistry(request.specDirs, { kinds: cdi.kindsOf(others) });
    const found = others.map((name) => registry.get(name));
    // Before the nodes are looked for: why there is none says more than that there is none.
    if (found.every(isFound)) await checkFound(spec, request, found);
    const injected = registry.inject(spec, others, hostNode);
    // A spec file is no more to be trusted with a configuration's rules than the configuration's own author.
    return { spec: parseSpec(JSON.stringify(injected), id, op), functions };
  } catch (error) {
    if (!(error instanceof cdi.CdiError)) throw error;
    const { object, reason, remedy } = error;
    throw new RuntimeError({ code: ErrorCode.InvalidArgument, op, id, object, reason, remedy, cause: error });
  }
}

function isFound(found: FoundDevice | undefined): found is FoundDevice {
  return found !== undefined;
}

/** What a spec file promises may not hold any more. FailedPrecondition with the first reason. */
async function checkFound(
  { annotations = {} }: Spec,
  { op, id, wall, read }: DeviceRequest,
  found: readonly FoundDevice[],
): Promise<void> {
  const [{ checkNamed, looksAtDevices }, { hostTree }, { readAhead }, { addon }] = await Promise.all([
    import('../devices/named_checks.ts'),
    import('../devices/host_tree.ts'),
    import('../devices/read_ahead.ts'),
    import('../native/index.ts'),
  ]);
  const mapSync = (path: string): void => addon().mapSync(path, PAGE);
  const ahead = await readAhead(hostTree(), looksAtDevices(found) ? read : undefined);
  const refusal = checkNamed(found, { ...ahead, mapSync, annotations, wall });
  if (refusal === undefined) return;
  const { sentence: reason, fix: remedy } = refusal;
  throw new RuntimeError({ code: ErrorCode.FailedPrecondition, op, id, reason, remedy });
}

/** Whether injectDevices would have anything to do. */
export function asksForDevices(spec: Spec, names: readonly string[] = []): boolean {
  return names.length > 0 || isAnnotated(spec);
}

function isAnnotated({ annotations = {} }: Spec): boolean {
  const keys = Object.keys(annotations);
  return keys.some((key) => key.startsWith(CDI_PREFIX)) && !keys.some((key) => key.startsWith(CRI_PREFIX));
}

function refusal({ op, id, wall }: DeviceRequest, names: readonly string[]): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op,
    id,
    object: `CDI device${names.length > 1 ? 's' : ''} ${names.join(', ')}`,
    reason: `the ${wall} wall passes no devices of the host`,
    remedy: `use the ${passingWalls.join(' or ')} wall`,
  });
}
