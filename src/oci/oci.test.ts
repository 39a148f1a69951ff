import { describe, expect, it } from 'vitest';
import { capabilityNumber } from './capabilities.ts';
import { parseCpuList } from './cpu_list.ts';
import { cleanAbsolute, isBelow, resolveFrom } from './paths.ts';
import { stateAroundPid } from './state.ts';

describe('cpu lists', () => {
  it.each<[string, string | undefined]>([
    ['0', '0100000000000000'],
    ['0-3,7', '8f00000000000000'],
    [' 1 , 2', '0600000000000000'],
    ['64', '00000000000000000100000000000000'],
    ['8191', `${'00'.repeat(1023)}80`],
    ['8192', undefined],
    ['3-1', undefined],
    ['', undefined],
    ['1,', undefined],
    ['-1', undefined],
    ['0x1', undefined],
  ])('%j', (text, mask) => {
    const bytes = parseCpuList(text);
    expect(bytes === undefined ? undefined : Buffer.from(bytes).toString('hex')).toBe(mask);
  });
});

describe('paths', () => {
  it('are cleaned as below the root', () => {
    expect(cleanAbsolute('//a/./b/../c/')).toBe('/a/c');
    expect(cleanAbsolute('../../x')).toBe('/x');
    expect(resolveFrom('/bundle', 'sub/../data')).toBe('/bundle/data');
    expect(resolveFrom('/bundle', '/data')).toBe('/data');
    expect(isBelow('/proc', '/process')).toBe(false);
    expect(isBelow('/proc', '/proc/sys')).toBe(true);
    expect(isBelow('/', '/x')).toBe(true);
  });
});

describe('state around a pid', () => {
  it('is one JSON object with the pid in the middle', () => {
    const state = {
      ociVersion: '1.3.0',
      id: 'a"b',
      status: 'created',
      bundle: '/b',
      annotations: { k: 'ü' },
    } as const;
    const { prefix, suffix } = stateAroundPid(state);
    const text = `${Buffer.from(prefix).toString()}42${Buffer.from(suffix).toString()}`;
    expect(JSON.parse(text)).toEqual({ ...state, pid: 42 });
  });
});

describe('capabilities', () => {
  it('have the numbers of capability.h', () => {
    expect(capabilityNumber('CAP_SYS_ADMIN')).toBe(21);
    expect(capabilityNumber('CAP_CHECKPOINT_RESTORE')).toBe(40);
    expect(capabilityNumber('constructor')).toBeUndefined();
  });
});
