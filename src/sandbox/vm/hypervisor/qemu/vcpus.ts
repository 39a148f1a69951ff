/** vCPUs that a machine was not started with. */
import { ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import type { Qmp } from './qmp.ts';

interface Slot {
  type: string;
  props: Record<string, number>;
  /** There is a CPU in it. */
  'qom-path'?: string;
}

/** Plugs `count` into empty slots, lowest first; all or none are free. ResourceExhausted when there are fewer. */
export async function plugVcpus(qmp: Qmp, id: string, count: number): Promise<void> {
  const slots = await qmp.execute<Slot[]>('query-hotpluggable-cpus');
  // QEMU lists the highest first.
  const free = slots.filter((slot) => slot['qom-path'] === undefined).reverse();
  if (free.length < count)
    throw new RuntimeError({
      code: ErrorCode.ResourceExhausted,
      op: 'vm',
      id,
      object: `${count} more vcpus`,
      reason: `room for ${free.length}`,
    });
  for (const { type, props } of free.slice(0, count)) {
    const name = `vcpu-${props['socket-id'] ?? 0}-${props['core-id'] ?? 0}-${props['thread-id'] ?? 0}`;
    await qmp.execute('device_add', { driver: type, id: name, ...props });
  }
}
