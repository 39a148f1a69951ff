/**
 * What an idle pod holds where machines run on KVM, process by process. Under TCG code that was translated comes on top
 * (docs/vm.md), so the limits are those of the kind of host that the wall is for.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  memoryOf,
  memoryTable,
  startKind,
  vmKinds,
  type Kind,
  type MemoryRow,
} from '../../bench/vm_memory.ts';
import { hypervisors } from '../e2e/vm/machines.ts';
import { PATIENT } from './machines.ts';

/** The engine's memory is divided among them; a cold boot in the lab takes long. */
const pods = (name: string): number =>
  name.includes('cold') ? 3 : name.includes('shared directory') ? 10 : 5;
/** MB of private memory, of all processes of a pod together. A cold boot is there for comparison. */
const limits: Readonly<Record<string, number>> = {
  'vm, cloned, disk image': 40,
  'vm, cloned, persistent memory': 40,
  'vm, cloned, shared directory': 55,
};

describe('memory of an idle pod on KVM', () => {
  let kind: Kind | undefined;
  afterEach(() => kind?.containerd.stop());

  it.each(vmKinds)('of $name is within its limit', async (each) => {
    kind = await startKind(each, { vmConfig: PATIENT });
    const rows: MemoryRow[] = await memoryOf(kind, pods(each.name));
    console.log(memoryTable(rows));
    expect(kind.containerd.engineLog()).toContain('virtual machines run on KVM');
    expect(rows.map(({ what }) => what)).toEqual(expect.arrayContaining(['qemu', 'monitor', 'engine']));
    expect(hypervisors(kind.containerd)).toEqual([]);
    const together = rows.reduce((sum, row) => sum + row.private, 0);
    expect(together).toBeGreaterThan(5);
    expect(together).toBeLessThanOrEqual(limits[each.name] ?? Number.POSITIVE_INFINITY);
  });
});
