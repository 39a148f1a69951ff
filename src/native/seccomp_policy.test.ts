import { describe, expect, it } from 'vitest';
import { RuntimeError } from '../base/errors.ts';
import type { LinuxSeccomp, LinuxSyscall } from '../oci/types.ts';
import { flattenSeccomp, seccompFlagBits } from './seccomp_policy.ts';

const profile = (syscalls: LinuxSyscall[], more: Partial<LinuxSeccomp> = {}): LinuxSeccomp => ({
  defaultAction: 'SCMP_ACT_ERRNO',
  syscalls,
  ...more,
});

const messageOf = (bad: LinuxSeccomp): string => {
  try {
    flattenSeccomp(bad);
  } catch (error) {
    expect(error).toBeInstanceOf(RuntimeError);
    expect((error as RuntimeError).code).toBe(3);
    return (error as RuntimeError).message;
  }
  throw new Error('was not refused');
};

describe('flattenSeccomp', () => {
  it.each([
    ['SCMP_ACT_KILL', undefined, 0],
    ['SCMP_ACT_KILL_THREAD', undefined, 0],
    ['SCMP_ACT_KILL_PROCESS', undefined, 0x80000000],
    ['SCMP_ACT_TRAP', undefined, 0x30000],
    ['SCMP_ACT_ERRNO', undefined, 0x50001],
    ['SCMP_ACT_ERRNO', 0, 0x50000],
    ['SCMP_ACT_ERRNO', 4094, 0x50ffe],
    ['SCMP_ACT_TRACE', undefined, 0x7ff00001],
    ['SCMP_ACT_TRACE', 65535, 0x7ff0ffff],
    ['SCMP_ACT_LOG', undefined, 0x7ffc0000],
    ['SCMP_ACT_ALLOW', undefined, 0x7fff0000],
    ['SCMP_ACT_NOTIFY', undefined, 0x7fc00000],
  ])('gives %s with errnoRet %s the number of seccomp(2)', (action, errnoRet, expected) => {
    const flat = flattenSeccomp(profile([{ names: ['read'], action, errnoRet }]));
    expect([...flat.actions]).toEqual([expected]);
    const asDefault = flattenSeccomp({ defaultAction: action, defaultErrnoRet: errnoRet });
    expect(asDefault.defaultAction).toBe(expected);
  });

  it('keeps conditions on different arguments in one rule', () => {
    const args = [
      { index: 0, value: 2, op: 'SCMP_CMP_EQ' },
      { index: 1, value: 0xff, valueTwo: 3, op: 'SCMP_CMP_MASKED_EQ' },
    ];
    const flat = flattenSeccomp(profile([{ names: ['socket'], action: 'SCMP_ACT_ALLOW', args }]));
    expect([...flat.conditionCounts]).toEqual([2]);
    expect([...flat.conditions]).toEqual([0n, 4n, 2n, 0n, 1n, 7n, 255n, 3n]);
  });

  it('makes conditions on the same argument alternatives', () => {
    const args = [1, 2, 3].map((value) => ({ index: 0, value, op: 'SCMP_CMP_EQ' }));
    const flat = flattenSeccomp(profile([{ names: ['socket', 'bind'], action: 'SCMP_ACT_ALLOW', args }]));
    expect(flat.names).toEqual(['socket', 'socket', 'socket', 'bind', 'bind', 'bind']);
    expect([...flat.conditionCounts]).toEqual([1, 1, 1, 1, 1, 1]);
    expect([...flat.conditions].filter((_, index) => index % 4 === 2)).toEqual([1n, 2n, 3n, 1n, 2n, 3n]);
  });

  it('takes 64-bit values that are exact', () => {
    const value = 0xffff_ffff_ffff_ffffn as unknown as number;
    const flat = flattenSeccomp(
      profile([{ names: ['a'], action: 'SCMP_ACT_ALLOW', args: [{ index: 5, value, op: 'SCMP_CMP_NE' }] }]),
    );
    expect([...flat.conditions]).toEqual([5n, 1n, 0xffff_ffff_ffff_ffffn, 0n]);
  });

  const arg = (over: object): LinuxSeccomp =>
    profile([
      {
        names: ['a'],
        action: 'SCMP_ACT_ALLOW',
        args: [{ index: 0, value: 0, op: 'SCMP_CMP_EQ', ...over }],
      },
    ]);
  const at = 'compile seccomp: linux.seccomp';
  it.each<[string, LinuxSeccomp, string]>([
    [
      'action',
      profile([{ names: ['a'], action: 'ALLOW' }]),
      `${at}.syscalls[0].action: unknown action "ALLOW"`,
    ],
    ['prototype', { defaultAction: 'toString' }, `${at}.defaultAction: unknown action "toString"`],
    ['empty', { defaultAction: '' }, `${at}.defaultAction: unknown action ""`],
    ['arch', profile([], { architectures: ['X86'] }), `${at}.architectures[0]: unknown architecture "X86"`],
    ['op', arg({ op: 'EQ' }), `${at}.syscalls[0].args[0].op: unknown operator "EQ"`],
    ['index', arg({ index: 6 }), `${at}.syscalls[0].args[0].index: must be from 0 to 5, is 6`],
    ['negative', arg({ value: -1 }), `${at}.syscalls[0].args[0].value: -1 is out of range`],
    [
      'inexact',
      arg({ value: 2 ** 64 }),
      `${at}.syscalls[0].args[0].value: 18446744073709552000 cannot be represented exactly`,
    ],
    [
      'errno of an action without one',
      profile([{ names: ['a'], action: 'SCMP_ACT_ALLOW', errnoRet: 1 }]),
      `${at}.syscalls[0].errnoRet: SCMP_ACT_ALLOW returns no errno`,
    ],
    [
      'errno range',
      { defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 4095 },
      `${at}.defaultErrnoRet: must be from 0 to 4094, is 4095`,
    ],
  ])('refuses: %s', (_, bad, message) => expect(messageOf(bad)).toBe(message));
});

describe('seccompFlagBits', () => {
  const all = 0x3f;
  const notify: LinuxSyscall = { names: ['mknod'], action: 'SCMP_ACT_NOTIFY' };
  const flag = (name: string): string => `SECCOMP_FILTER_FLAG_${name}`;
  it.each<[string, LinuxSeccomp, number, number]>([
    ['none given: speculation allowed', profile([]), all, 4],
    ['none given, old kernel', profile([]), 3, 0],
    ['empty list', profile([], { flags: [] }), all, 0],
    ['TSYNC and LOG', profile([], { flags: [flag('TSYNC'), flag('LOG')] }), all, 3],
    ['TSYNC with a listener', profile([notify], { flags: [flag('TSYNC')] }), all, 1 | 16],
    ['WAIT_KILLABLE_RECV', profile([notify], { flags: [flag('WAIT_KILLABLE_RECV')] }), all, 32],
    ['the same without a listener', profile([], { flags: [flag('WAIT_KILLABLE_RECV')] }), all, 0],
  ])('%s', (_, input, kernel, expected) => expect(seccompFlagBits(input, kernel)).toBe(expected));

  it('names what the kernel does not take', () => {
    expect(() => seccompFlagBits(profile([], { flags: [flag('LOG')] }), 1)).toThrow(
      'compile seccomp: linux.seccomp.flags: SECCOMP_FILTER_FLAG_LOG: not supported by this kernel',
    );
    expect(() => seccompFlagBits(profile([], { flags: ['LOG'] }), 1)).toThrow(
      'compile seccomp: linux.seccomp.flags[0]: unknown flag "LOG"',
    );
  });
});
