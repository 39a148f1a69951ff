import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { brokeredCalls, compileFilter } from './filter.ts';
import { withMounts } from './mounts.ts';
import { systemCallNumbers } from './numbers.ts';
import { errno, handlers, type Decision, type Rule, type Test } from './rules.ts';
import { reachesKernel, strictCalls } from './strict.ts';
import { systemCalls } from './syscalls.ts';

const X86_64 = 0xc000003e;
const I386 = 0x40000003;
const ALLOW = 0x7fff0000;
const NOTIFY = 0x7fc00000;
const refused = (name: keyof typeof errno): number => 0x00050000 + errno[name];

const programs = new Map([
  [systemCalls, compileFilter()],
  [strictCalls, compileFilter({ calls: strictCalls })],
]);

/** What the kernel's interpreter would answer (bpf.rst, "Classic BPF"), instruction by instruction. */
function runFilter(
  number: number,
  args: readonly bigint[],
  arch = X86_64,
  calls = systemCalls,
  other?: Uint8Array,
): number {
  const program = other ?? programs.get(calls) ?? new Uint8Array();
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, number, true);
  data.setUint32(4, arch, true);
  args.forEach((value, index) => data.setBigUint64(16 + 8 * index, BigInt.asUintN(64, value), true));
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  let accumulator = 0;
  for (let at = 0; at < program.length / 8; at++) {
    const op = code.getUint16(at * 8, true);
    const [jt, jf, k] = [
      code.getUint8(at * 8 + 2),
      code.getUint8(at * 8 + 3),
      code.getUint32(at * 8 + 4, true),
    ];
    if (op === 0x06) return k;
    if (op === 0x20) accumulator = data.getUint32(k, true);
    else if (op === 0x54) accumulator = (accumulator & k) >>> 0;
    else if (op === 0x05) at += k;
    else if (op === 0x15) at += accumulator === k ? jt : jf;
    else if (op === 0x35) at += accumulator >= k ? jt : jf;
    else if (op === 0x45) at += (accumulator & k) !== 0 ? jt : jf;
    else throw new Error(`instruction ${op} at ${at}`);
  }
  throw new Error('the program does not return');
}

/** The table read the plain way. */
function expected(number: number, args: readonly bigint[], calls = systemCalls): number {
  const decision = calls.find((call) => call.number === number)?.decision;
  if (decision === undefined) return refused('ENOSYS');
  if (decision.use === 'refuse') return refused(decision.errno);
  if (decision.use !== 'direct') {
    const { direct } = decision;
    return direct?.every((test) => holds(test, args)) === true ? ALLOW : NOTIFY;
  }
  if (decision.rules === undefined) return ALLOW;
  const rule = decision.rules.find(({ when }) => when.every((test) => holds(test, args)));
  if (rule === undefined) return refused(decision.otherwise ?? 'EPERM');
  return rule.then === 'direct' ? ALLOW : refused(rule.then);
}

function holds(test: Test, args: readonly bigint[]): boolean {
  const value = BigInt.asUintN(64, args[test.arg] ?? 0n);
  const low = Number(value & 0xffff_ffffn);
  if ('null' in test) return value === 0n;
  if ('none' in test) return (low & test.none) === 0;
  const seen = test.and === undefined ? low : (low & test.and) >>> 0;
  return test.in.some((wanted) => wanted >>> 0 === seen);
}

const none = [0n, 0n, 0n, 0n, 0n, 0n];
const numberOf = (name: string): number => systemCallNumbers.get(name) ?? -1;

describe('the table', () => {
  it('has every known call once', () => {
    expect(systemCalls.map(({ name }) => name).sort()).toEqual([...systemCallNumbers.keys()].sort());
  });

  it('lets at most 150 calls through to the kernel', () => {
    const direct = systemCalls.filter(({ decision }) => decision.use === 'direct');
    expect(direct.length).toBeLessThanOrEqual(150);
    expect(direct.length).toBeGreaterThan(100);
  });

  it('lets at most 110 calls through under the profile strict', () => {
    expect(strictCalls.map(({ number }) => number)).toEqual(systemCalls.map(({ number }) => number));
    expect(strictCalls.filter(({ decision }) => reachesKernel(decision)).length).toBeLessThanOrEqual(110);
  });

  it.each([
    'bpf',
    'ptrace',
    'io_uring_setup',
    'keyctl',
    'mount',
    'setns',
    'unshare',
    'clone3',
    'userfaultfd',
  ])('refuses %s', (name) =>
    expect(systemCalls.find((call) => call.name === name)?.decision.use).toBe('refuse'),
  );
});

describe('mounts', () => {
  it.each([
    ['kernel', systemCalls],
    ['strict', strictCalls],
  ])(
    "are the supervisor's in %s where they are asked for, and no more calls reach the kernel",
    (_name, calls) => {
      const changed = withMounts(calls);
      const reached = (list: typeof calls): number =>
        list.filter(({ decision }) => reachesKernel(decision)).length;
      expect(reached(changed)).toBe(reached(calls));
      const program = compileFilter({ calls: changed });
      for (const { number, name, decision } of calls) {
        const answer = runFilter(number, none, X86_64, calls, program);
        if (name === 'mount' || name === 'umount2') {
          expect(decision).toEqual({ use: 'refuse', errno: 'EPERM' });
          expect([name, answer]).toEqual([name, NOTIFY]);
        } else expect([name, answer]).toEqual([name, expected(number, none, calls)]);
      }
      const dispatched = new Map(brokeredCalls(changed));
      expect([165, 166].map((number) => dispatched.get(number))).toEqual([handlers.mount, handlers.unmount]);
    },
  );
});

describe('the filter', () => {
  const profiles = [
    ['kernel', systemCalls],
    ['strict', strictCalls],
  ] as const;

  it.each(profiles)('of %s is a program that the kernel takes', (_name, calls) => {
    const program = programs.get(calls) ?? new Uint8Array();
    expect(program.length % 8).toBe(0);
    expect(program.length / 8).toBeLessThanOrEqual(4096);
    expect(program.length / 8).toBeGreaterThan(100);
  });

  it.each(profiles)('of %s answers every number as the table says', (_name, calls) => {
    for (let number = 0; number < 1024; number++) {
      expect([number, runFilter(number, none, X86_64, calls)]).toEqual([
        number,
        expected(number, none, calls),
      ]);
    }
  });

  it.each(profiles)('of %s answers any arguments as the table says', (_name, calls) => {
    const interesting = calls.flatMap(({ decision }) => testsOf(decision).flatMap(valuesOf));
    const argument = fc.oneof(
      fc.constantFrom(...interesting.map(BigInt)),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.constantFrom(0n, 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n),
    );
    const number = fc.constantFrom(...calls.map((call) => call.number));
    fc.assert(
      fc.property(number, fc.array(argument, { minLength: 6, maxLength: 6 }), (call, args) => {
        expect(runFilter(call, args, X86_64, calls)).toBe(expected(call, args, calls));
      }),
      { numRuns: 5000 },
    );
  });

  it.each<[string, bigint[], number]>([
    ['openat', [0n, 0n, 0o10000000n], ALLOW],
    ['openat', [0n, 0n, 0o10000000n - 1n], NOTIFY],
    ['open', [0n, 0o10000000n], NOTIFY],
    ['newfstatat', [0n, 1n, 0n, 0x1000n], ALLOW],
    ['newfstatat', [0n, 1n, 0n, 0n], ALLOW],
    ['stat', [0n, 1n], NOTIFY],
    ['utimensat', [3n, 0n], ALLOW],
    ['utimensat', [3n, 2n ** 32n], NOTIFY],
    ['execve', [], NOTIFY],
    ['chdir', [], ALLOW],
  ])('under strict %s: arguments %#', (name, args, answer) => {
    const all = [...args, ...none].slice(0, 6);
    expect(runFilter(numberOf(name), all, X86_64, strictCalls)).toBe(answer);
  });

  it('has no answer but ENOSYS for the numbers of i386, of x32, and of kernels to come', () => {
    for (const number of [0, 1, 11, 20, 120, 200])
      expect(runFilter(number, none, I386)).toBe(refused('ENOSYS'));
    for (const number of [0x40000000, 0x40000001, 0x4000003b]) {
      expect(runFilter(number, none)).toBe(refused('ENOSYS'));
    }
    for (const number of [337, 423, 470, 600, 0xffffffff])
      expect(runFilter(number, none)).toBe(refused('ENOSYS'));
  });

  it.each<[string, bigint[], number]>([
    ['clone', [0x10000000n], refused('EPERM')],
    ['clone', [0x1200011n], ALLOW],
    ['socket', [1n, 1n, 0n], ALLOW],
    ['socket', [2n, 0x80802n, 17n], ALLOW],
    ['socket', [2n, 3n, 1n], refused('EPERM')],
    ['socket', [16n, 3n, 0n], ALLOW],
    ['socket', [16n, 3n, 12n], refused('EPROTONOSUPPORT')],
    ['socket', [40n, 1n, 0n], refused('EAFNOSUPPORT')],
    ['socket', [17n, 3n, 0n], refused('EAFNOSUPPORT')],
    ['ioctl', [0n, 0x5401n], ALLOW],
    ['ioctl', [0n, 0x5412n], refused('ENOTTY')],
    ['ioctl', [0n, 2n ** 32n + 0x5412n], refused('ENOTTY')],
    ['setsockopt', [3n, 1n, 26n], refused('ENOPROTOOPT')],
    ['setsockopt', [3n, 0n, 64n], refused('ENOPROTOOPT')],
    ['prlimit64', [7n, 7n, 0x1000n], refused('EPERM')],
    ['prlimit64', [7n, 7n, 2n ** 32n], refused('EPERM')],
    ['prlimit64', [7n, 7n, 0n], ALLOW],
    ['seccomp', [1n, 8n], refused('EBUSY')],
    ['seccomp', [1n, 0n], ALLOW],
    ['mknodat', [0n, 0n, 0o060600n], refused('EPERM')],
    ['uname', [0n], NOTIFY],
  ])('%s: arguments %#', (name, args, answer) => {
    expect(runFilter(numberOf(name), [...args, ...none].slice(0, 6))).toBe(answer);
  });

  it('reports refusals instead of giving them, where it is asked to, and changes nothing else', () => {
    const unusual = compileFilter({ report: 'unusual' });
    const all = compileFilter({ report: 'all' });
    for (const { number, decision } of systemCalls) {
      for (const args of [none, [99n, 99n, 99n, 99n, 99n, 99n]]) {
        const silent = expected(number, args);
        const isRefusal = silent !== ALLOW && silent !== NOTIFY;
        const isUnusual = isRefusal && (decision.use === 'direct' || silent === refused('EPERM'));
        expect([number, runFilter(number, args, X86_64, systemCalls, all)]).toEqual([
          number,
          isRefusal ? NOTIFY : silent,
        ]);
        expect([number, runFilter(number, args, X86_64, systemCalls, unusual)]).toEqual([
          number,
          isUnusual ? NOTIFY : silent,
        ]);
      }
    }
    expect(runFilter(0, none, I386, systemCalls, unusual)).toBe(refused('ENOSYS'));
    expect(runFilter(600, none, X86_64, systemCalls, all)).toBe(NOTIFY);
    expect(runFilter(0, none, I386, systemCalls, all)).toBe(NOTIFY);
  });

  it('has a handler for every brokered call', () => {
    const known = new Set<number>(Object.values(handlers));
    for (const calls of [systemCalls, strictCalls]) {
      const brokered = brokeredCalls(calls);
      expect(brokered).toContainEqual([63, 1]);
      expect(brokered.filter(([, handler]) => !known.has(handler))).toEqual([]);
    }
  });
});

function testsOf(decision: Decision): readonly Test[] {
  if (decision.use === 'direct') return (decision.rules ?? []).flatMap(({ when }) => when);
  return decision.use === 'refuse' ? [] : (decision.direct ?? []);
}

function valuesOf(test: Rule['when'][number]): number[] {
  if ('in' in test) return [...test.in].map((value) => value >>> 0);
  return 'none' in test ? [test.none >>> 0] : [0];
}
