/**
 * What QEMU answers, as far as it is used: whoever breaks out of a guest answers here, so each is checked for its kind and
 * bounded before anybody counts on it. A reader gives undefined for what is no answer to its command.
 */

export type Reader<T> = (value: unknown) => T | undefined;

/** More than a machine has of anything that is asked for. */
const MAX_ENTRIES = 4096;

type Properties = Readonly<Record<string, unknown>>;

export function isRecord(value: unknown): value is Properties {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function listOf<T>(read: Reader<T>): Reader<T[]> {
  return (value) => {
    if (!Array.isArray(value) || value.length > MAX_ENTRIES) return undefined;
    const entries = value.map(read);
    return entries.includes(undefined) ? undefined : (entries as T[]);
  };
}

function isWhole(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

export const textAnswer: Reader<string> = (value) => (typeof value === 'string' ? value : undefined);

/** add-fd */
export const addedFd: Reader<{ set: number; fd: number }> = (value) => {
  if (!isRecord(value)) return undefined;
  const { 'fdset-id': set, fd } = value;
  return isWhole(set) && isWhole(fd) ? { set, fd } : undefined;
};

/** query-fdsets */
export const fdSets: Reader<{ set: number; opaque: string[] }[]> = listOf((value) => {
  if (!isRecord(value)) return undefined;
  const { 'fdset-id': set, fds } = value;
  if (!isWhole(set) || !Array.isArray(fds)) return undefined;
  const said: unknown[] = fds.map((fd) => (isRecord(fd) ? fd['opaque'] : undefined));
  return { set, opaque: said.filter((each) => typeof each === 'string') };
});

/** qom-list */
export const qomEntries: Reader<{ name: string; type: string }[]> = listOf((value) => {
  if (!isRecord(value)) return undefined;
  const { name, type } = value;
  return typeof name === 'string' && typeof type === 'string' ? { name, type } : undefined;
});

export interface MemoryDevice {
  /** Devices that were not given one have none. */
  id: string;
  /** Physical address in the guest. */
  addr: number;
  size: number;
}

/** query-memory-devices; the address of virtio's has another name. */
export const memoryDevices: Reader<MemoryDevice[]> = listOf((value) => {
  const data = isRecord(value) ? value['data'] : undefined;
  if (!isRecord(data)) return undefined;
  const { id = '', addr = data['memaddr'], size } = data;
  return typeof id === 'string' && isWhole(addr) && isWhole(size) ? { id, addr, size } : undefined;
});

export interface CpuSlot {
  type: string;
  props: Record<string, number>;
  /** There is a CPU in it. */
  taken: boolean;
}

/** query-hotpluggable-cpus */
export const cpuSlots: Reader<CpuSlot[]> = listOf((value) => {
  if (!isRecord(value)) return undefined;
  const { type, props, 'qom-path': path } = value;
  if (typeof type !== 'string' || !isRecord(props)) return undefined;
  const numbers = Object.entries(props).filter(([, each]) => isWhole(each)) as [string, number][];
  return { type, props: Object.fromEntries(numbers), taken: path !== undefined };
});

/** query-cpus-fast: thread ids in the order of the vCPUs. */
export const cpuThreads: Reader<number[]> = (value) =>
  listOf((each) => {
    if (!isRecord(each)) return undefined;
    const { 'cpu-index': index, 'thread-id': thread } = each;
    return isWhole(index) && isWhole(thread) ? { index, thread } : undefined;
  })(value)
    ?.toSorted((a, b) => a.index - b.index)
    .map(({ thread }) => thread);

/** query-status */
export const runState: Reader<{ running: boolean; status: string }> = (value) => {
  if (!isRecord(value)) return undefined;
  const { running, status } = value;
  return typeof running === 'boolean' && typeof status === 'string' ? { running, status } : undefined;
};
