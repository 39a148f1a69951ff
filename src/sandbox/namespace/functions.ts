/**
 * PCI functions for a program of a container that drives them itself, over VFIO (DPDK, SPDK): nodes, device rules, the
 * right to lock the memory that the device reaches, and a variable that names them.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { PosixRlimit, Spec } from '../../oci/types.ts';
import type { HostFacts } from '../../plan/inputs.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput } from '../backend.ts';
import { ownerOf, type DevicePassing } from '../passing.ts';

interface Tools {
  passing: Pick<DevicePassing, 'open'>;
  facts: HostFacts;
}

/**
 * Binds the functions and resolves with the input whose configuration has them. The record is on disk before anything
 * is changed. FailedPrecondition when the program could not lock memory.
 */
export async function withFunctions(
  record: ContainerRecord,
  input: CreateInput,
  { passing, facts }: Tools,
): Promise<CreateInput> {
  const id = record.id ?? '';
  const addresses = input.functions ?? [];
  checkLockedMemory(id, input.spec, facts, addresses);
  input.journal(record);
  const { machine, nodes } = await passing.open({
    id,
    owner: ownerOf(record),
    wall: 'namespace',
    addresses,
    annotations: input.spec.annotations,
  });
  const { applyEdits, completeNodes, contributeVfio, vfioEnvironment } =
    await import('../../devices/passing.ts');
  const { edits, rlimits } = contributeVfio(nodes);
  const env = [vfioEnvironment(addresses)];
  const complete = completeNodes({ ...edits, env }, (path) => machine.host.node(path));
  const spec = locksMemory(input.spec)
    ? applyEdits(input.spec, complete)
    : withLimits(applyEdits(input.spec, complete), rlimits);
  record.spec = Buffer.from(JSON.stringify(spec));
  return { ...input, spec };
}

/** CAP_IPC_LOCK counts for locked memory what the limit would refuse (getrlimit(2)); VFIO asks for it too. */
function locksMemory({ process }: Spec): boolean {
  return process?.capabilities?.effective?.includes('CAP_IPC_LOCK') === true;
}

function withLimits(spec: Spec, rlimits: readonly PosixRlimit[]): Spec {
  if (spec.process === undefined) return spec;
  const types = new Set(rlimits.map(({ type }) => type));
  const others = (spec.process.rlimits ?? []).filter(({ type }) => !types.has(type));
  return { ...spec, process: { ...spec.process, rlimits: [...others, ...rlimits] } };
}

function checkLockedMemory(id: string, spec: Spec, facts: HostFacts, addresses: readonly string[]): void {
  const hard = facts.hardLimits?.['RLIMIT_MEMLOCK'] ?? -1;
  if (locksMemory(spec) || facts.canRaiseLimits || hard < 0) return;
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: `device ${addresses.join(', ')}`,
    reason: `RLIMIT_MEMLOCK is ${hard} bytes and cannot be raised without CAP_SYS_RESOURCE; DMA needs locked memory`,
    remedy: 'raise LimitMEMLOCK of the service that starts containers, or give the container CAP_IPC_LOCK',
  });
}
