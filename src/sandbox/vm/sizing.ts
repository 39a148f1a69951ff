/**
 * How large a pod's virtual machine is. Memory is what the guest itself needs and what the containers may use; a
 * container without a limit gets the default. Sizes also come from annotations with Kata's names, when the operator
 * allows them.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { LinuxResources, Spec } from '../../oci/types.ts';
import type { MachineSize } from './hypervisor/hypervisor.ts';

export interface SizingConfig {
  /** MiB of a machine whose containers have no memory limit. */
  memoryMib: number;
  /** MiB for the guest's kernel, agent and page tables, on top of a limit. */
  overheadMib: number;
  /** MiB up to which it can grow. */
  maxMemoryMib: number;
  vcpus: number;
  maxVcpus: number;
  /** Annotations that may change this, by name; a "*" at the end stands for any rest. */
  annotations: readonly string[];
}

const MIB = 1024 * 1024;
/** cpu.cfs_period_us of the kernel, in microseconds. */
const DEFAULT_PERIOD = 100_000;
/** Memory is plugged in blocks of this size on x86-64. */
export const MEMORY_BLOCK_MIB = 128;
const PREFIX = 'io.katacontainers.config.hypervisor.';

/**
 * Of a pod at its start. CRI tells the whole pod's size in annotations of its first container.
 * @param hostCpus a limit above the host's processors is none there, and gives no more vCPUs than they are
 * @throws RuntimeError ResourceExhausted for more memory than a machine may have, InvalidArgument for a bad annotation
 */
export function machineSize(id: string, spec: Spec, config: SizingConfig, hostCpus: number): MachineSize {
  const { annotations = {} } = spec;
  const asked = askedSize(id, annotations, config);
  const limit = podLimits(annotations, spec.linux?.resources ?? {});
  const wanted = limit.memoryMib === undefined ? config.memoryMib : limit.memoryMib + config.overheadMib;
  const memoryMib = asked.memoryMib ?? Math.max(config.memoryMib, blocks(wanted));
  const wantedCpus = asked.vcpus ?? Math.max(config.vcpus, Math.ceil(limit.cpus ?? 0));
  const vcpus = Math.min(wantedCpus, Math.max(config.maxVcpus, hostCpus));
  if (memoryMib > config.maxMemoryMib) {
    refuse(id, `memory of ${memoryMib} MiB`, `is above the largest machine of ${config.maxMemoryMib} MiB`);
  }
  const maxVcpus = Math.max(config.maxVcpus, vcpus);
  // It grows in whole blocks from what it was started with.
  const maxMemoryMib = config.memoryMib + blocks(config.maxMemoryMib - config.memoryMib);
  return { memoryMib, maxMemoryMib, vcpus, maxVcpus };
}

/** The template's size, and what a copy of it grows by: all share one, and what is smaller than that has its own. */
export function templateSize(
  size: MachineSize,
  config: Pick<SizingConfig, 'memoryMib'>,
): { size: MachineSize; growMib: number } {
  const memoryMib = Math.min(size.memoryMib, config.memoryMib);
  return { size: { ...size, memoryMib }, growMib: blocks(size.memoryMib - memoryMib) };
}

/** MiB that a machine must have for all these limits (bytes; undefined: no limit) at once. */
export function memoryFor(limits: readonly (number | undefined)[], config: SizingConfig): number {
  const sum = limits.reduce<number>((total, limit) => total + (limit ?? 0), 0);
  if (sum === 0) return config.memoryMib;
  return Math.max(config.memoryMib, blocks(Math.ceil(sum / MIB) + config.overheadMib));
}

/** Bytes that a container may use; undefined when that is not limited. */
export function memoryLimit(resources: LinuxResources | undefined): number | undefined {
  const limit = resources?.memory?.limit ?? 0;
  return limit > 0 && limit < 2 ** 60 ? limit : undefined;
}

/** Processors that a container may use; undefined when that is not limited. */
export function cpuLimit(resources: LinuxResources | undefined): number | undefined {
  const { quota = 0, period = 0 } = resources?.cpu ?? {};
  return quota > 0 ? quota / (period || DEFAULT_PERIOD) : undefined;
}

function blocks(mib: number): number {
  return Math.ceil(mib / MEMORY_BLOCK_MIB) * MEMORY_BLOCK_MIB;
}

interface Limits {
  memoryMib: number | undefined;
  cpus: number | undefined;
}

/** containerd 1.6 and later tells a pod's sum with its pause container, which has no limits of its own. */
function podLimits(annotations: Readonly<Record<string, string>>, resources: LinuxResources): Limits {
  const number = (name: string): number =>
    Math.max(0, Number(annotations[`io.kubernetes.cri.sandbox-${name}`] ?? 0) || 0);
  const memory = number('memory') || (memoryLimit(resources) ?? 0);
  const pod = { quota: number('cpu-quota'), period: number('cpu-period') };
  return {
    memoryMib: memory > 0 ? Math.ceil(memory / MIB) : undefined,
    cpus: cpuLimit({ cpu: pod }) ?? cpuLimit(resources),
  };
}

interface Asked {
  memoryMib?: number;
  vcpus?: number;
}

/** An annotation that is not on the list is passed over: it may be meant for another runtime. */
function askedSize(
  id: string,
  annotations: Readonly<Record<string, string>>,
  { annotations: allowed }: SizingConfig,
): Asked {
  const asked: Asked = {};
  for (const [name, value] of Object.entries(annotations)) {
    if (!name.startsWith(PREFIX) || !isAllowed(name, allowed)) continue;
    const key = name.slice(PREFIX.length);
    if (key === 'default_memory') asked.memoryMib = wholeNumber(id, name, value);
    else if (key === 'default_vcpus') asked.vcpus = Math.ceil(positive(id, name, value));
  }
  return asked;
}

export function isAllowed(name: string, allowed: readonly string[]): boolean {
  return allowed.some((entry) =>
    entry.endsWith('*') ? name.startsWith(entry.slice(0, -1)) : name === entry,
  );
}

function wholeNumber(id: string, name: string, value: string): number {
  const number = positive(id, name, value);
  if (!Number.isInteger(number)) invalid(id, name, value);
  return number;
}

function positive(id: string, name: string, value: string): number {
  const number = /^\d+(\.\d+)?$/.test(value) ? Number(value) : 0;
  if (!(number > 0) || number > 2 ** 31) invalid(id, name, value);
  return number;
}

function invalid(id: string, name: string, value: string): never {
  throw new RuntimeError({
    code: ErrorCode.InvalidArgument,
    op: 'create',
    id,
    object: `annotation ${name}`,
    reason: `${JSON.stringify(value.slice(0, 64))} is not a positive number`,
  });
}

function refuse(id: string, object: string, reason: string): never {
  const remedy = 'lower the limit, or raise vm.max_memory_mib';
  throw new RuntimeError({ code: ErrorCode.ResourceExhausted, op: 'create', id, object, reason, remedy });
}
