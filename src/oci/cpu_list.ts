/** Most CPUs that a mask can name here: CPU_SETSIZE is 1024, kernels go to 8192. */
const MAX_CPUS = 8192;

/**
 * "0-3,7" (cpuset(7), "List format") → cpu_set_t bytes, little-endian bits, whole 64-bit words. Undefined when the
 * text is not such a list.
 */
export function parseCpuList(text: string): Uint8Array | undefined {
  const ranges: [number, number][] = [];
  for (const part of text.split(',')) {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part.trim());
    if (match === null) return undefined;
    const first = Number(match[1]);
    const last = match[2] === undefined ? first : Number(match[2]);
    if (last < first || last >= MAX_CPUS) return undefined;
    ranges.push([first, last]);
  }
  const highest = Math.max(...ranges.map(([, last]) => last));
  const mask = new Uint8Array((Math.floor(highest / 64) + 1) * 8);
  for (const [first, last] of ranges) {
    for (let cpu = first; cpu <= last; cpu++) mask[cpu >> 3]! |= 1 << (cpu & 7);
  }
  return mask;
}
