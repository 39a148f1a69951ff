import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { LinuxSeccomp, LinuxSyscall } from '../oci/types.ts';
import { compileSeccomp, compileUncached, seccompInfo } from './seccomp.ts';
import { runSeccomp } from './testing/bpf.ts';
import { defaultProfile } from './testing/default_profile.ts';

const X86_64 = 0xc000003e;
const I386 = 0x40000003;
const X32_BIT = 0x40000000;
const ALLOW = 0x7fff0000;
const EPERM = 0x50001;
const ENOSYS = 0x50026;
const KILL = 0;
const nr = { read: 0, socket: 41, clone: 56, exit: 60, personality: 135, reboot: 169, clone3: 435 };

const allow = (names: string[], args?: LinuxSyscall['args']): LinuxSyscall => ({
  names,
  action: 'SCMP_ACT_ALLOW',
  args,
});

/** What the program answers to a call. */
const answer = (program: Uint8Array, number: number, args: bigint[] = [], arch = X86_64): number =>
  runSeccomp(program, { nr: number, arch, args }).action;

describe('a default profile', () => {
  const { program, warnings } = compileUncached(defaultProfile);

  it.each([
    ['an allowed call', nr.read, [], ALLOW],
    ['a refused call', nr.reboot, [], EPERM],
    ['a call with an errno of its own', nr.clone3, [], ENOSYS],
    ['personality 8', nr.personality, [8n], ALLOW],
    ['personality 9', nr.personality, [9n], EPERM],
    ['personality, high word set', nr.personality, [0x1_0000_0008n], EPERM],
    ['a socket', nr.socket, [2n], ALLOW],
    ['a vsock socket', nr.socket, [40n], EPERM],
    ['a thread', nr.clone, [0x3d0f00n], ALLOW],
    ['a new user namespace', nr.clone, [0x10000000n], EPERM],
    ['a call newer than the profile', 1000, [], ENOSYS],
    ['x32', X32_BIT + nr.read, [], ALLOW],
    ['x32, newer', X32_BIT + 1000, [], ENOSYS],
    ['a call that a tracer skips', 0xffffffff, [], EPERM],
  ])('%s', (_, number, args, expected) => expect(answer(program, number, args)).toBe(expected));

  it('covers the 32-bit calls', () => {
    expect(answer(program, 3, [], I386)).toBe(ALLOW);
    expect(answer(program, 88, [], I386)).toBe(EPERM);
    expect(answer(program, 1000, [], I386)).toBe(ENOSYS);
    expect(warnings).toEqual([]);
  });

  it('kills other architectures', () => {
    expect(answer(program, nr.read, [], 0xc00000b7)).toBe(KILL);
  });

  it('needs few instructions for any call', () => {
    const steps = Array.from({ length: 450 }, (_, n) => runSeccomp(program, { nr: n, arch: X86_64 }).steps);
    expect(Math.max(...steps)).toBeLessThan(40);
    expect(program.length / 8).toBeLessThan(1500);
  });
});

describe('compileUncached', () => {
  const compile = (profile: Partial<LinuxSeccomp>): Uint8Array =>
    compileUncached({ defaultAction: 'SCMP_ACT_ERRNO', ...profile }).program;

  it('refuses x32 and i386 that are not in the profile', () => {
    const program = compile({ architectures: ['SCMP_ARCH_X86_64'], syscalls: [allow(['read', 'exit'])] });
    expect(answer(program, nr.read)).toBe(ALLOW);
    expect(answer(program, X32_BIT + nr.read)).toBe(KILL);
    expect(answer(program, X32_BIT + 1000)).toBe(KILL);
    expect(answer(program, 3, [], I386)).toBe(KILL);
  });

  it('always has the machine’s own architecture', () => {
    const program = compile({ architectures: ['SCMP_ARCH_X86'], syscalls: [allow(['read'])] });
    expect(answer(program, nr.read)).toBe(ALLOW);
    expect(answer(program, 3, [], I386)).toBe(ALLOW);
  });

  it.each<[string, string, number]>([
    ['SCMP_ACT_ERRNO', 'newer calls', ENOSYS],
    ['SCMP_ACT_KILL_PROCESS', 'newer calls', ENOSYS],
    ['SCMP_ACT_TRAP', 'newer calls', ENOSYS],
    ['SCMP_ACT_ALLOW', 'lets them through', ALLOW],
    ['SCMP_ACT_LOG', 'lets them through', 0x7ffc0000],
    ['SCMP_ACT_TRACE', 'hands them over', 0x7ff00001],
  ])('default %s: %s', (defaultAction, _, expected) => {
    const program = compile({ defaultAction, syscalls: [{ names: ['exit'], action: 'SCMP_ACT_KILL' }] });
    expect(answer(program, nr.exit + 1)).toBe(expected);
    expect(answer(program, 1000)).toBe(expected);
    expect(answer(program, nr.exit)).toBe(KILL);
  });

  it('adds nothing where the default says ENOSYS', () => {
    const program = compile({ defaultErrnoRet: 38, syscalls: [allow(['read'])] });
    expect(answer(program, 1)).toBe(ENOSYS);
    expect(answer(program, 1000)).toBe(ENOSYS);
    expect(answer(program, nr.read)).toBe(ALLOW);
  });

  it.each<[string, bigint, bigint[], bigint[]]>([
    ['SCMP_CMP_EQ', 7n, [7n], [6n, 8n, 0x1_0000_0007n]],
    ['SCMP_CMP_NE', 7n, [6n, 8n, 0x1_0000_0007n], [7n]],
    ['SCMP_CMP_LT', 7n, [0n, 6n], [7n, 8n, 0x1_0000_0000n]],
    ['SCMP_CMP_LE', 7n, [0n, 7n], [8n, 0x1_0000_0000n]],
    ['SCMP_CMP_GE', 7n, [7n, 8n, 0x1_0000_0000n], [0n, 6n]],
    ['SCMP_CMP_GT', 7n, [8n, 0x1_0000_0000n], [0n, 7n]],
    ['SCMP_CMP_EQ', 0x1234_5678_9abcn, [0x1234_5678_9abcn], [0x5678_9abcn, 0x1234_0000_0000n]],
  ])('compares all 64 bits: %s %s', (op, value, yes, no) => {
    const args = [{ index: 3, value: value as unknown as number, op }];
    const program = compile({ syscalls: [allow(['read'], args), allow(['exit'])] });
    for (const given of yes) expect(answer(program, 0, [0n, 0n, 0n, given]), `${given}`).toBe(ALLOW);
    for (const given of no) expect(answer(program, 0, [0n, 0n, 0n, given]), `${given}`).toBe(EPERM);
  });

  it('takes alternatives on one argument, and all of several arguments', () => {
    const condition = (index: number, value: number) => ({ index, value, op: 'SCMP_CMP_EQ' });
    const either = compile({ syscalls: [allow(['socket'], [condition(0, 1), condition(0, 2)])] });
    expect([1n, 2n, 3n].map((domain) => answer(either, nr.socket, [domain]))).toEqual([ALLOW, ALLOW, EPERM]);
    const both = compile({ syscalls: [allow(['socket'], [condition(0, 1), condition(1, 2)])] });
    expect(answer(both, nr.socket, [1n, 2n])).toBe(ALLOW);
    expect(answer(both, nr.socket, [1n, 1n])).toBe(EPERM);
    expect(answer(both, nr.socket, [2n, 2n])).toBe(EPERM);
  });

  it('passes over what libseccomp does not know, and says so', () => {
    const { program, warnings } = compileUncached({
      defaultAction: 'SCMP_ACT_ERRNO',
      architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_SHEB'],
      syscalls: [allow(['read', 'no_such_call', 'exit', 'no_such_call'])],
    });
    expect(answer(program, nr.exit)).toBe(ALLOW);
    expect(warnings[0]).toMatch(
      /^seccomp: system calls no_such_call: not known to libseccomp [\d.]+, passed over$/,
    );
  });

  it('takes the same rule twice, and a rule that says what the default says', () => {
    const program = compile({
      syscalls: [allow(['read']), allow(['read']), { names: ['exit', 'write'], action: 'SCMP_ACT_ERRNO' }],
    });
    expect(answer(program, nr.read)).toBe(ALLOW);
    expect(answer(program, 1)).toBe(EPERM);
  });

  it('names an architecture that cannot be in one program with this machine’s', () => {
    expect(() => compile({ architectures: ['SCMP_ARCH_S390X'], syscalls: [allow(['read'])] })).toThrow(
      /^compile seccomp: linux\.seccomp: s390x: seccomp_arch_add: /,
    );
  });
});

describe('compileSeccomp', () => {
  it('compiles a profile once, whatever object it comes in', () => {
    const first = compileSeccomp(structuredClone(defaultProfile));
    expect(compileSeccomp(structuredClone(defaultProfile))).toBe(first);
    const other = compileSeccomp({ ...defaultProfile, defaultErrnoRet: 13 });
    expect(other).not.toBe(first);
    expect(answer(other.program, nr.reboot)).toBe(0x5000d);
  });

  it('keeps the 64 used last', () => {
    const profile = (errno: number): LinuxSeccomp => ({
      defaultAction: 'SCMP_ACT_ERRNO',
      defaultErrnoRet: errno,
    });
    const kept = compileSeccomp(profile(100));
    const dropped = compileSeccomp(profile(101));
    for (let errno = 200; errno < 263; errno += 1) {
      compileSeccomp(profile(errno));
      expect(compileSeccomp(profile(100))).toBe(kept);
    }
    expect(compileSeccomp(profile(101))).not.toBe(dropped);
  });
});

describe('seccompInfo', () => {
  it('lists what a profile may say', () => {
    const info = seccompInfo();
    expect(info.actions).toHaveLength(9);
    expect(info.operators).toHaveLength(7);
    expect(info.archs).toContain('SCMP_ARCH_X86_64');
    expect(info.knownFlags).toContain('SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV');
    expect(info.supportedFlags).toContain('SECCOMP_FILTER_FLAG_TSYNC');
    expect(info.libraryVersion).toMatch(/^2\.\d+\.\d+$/);
    expect(info.apiLevel).toBeGreaterThan(0);
  });
});

/** The kernel's own opinion: every call is made in a child with the program loaded. */
describe('in the kernel', () => {
  const probe = join(import.meta.dirname, '../../build/native/seccomp-probe');
  const ask = (profile: LinuxSeccomp, calls: string[]): string[] => {
    const { program, flags } = compileUncached(profile);
    const out = execFileSync(probe, [String(flags), ...calls], { input: program, encoding: 'utf8' });
    return out.trim().split('\n');
  };
  /** Calls that the probe itself needs after loading. */
  const base = ['write', 'exit', 'exit_group', 'rt_sigreturn'];

  it('answers as the profile says', () => {
    const answers = ask(defaultProfile, [
      'native:39', // getpid: allowed
      'native:169:1:2:3', // reboot: EPERM, also for root
      'native:1000', // newer than any table: ENOSYS
      'native:435', // clone3: its own errno
      'native:135:0xffffffff', // personality query
      'native:135:0x9', // a persona that is not listed
      'native:41:40:1:0', // vsock
      'i386:20', // getpid of the 32-bit table
      'i386:88:1:2:3', // reboot there
      'i386:1000',
    ]);
    expect(answers).toEqual(['0', '1', '38', '38', '0', '1', '1', '0', '1', '38']);
  });

  it('kills what has no table', () => {
    const profile: LinuxSeccomp = {
      defaultAction: 'SCMP_ACT_ERRNO',
      architectures: ['SCMP_ARCH_X86_64'],
      syscalls: [allow([...base, 'getpid'])],
    };
    // SIGSYS is 31.
    expect(ask(profile, ['native:39', 'i386:20', `native:${X32_BIT + 39}`])).toEqual([
      '0',
      'signal 31',
      'signal 31',
    ]);
  });

  it('carries out every action', () => {
    const rule = (action: string, name: string, errnoRet?: number): LinuxSyscall => ({
      names: [name],
      action,
      errnoRet,
    });
    const answers = ask(
      {
        defaultAction: 'SCMP_ACT_ALLOW',
        syscalls: [
          rule('SCMP_ACT_ERRNO', 'getppid', 4094),
          rule('SCMP_ACT_KILL', 'getuid'),
          rule('SCMP_ACT_KILL_THREAD', 'getgid'),
          rule('SCMP_ACT_KILL_PROCESS', 'geteuid'),
          rule('SCMP_ACT_TRAP', 'getegid'),
          rule('SCMP_ACT_TRACE', 'getpgid'), // no tracer: ENOSYS
          rule('SCMP_ACT_LOG', 'getsid'),
          rule('SCMP_ACT_NOTIFY', 'getpgrp'), // no listener: ENOSYS
        ],
      },
      [110, 102, 104, 107, 108, 121, 124, 111].map((number) => `native:${number}`),
    );
    expect(answers).toEqual(['4094', 'signal 31', 'signal 31', 'signal 31', 'signal 31', '38', '0', '38']);
  });

  it.each([
    ['SECCOMP_FILTER_FLAG_TSYNC'],
    ['SECCOMP_FILTER_FLAG_LOG'],
    ['SECCOMP_FILTER_FLAG_SPEC_ALLOW'],
    ['SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'],
  ])('takes %s', (flag) => {
    expect(ask({ ...defaultProfile, flags: [flag] }, ['native:39', 'native:1000'])).toEqual(['0', '38']);
  });

  it('takes a program of the largest size that compiles', () => {
    const args = (value: number) => [{ index: 0, value, op: 'SCMP_CMP_EQ' }];
    const rules = (count: number): LinuxSyscall[] =>
      Array.from({ length: count }, (_, value) => ({
        names: ['getpgid'],
        action: 'SCMP_ACT_ALLOW',
        args: args(value + 2),
      }));
    const large: LinuxSeccomp = {
      defaultAction: 'SCMP_ACT_ERRNO',
      syscalls: [allow([...base, 'getpid']), ...rules(3500)],
    };
    expect(compileUncached(large).program.length / 8).toBeGreaterThan(3000);
    expect(ask(large, ['native:39', 'native:121:1', 'native:1000'])).toEqual(['0', '1', '38']);
    expect(() => compileUncached({ ...large, syscalls: rules(5000) })).toThrow(
      /instructions: seccomp_export_bpf: argument list too long/,
    );
  });
});
