import { describe, expect, it } from 'vitest';
import { interleave, median, pidsWhere, pssOf, summarise } from './measure.ts';

describe('median', () => {
  it.each([
    [[3, 1, 2], 2],
    [[4, 1, 3, 2], 2.5],
    [[5], 5],
  ])('of %j is %d', (samples, expected) => {
    expect(median(samples)).toBe(expected);
  });

  it('of nothing is not a number', () => {
    expect(median([])).toBeNaN();
  });
});

describe('summarise', () => {
  it('relates medians to the reference', () => {
    const series = [
      { contender: 'ours', samples: [5, 7, 6] },
      { contender: 'theirs', samples: [10, 12, 14] },
    ];
    expect(summarise(series, 'theirs')).toEqual([
      { contender: 'ours', count: 3, min: 5, median: 6, ratio: 0.5 },
      { contender: 'theirs', count: 3, min: 10, median: 12, ratio: 1 },
    ]);
  });
});

describe('interleave', () => {
  it('turns the order round each time and forgets the first round', async () => {
    const order: string[] = [];
    const contender = (name: string) => ({
      name,
      sample: async (round: number) => {
        order.push(name);
        return round;
      },
    });
    const series = await interleave(2, [contender('a'), contender('b')]);
    expect(order).toEqual(['a', 'b', 'b', 'a', 'a', 'b']);
    expect(series).toEqual([
      { contender: 'a', samples: [1, 2] },
      { contender: 'b', samples: [1, 2] },
    ]);
  });
});

describe('memory', () => {
  it('finds this process and its proportional set size', () => {
    expect(pidsWhere((_, pid) => pid === process.pid)).toEqual([process.pid]);
    expect(pssOf(process.pid)).toBeGreaterThan(1000);
    expect(pssOf(2 ** 30)).toBe(0);
  });
});
