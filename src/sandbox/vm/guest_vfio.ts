/**
 * PCI functions that a program of a container drives itself, behind the vm wall (DPDK, SPDK): which pods have them so, how
 * the guest gives them to vfio-pci, and what is in the way. The machine has an IOMMU of its own for that.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { bulkhead } from '../../gen/bulkhead.js';
import type { LinuxDevice, PosixRlimit, Process, Spec } from '../../oci/types.ts';
import { GuestError } from '../executor.ts';
import { failureOf, type GuestAgent } from './agent.ts';
import type { GuestFunction } from './functions.ts';
import type { PassedFunction } from './hypervisor/hypervisor.ts';
import { isAllowed } from './sizing.ts';

/** Who drives a function in the guest: its kernel, or a program by vfio-pci. Names and meaning are Kata's. */
export type VfioMode = 'guest-kernel' | 'vfio';
export const VFIO_MODES: readonly VfioMode[] = ['guest-kernel', 'vfio'];
export const VFIO_MODE_ANNOTATION = 'io.katacontainers.config.runtime.vfio_mode';

const CONTAINER_NODE = '/dev/vfio/vfio';
/** Taking a driver away from a function, and giving it to another, each as long as that one needs. */
const BIND_DEADLINE_MS = 60_000;
/** Of one function: its group's and the common one, or its own and the IOMMU's. */
const MAX_NODES = 8;
const VFIO_NODE = /^\/dev\/(vfio\/|iommu)[A-Za-z0-9/_-]{0,64}$/;
/** RLIM_INFINITY as config.json has it: 2^64-1, which a double rounds to 2^64. */
const UNLIMITED = 2 ** 64;

/** As the kernel writes it: "0000:09:00.0". */
export function isPciAddress(text: string | null | undefined): text is string {
  return /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/.test(text ?? '');
}

export interface VfioModeConfig {
  vfioMode: VfioMode;
  /** Annotations that count. */
  annotations: readonly string[];
}

/** Of a pod, by its first container. @throws RuntimeError InvalidArgument for an annotation that says neither */
export function vfioMode(id: string, { annotations = {} }: Spec, config: VfioModeConfig): VfioMode {
  const asked = annotations[VFIO_MODE_ANNOTATION];
  if (asked === undefined || !isAllowed(VFIO_MODE_ANNOTATION, config.annotations)) return config.vfioMode;
  const mode = VFIO_MODES.find((each) => each === asked);
  if (mode !== undefined) return mode;
  throw new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'create',
    id,
    object: `annotation ${VFIO_MODE_ANNOTATION}`,
    reason: `${JSON.stringify(asked.slice(0, 64))} is none of ${VFIO_MODES.join(', ')}`,
  });
}

/**
 * Behind the guest's IOMMU each function has addresses of its own, and the host's IOMMU does not tell the functions of one
 * group apart. @throws RuntimeError FailedPrecondition for two of one group
 */
export function checkGroups(id: string, functions: readonly PassedFunction[]): void {
  for (const { address, group } of functions) {
    const other = functions.find((each) => each.group === group && each.address !== address);
    if (group === undefined || other === undefined) continue;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op: 'create',
      id,
      object: `device ${address}, ${other.address}`,
      reason: `both are in ${group}, and in a guest with an IOMMU each function needs a group of its own on the host`,
      remedy: 'pass one of them, or use vfio_mode "guest-kernel"',
    });
  }
}

/** Of a machine with functions. @throws RuntimeError as vfioMode() and checkGroups() do */
export function needsIommu(
  id: string,
  spec: Spec,
  functions: readonly PassedFunction[],
  config: VfioModeConfig,
): boolean {
  if (vfioMode(id, spec, config) === 'guest-kernel') return false;
  checkGroups(id, functions);
  return true;
}

/**
 * Binds the functions at these PCI paths of the guest to vfio-pci there, and has the agent open them once.
 * @throws RuntimeError FailedPrecondition, in one sentence, when a program of this guest could not use them
 */
export async function bindInGuest(
  agent: Pick<GuestAgent, 'call' | 'refuse'>,
  id: string,
  functions: readonly PassedFunction[],
  paths: readonly string[],
): Promise<GuestFunction[]> {
  const bindVfio = { pciPaths: [...paths], timeoutMs: BIND_DEADLINE_MS };
  const reply = await agent.call('create', id, { bindVfio }, 2 * BIND_DEADLINE_MS).catch((error: unknown) => {
    throw restated(id, functions, error);
  });
  return functions.map(({ address, group }, index): GuestFunction => {
    const { address: guest = '', nodes } = reply.functions[index] ?? {};
    const found = (nodes ?? []).map(guestNode);
    if (!isPciAddress(guest) || found.length > MAX_NODES || !found.every(({ path }) => VFIO_NODE.test(path)))
      throw agent.refuse('create', id, `device ${address}`, 'tells of a function that there cannot be');
    return {
      host: address,
      guest,
      nodes: found,
      vfio: true,
      hostGroup: group,
    };
  });
}

/** As the kernel makes them: whoever may open a group's node has the device. */
function guestNode({ path, major, minor }: bulkhead.agent.v1.IDevice): LinuxDevice {
  return {
    path: path ?? '',
    type: 'c',
    major: major ?? 0,
    minor: minor ?? 0,
    fileMode: path === CONTAINER_NODE ? 0o666 : 0o600,
  };
}

/** The guest's nodes of a function with the rights that config.json gave the host's: device plugins name an owner. */
export function withHostRights(
  { nodes, hostGroup, vfio }: GuestFunction,
  given: readonly LinuxDevice[],
): LinuxDevice[] {
  if (vfio !== true) return nodes;
  return nodes.map((node) => {
    const path = node.path === CONTAINER_NODE ? CONTAINER_NODE : hostGroup;
    const { fileMode, uid, gid } = given.find((each) => each.path === path) ?? {};
    return {
      ...node,
      ...(fileMode === undefined ? {} : { fileMode }),
      ...(uid === undefined ? {} : { uid }),
      ...(gid === undefined ? {} : { gid }),
    };
  });
}

/** Memory that a device reaches is locked by whoever drives it. */
export function withLockedMemory(process: Process, functions: readonly GuestFunction[]): Process {
  if (!functions.some(({ vfio }) => vfio === true)) return process;
  const type = 'RLIMIT_MEMLOCK';
  const others = (process.rlimits ?? []).filter((each) => each.type !== type);
  const limit: PosixRlimit = { type, soft: UNLIMITED, hard: UNLIMITED };
  return { ...process, rlimits: [...others, limit] };
}

/** By Failure.op of BindVfio (proto/agent.proto). */
const obstacles = new Map<string, (path: string) => { reason: string; remedy: string }>(
  Object.entries({
    call: () => ({
      reason: 'the agent of this guest knows no vfio-pci',
      remedy: 'use the initrd of this version',
    }),
    driver: () => ({
      reason: 'the kernel of this guest has no driver vfio-pci',
      remedy: 'make a guest with `bulkhead guest build`, or use vfio_mode "guest-kernel"',
    }),
    group: () => ({
      reason: 'the kernel of this guest does not use its IOMMU (CONFIG_INTEL_IOMMU)',
      remedy: 'make a guest with `bulkhead guest build`, or use vfio_mode "guest-kernel"',
    }),
    viable: (path: string) => ({
      reason: `in the guest ${path} is in the same IOMMU group and has another driver`,
      remedy: 'use vfio_mode "guest-kernel"',
    }),
    iommu: () => ({
      reason: 'the guest refuses its IOMMU, because it cannot remap interrupts (CONFIG_IRQ_REMAP)',
      remedy: 'make a guest with `bulkhead guest build`, or use vfio_mode "guest-kernel"',
    }),
  }),
);

/** In the host's words: by its own address of the function where the guest names one. */
function restated(id: string, functions: readonly PassedFunction[], error: unknown): unknown {
  const { op, path, errno } = obstacleOf(error) ?? { op: '', path: '', errno: 0 };
  const known = obstacles.get(op);
  // Of these, only the refusals that they are known by.
  if (known === undefined || (op === 'call' && errno !== ENOSYS) || (op === 'iommu' && errno !== EPERM))
    return error;
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: `device ${functions.map(({ address }) => address).join(', ')}`,
    ...known(path),
    cause: error,
  });
}

const EPERM = 1;
const ENOSYS = 38;

function obstacleOf(error: unknown): ReturnType<typeof failureOf> {
  const cause = error instanceof RuntimeError ? error.cause : undefined;
  return cause instanceof GuestError ? failureOf(cause) : undefined;
}
