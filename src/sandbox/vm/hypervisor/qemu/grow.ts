/** Memory and vCPUs that a machine was not started with. The guest has to bring them online. */
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { MachineConfig } from '../hypervisor.ts';
import { cpuSlots, memoryDevices, type MemoryDevice } from './answers.ts';
import type { Qmp } from './qmp.ts';

const BACKEND = 'grown-';
const DIMM = 'dimm-';
const MIB = 2 ** 20;
/** Linux adds memory in sections of this size (x86-64), and refuses a range that does not begin at one. */
export const MEMORY_SECTION_MIB = 128;

/**
 * Plugs one DIMM of `mib`. It goes behind everything that is there: persistent memory, which lies in the same address
 * space, may have moved the next free place off the border of a section.
 */
export async function plugMemory(qmp: Qmp, { id, sharedMemory }: MachineConfig, mib: number): Promise<void> {
  if (!Number.isInteger(mib) || mib <= 0 || mib % MEMORY_SECTION_MIB !== 0)
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'vm',
      id,
      object: `${mib} MiB of memory`,
      reason: `not a multiple of ${MEMORY_SECTION_MIB} MiB`,
    });
  const present = await qmp.ask(memoryDevices, 'query-memory-devices');
  const number = present.filter((device) => device.id.startsWith(DIMM)).length;
  const backend = `${BACKEND}${number}`;
  await qmp.execute('object-add', {
    'qom-type': sharedMemory ? 'memory-backend-memfd' : 'memory-backend-ram',
    id: backend,
    size: mib * MIB,
    ...(sharedMemory ? { share: true } : {}),
  });
  const addr = behind(present);
  try {
    await qmp.execute('device_add', {
      driver: 'pc-dimm',
      id: `${DIMM}${number}`,
      memdev: backend,
      ...(addr === undefined ? {} : { addr }),
    });
  } catch (error) {
    await qmp.execute('object-del', { id: backend }).catch(() => {});
    throw error;
  }
}

/** The first border of a section behind all memory devices; undefined when there are none: QEMU knows the first place. */
function behind(present: readonly MemoryDevice[]): number | undefined {
  if (present.length === 0) return undefined;
  const section = MEMORY_SECTION_MIB * MIB;
  const end = Math.max(...present.map(({ addr, size }) => addr + size));
  return Math.ceil(end / section) * section;
}

/** Plugs `count` vCPUs into empty slots, lowest first. ResourceExhausted when there is no room for all. */
export async function plugVcpus(qmp: Qmp, id: string, count: number): Promise<void> {
  const slots = await qmp.ask(cpuSlots, 'query-hotpluggable-cpus');
  // QEMU lists the highest first.
  const free = slots.filter(({ taken }) => !taken).reverse();
  if (free.length < count)
    throw new RuntimeError({
      code: ErrorCode.ResourceExhausted,
      op: 'vm',
      id,
      object: `${count} more vcpus`,
      reason: `room for ${free.length}`,
      remedy: 'configure more vcpus at the start',
    });
  for (const { type, props } of free.slice(0, count)) {
    const place = ['socket-id', 'core-id', 'thread-id'].map((key) => props[key] ?? 0).join('-');
    await qmp.execute('device_add', { driver: type, id: `vcpu-${place}`, ...props });
  }
}
