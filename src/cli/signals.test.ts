import { describe, expect, it } from 'vitest';
import { signalNumber } from './signals.ts';

describe('signalNumber', () => {
  it.each([
    ['TERM', 15],
    ['SIGTERM', 15],
    ['sigkill', 9],
    ['hup', 1],
    ['9', 9],
    ['0', 0],
    ['64', 64],
    ['RTMIN', 34],
    ['SIGRTMIN+3', 37],
    ['RTMAX-1', 63],
    ['RTMAX', 64],
  ])('%s is %i', (text, number) => {
    expect(signalNumber(text)).toBe(number);
  });

  it.each(['', 'NOSUCH', 'SIG', '65', '-1', '9.5', 'RTMIN-1', 'RTMAX+1', 'RTMIN+31', 'constructor', 'TERM '])(
    '%j is none',
    (text) => {
      expect(signalNumber(text)).toBeUndefined();
    },
  );
});
