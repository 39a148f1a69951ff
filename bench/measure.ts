import { readdirSync, readFileSync } from 'node:fs';

/** One series of measurements of one contender, in the unit of its case. */
export interface Series {
  contender: string;
  samples: number[];
}

export interface Summary {
  contender: string;
  count: number;
  min: number;
  median: number;
  /** Median of this contender divided by the median of the reference. */
  ratio: number;
}

export const median = (samples: readonly number[]): number => {
  if (samples.length === 0) return Number.NaN;
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
};

/** Minimum, median and the ratio to `reference`, which must be one of the contenders. */
export const summarise = (series: readonly Series[], reference: string): Summary[] => {
  const base = median(series.find(({ contender }) => contender === reference)?.samples ?? []);
  return series.map(({ contender, samples }) => ({
    contender,
    count: samples.length,
    min: Math.min(...samples),
    median: median(samples),
    ratio: median(samples) / base,
  }));
};

/**
 * Takes `rounds` samples of each contender in turn (A B C, C B A, …), so that noise of the machine and its warming up
 * fall on all alike. The first round is thrown away.
 */
export const interleave = async (
  rounds: number,
  contenders: readonly { name: string; sample: (round: number) => Promise<number> }[],
): Promise<Series[]> => {
  const series = contenders.map(({ name }) => ({ contender: name, samples: [] as number[] }));
  for (let round = 0; round <= rounds; round += 1) {
    const order = contenders.map((_, index) => (round % 2 === 0 ? index : contenders.length - 1 - index));
    for (const index of order) {
      const value = await contenders[index]?.sample(round);
      if (round > 0 && value !== undefined) series[index]?.samples.push(value);
    }
  }
  return series;
};

/** Proportional set size of a process in kilobytes, from smaps_rollup; 0 when it has gone. */
export const pssOf = (pid: number): number => {
  try {
    const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0);
  } catch {
    return 0;
  }
};

/** Pids whose command line satisfies `matches`. */
export const pidsWhere = (matches: (command: string, pid: number) => boolean): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return matches(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '), pid);
      } catch {
        return false;
      }
    });
