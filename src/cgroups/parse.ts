/** Formats of cgroup files. Values are non-negative integers; what cannot be read counts as 0, as in containerd. */
import { readText } from './files.ts';

/** "max": containerd reports 2^64 - 1, which the generated encoders write for 2^64 (tools/gen.mjs). */
export const unlimited = 2 ** 64;

/** "name value" lines, by name. */
export function parseKeyed(text: string): Record<string, number> {
  const values: Record<string, number> = {};
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) values[line.slice(0, space)] = toCount(line.slice(space + 1));
  }
  return values;
}

/** A single value; "max" is `unlimited`. */
export function parseValue(text: string): number {
  const trimmed = text.trim();
  return trimmed === 'max' ? unlimited : toCount(trimmed);
}

/** Where the text of a cgroup file comes from: undefined when there is no such file. */
export type Read = (path: string) => string | undefined;

/** The single value in a file; 0 when there is no such file. */
export function readValue(path: string, read: Read = readText): number {
  return parseValue(read(path) ?? '');
}

/** "name value" lines of a file; empty when there is no such file. */
export function readKeyed(path: string, read: Read = readText): Record<string, number> {
  return parseKeyed(read(path) ?? '');
}

/** Negative values appear when per-CPU counters are summed while they change. */
export function toCount(text: string): number {
  const value = Number(text);
  return value > 0 && Number.isFinite(value) ? value : 0;
}

export interface RdmaEntry {
  device: string;
  hcaHandles: number;
  hcaObjects: number;
}

/** "mlx5_0 hca_handle=2 hca_object=max" lines (cgroup-v1/rdma.rst; the same in v2). */
export function parseRdma(text: string): RdmaEntry[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(\S+) hca_handle=(\S+) hca_object=(\S+)$/.exec(line.trim());
    if (match === null) return [];
    const [, device = '', handles = '', objects = ''] = match;
    return [{ device, hcaHandles: rdmaCount(handles), hcaObjects: rdmaCount(objects) }];
  });
}

function rdmaCount(text: string): number {
  return text === 'max' ? 0xffffffff : toCount(text);
}

/** rdma.current and rdma.max of a directory; undefined when it has neither. */
export function readRdma(
  directory: string,
  read: Read = readText,
): { current: RdmaEntry[]; limit: RdmaEntry[] } | undefined {
  const current = read(`${directory}/rdma.current`);
  if (current === undefined) return undefined;
  return { current: parseRdma(current), limit: parseRdma(read(`${directory}/rdma.max`) ?? '') };
}
