import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../base/errors.ts';
import type { LinuxDeviceCgroup } from '../oci/types.ts';
import { Access, deviceListV1, deviceRules, isAllowed, type DeviceRule } from './device_rules.ts';
import { anyRules } from './testing/device_arbitraries.ts';

const defaults = [
  'c *:* m',
  'b *:* m',
  'c 1:3 rwm',
  'c 1:8 rwm',
  'c 1:7 rwm',
  'c 5:0 rwm',
  'c 1:5 rwm',
  'c 1:9 rwm',
  'c 136:* rwm',
  'c 5:2 rwm',
  'c 10:200 rwm',
];

const list = (given: LinuxDeviceCgroup[]) => deviceListV1(deviceRules(given, 'web-1'), 'web-1');

describe('deviceRules', () => {
  it.each<[LinuxDeviceCgroup, string]>([
    [{ allow: true, type: 'u', access: 'rwm' }, 'devices[0].type: unknown device type "u"'],
    [{ allow: true, type: 'c', access: '' }, 'devices[0].access: must be made of r, w and m'],
    [{ allow: true, type: 'c' }, 'devices[0].access: must be made of r, w and m'],
    [{ allow: true, type: 'c', access: 'rx' }, 'devices[0].access: must be made of r, w and m'],
    [
      { allow: true, type: 'c', major: 4096, access: 'r' },
      'devices[0].major: must be 0 to 4095, or -1 for any',
    ],
    [
      { allow: true, type: 'c', major: 1, minor: -2, access: 'r' },
      'devices[0].minor: must be 0 to 1048575, or -1 for any',
    ],
    [
      { allow: true, type: 'c', major: 1.5, access: 'r' },
      'devices[0].major: must be 0 to 4095, or -1 for any',
    ],
  ])('refuses %j', (rule, text) => {
    expect(() => deviceRules([rule], 'web-1')).toThrowError(
      expect.objectContaining({
        code: ErrorCode.InvalidArgument,
        message: `create web-1: linux.resources.${text}`,
      }),
    );
  });
});

describe('deviceListV1', () => {
  it('denies all but the defaults when config.json says nothing', () => {
    expect(list([])).toEqual({ first: 'devices.deny', then: 'devices.allow', lines: defaults });
  });

  it('merges rules for the same devices', () => {
    const { lines } = list([
      { allow: false, access: 'rwm' },
      { allow: true, type: 'c', major: 1, minor: 3, access: 'r' },
      { allow: true, type: 'b', major: 8, access: 'rm' },
      { allow: true, type: 'b', major: 8, access: 'w' },
    ]);
    expect(lines.filter((line) => line.startsWith('b 8') || line.startsWith('c 1:3'))).toEqual([
      'c 1:3 rwm',
      'b 8:* rwm',
    ]);
  });

  it('allows by default for a privileged container', () => {
    expect(list([{ allow: true, access: 'rwm' }])).toEqual({
      first: 'devices.allow',
      then: 'devices.deny',
      lines: [],
    });
  });

  it('excepts from an allowance for all', () => {
    const result = list([
      { allow: true, access: 'rwm' },
      { allow: false, type: 'b', major: 8, minor: 0, access: 'w' },
    ]);
    expect(result).toEqual({ first: 'devices.allow', then: 'devices.deny', lines: ['b 8:0 w'] });
  });

  it('forgets what comes before a rule for all', () => {
    const result = list([
      { allow: true, type: 'b', major: 8, minor: 0, access: 'rwm' },
      { allow: false, access: 'rwm' },
    ]);
    expect(result.lines).toEqual(defaults);
  });

  it('takes back an allowance, also a part of one', () => {
    const result = list([
      { allow: true, type: 'b', major: 8, minor: 0, access: 'rwm' },
      { allow: true, type: 'b', major: 9, minor: 0, access: 'rw' },
      { allow: false, type: 'b', major: 8, access: 'rwm' },
      { allow: false, type: 'b', major: 9, access: 'w' },
    ]);
    expect(result.lines.filter((line) => line.startsWith('b'))).toEqual(['b 9:0 r', 'b *:* m']);
  });

  it('refuses a denial inside a wider allowance, which the kernel would take and not act on', () => {
    expect(() =>
      list([
        { allow: true, type: 'b', major: 8, access: 'rw' },
        { allow: false, type: 'b', major: 8, minor: 1, access: 'w' },
      ]),
    ).toThrowError(
      expect.objectContaining({
        code: ErrorCode.InvalidArgument,
        message:
          'create web-1: linux.resources.devices: the cgroup v1 devices controller cannot except b 8:1 w from b 8:* rw; list the devices one by one',
      }),
    );
  });

  it('means the same as the rules, for every single access, whenever it can say them', () => {
    fc.assert(
      fc.property(anyRules, (rules) => {
        let result;
        try {
          result = deviceListV1(rules, 'id');
        } catch {
          return;
        }
        for (const type of ['b', 'c'] as const) {
          for (const [major, minor] of [
            [1, 3],
            [1, 5],
            [8, 0],
            [9, 1],
          ] as const) {
            for (const access of [Access.mknod, Access.read, Access.write]) {
              expect(kernelV1(result, type, major, minor, access)).toBe(
                isAllowed(rules, type, major, minor, access),
              );
            }
          }
        }
      }),
    );
  });
});

/** The kernel's view of a list (security/device_cgroup.c): a default and exceptions from it. */
function kernelV1(
  { first, lines }: { first: string; lines: string[] },
  type: string,
  major: number,
  minor: number,
  access: number,
): boolean {
  const matches = lines.some((line) => {
    const [, t, ma, mi, letters = ''] = /^(\w) ([\d*]+):([\d*]+) (\w+)$/.exec(line) ?? [];
    const bits = [...letters].reduce((sum, letter) => sum | ({ m: 1, r: 2, w: 4 }[letter] ?? 0), 0);
    return (
      t === type &&
      (ma === '*' || Number(ma) === major) &&
      (mi === '*' || Number(mi) === minor) &&
      (bits & access) !== 0
    );
  });
  return first === 'devices.allow' ? !matches : matches;
}

describe('isAllowed', () => {
  const rules: DeviceRule[] = [
    { allow: true, type: 'c', major: undefined, minor: undefined, access: Access.all },
    { allow: false, type: 'c', major: 10, minor: 229, access: Access.write },
    { allow: true, type: 'c', major: 10, minor: 229, access: Access.mknod },
  ];

  it('decides each access bit by the last rule that has it', () => {
    expect(isAllowed(rules, 'c', 10, 229, Access.read | Access.mknod)).toBe(true);
    expect(isAllowed(rules, 'c', 10, 229, Access.read | Access.write)).toBe(false);
    expect(isAllowed(rules, 'c', 10, 228, Access.read | Access.write)).toBe(true);
    expect(isAllowed(rules, 'b', 10, 228, Access.read)).toBe(false);
  });
});
