import { describe, expect, it } from 'vitest';
import { blkioWeightToIoWeight, decimal, decimalOrMax, sharesToWeight, swapToV2 } from './convert.ts';

describe('decimal', () => {
  it.each([
    [0, '0'],
    [-1, '-1'],
    [67108864, '67108864'],
    [9223372036854771712, '9223372036854771712'],
    // 2^64 - 1 in config.json is 2^64 after JSON.parse
    [2 ** 64, '18446744073709551615'],
    [-9007199254740992, '-9007199254740992'],
  ])('%d', (value, text) => expect(decimal(value)).toBe(text));

  it('says max for no limit', () => {
    expect(decimalOrMax(-1)).toBe('max');
    expect(decimalOrMax(5)).toBe('5');
  });
});

describe('sharesToWeight', () => {
  // The ends and the default are fixed points of the curve; 2048 by hand: 10 ** ((121 + 125 * 11) / 612 - 7 / 34) = 173.2.
  it.each([
    [1, 1],
    [2, 1],
    [3, 2],
    [102, 17],
    [512, 59],
    [1024, 100],
    [2048, 174],
    [262144, 10000],
    [300000, 10000],
  ])('%d shares are weight %d', (shares, weight) => expect(sharesToWeight(shares)).toBe(weight));

  it('never falls, and stays in range', () => {
    let last = 1;
    for (let shares = 2; shares <= 262144; shares += 7) {
      const weight = sharesToWeight(shares);
      expect(weight).toBeGreaterThanOrEqual(last);
      expect(weight).toBeLessThanOrEqual(10000);
      last = weight;
    }
  });
});

describe('blkioWeightToIoWeight', () => {
  it.each([
    [10, 1],
    [500, 4950],
    [1000, 10000],
  ])('%d is %d', (weight, converted) => expect(blkioWeightToIoWeight(weight)).toBe(converted));
});

describe('swapToV2', () => {
  it.each([
    [undefined, undefined, undefined],
    [undefined, 100, undefined],
    [undefined, -1, -1],
    [-1, 100, -1],
    [300, 100, 200],
    [100, 100, 0],
    [300, -1, 300],
  ])('memory and swap %s with limit %s is swap %s', (swap, limit, expected) => {
    expect(swapToV2(swap, limit)).toBe(expected);
  });

  it('names what cannot be', () => {
    expect(swapToV2(100, undefined)).toEqual({
      fault: 'cannot be set without memory.limit: cgroup v2 limits swap apart from memory',
    });
    expect(swapToV2(100, 200)).toEqual({
      fault: 'is memory and swap together, so it must not be below memory.limit',
    });
  });
});
