/** Numbers as the kernel's files take them, and the conversions from cgroup v1's scales to v2's. */

const uint64Max = 2n ** 64n - 1n;

/**
 * An integer from config.json in decimal. JavaScript rounds integers above 2^53 when it parses JSON; all that people
 * write there means "no limit", so the rounded value is kept within 64 bits.
 */
export function decimal(value: number): string {
  if (Number.isSafeInteger(value)) return String(value);
  const exact = BigInt(Math.trunc(value));
  return String(exact > uint64Max ? uint64Max : exact);
}

/** As `decimal`; -1 is "max", as v2 has it. */
export function decimalOrMax(value: number): string {
  return value < 0 ? 'max' : decimal(value);
}

/**
 * cpu.shares (2..262144, default 1024) to cpu.weight (1..10000, default 100). The curve that runc and containerd use
 * since opencontainers/cgroups 0.0.5: quadratic in log2(shares) through the least, the default and the greatest value.
 */
export function sharesToWeight(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  const log = Math.log2(shares);
  const exponent = (log * log + 125 * log) / 612 - 7 / 34;
  return Math.ceil(10 ** exponent);
}

/** blkio.weight (10..1000) to io.weight (1..10000), linear. */
export function blkioWeightToIoWeight(weight: number): number {
  return 1 + Math.floor(((weight - 10) * 9999) / 990);
}

/**
 * memory.swap of config.json (memory and swap together, as v1 has it) to memory.swap.max (swap alone). undefined: leave
 * it; a string: why it cannot be.
 */
export function swapToV2(
  swap: number | undefined,
  limit: number | undefined,
): number | undefined | { fault: string } {
  const memory = limit ?? 0;
  const both = swap ?? 0;
  if (memory === -1 && both === 0) return -1;
  if (both === 0) return undefined;
  if (both === -1 || memory === -1) return both;
  if (memory === 0)
    return { fault: 'cannot be set without memory.limit: cgroup v2 limits swap apart from memory' };
  if (both < memory) return { fault: 'is memory and swap together, so it must not be below memory.limit' };
  return both - memory;
}
