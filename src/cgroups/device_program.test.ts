import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compileDeviceProgram } from './device_program.ts';
import { deviceRules, isAllowed, type DeviceRule } from './device_rules.ts';
import { anyRules } from './testing/device_arbitraries.ts';

/** Runs a program as the kernel would; fails on anything that the verifier would refuse. */
function runProgram(
  bytes: Uint8Array,
  context: { accessType: number; major: number; minor: number },
): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const registers: (bigint | undefined)[] = Array.from({ length: 11 }, () => undefined);
  const register = (index: number): bigint => {
    const value = registers[index];
    if (value === undefined) throw new Error(`r${index} is read before it is set`);
    return value;
  };
  const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
  let steps = 0;
  for (let pc = 0; ; pc++) {
    if (pc < 0 || pc * 8 >= bytes.length) throw new Error(`jump out of the program to ${pc}`);
    if (++steps > 10_000) throw new Error('does not end');
    const code = view.getUint8(pc * 8);
    const dst = view.getUint8(pc * 8 + 1) & 0xf;
    const src = view.getUint8(pc * 8 + 1) >> 4;
    const off = view.getInt16(pc * 8 + 2, true);
    const imm = u64(BigInt(view.getInt32(pc * 8 + 4, true)));
    switch (code) {
      case 0x61: {
        if (src !== 1) throw new Error('loads from something that is not the context');
        const field = { 0: context.accessType, 4: context.major, 8: context.minor }[off];
        if (field === undefined) throw new Error(`loads offset ${off} of the context`);
        registers[dst] = BigInt(field);
        break;
      }
      case 0xbf:
        registers[dst] = register(src);
        break;
      case 0xb7:
        registers[dst] = imm;
        break;
      case 0x57:
        registers[dst] = register(dst) & imm;
        break;
      case 0x77:
        registers[dst] = register(dst) >> imm;
        break;
      case 0x55:
        if (register(dst) !== imm) pc += off;
        break;
      case 0x45:
        if ((register(dst) & imm) !== 0n) pc += off;
        break;
      case 0x05:
        pc += off;
        break;
      case 0x95:
        return Number(register(0));
      default:
        throw new Error(`unknown instruction 0x${code.toString(16)}`);
    }
  }
}

/** Every instruction is reached from the first: the verifier refuses others. */
function unreachable(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const seen = new Set<number>();
  const queue = [0];
  for (let pc = queue.pop(); pc !== undefined; pc = queue.pop()) {
    if (seen.has(pc)) continue;
    seen.add(pc);
    const code = view.getUint8(pc * 8);
    const target = pc + 1 + view.getInt16(pc * 8 + 2, true);
    if (code === 0x95) continue;
    if (code === 0x05) queue.push(target);
    else if (code === 0x55 || code === 0x45) queue.push(target, pc + 1);
    else queue.push(pc + 1);
  }
  return Array.from({ length: bytes.length / 8 }, (_, index) => index).filter((index) => !seen.has(index));
}

const types = { b: 1, c: 2 } as const;

function expectSameMeaning(rules: DeviceRule[]): void {
  const program = compileDeviceProgram(rules);
  expect(unreachable(program)).toEqual([]);
  for (const type of ['b', 'c'] as const) {
    for (const major of [0, 1, 8, 10, 136, 4095]) {
      for (const minor of [0, 3, 5, 200, 1048575]) {
        for (let access = 1; access <= 7; access++) {
          const answer = runProgram(program, { accessType: types[type] | (access << 16), major, minor });
          if (answer !== Number(isAllowed(rules, type, major, minor, access))) {
            expect.fail(`${type} ${major}:${minor} access ${access}: program says ${answer}`);
          }
        }
      }
    }
  }
}

describe('compileDeviceProgram', () => {
  it('denies everything without rules', () => expectSameMeaning([]));

  it.each([
    ['the defaults', []],
    ['a privileged container', [{ allow: true, access: 'rwm' }]],
    [
      'a denial inside a wider allowance',
      [
        { allow: true, type: 'b', access: 'rwm' },
        { allow: false, type: 'b', major: 8, access: 'w' },
        { allow: true, type: 'b', major: 8, minor: 3, access: 'rw' },
      ],
    ],
    [
      'a denial of everything at the end',
      [
        { allow: true, type: 'c', major: 8, access: 'r' },
        { allow: false, access: 'rwm' },
      ],
    ],
  ])('says what the rules say: %s', (_, given) => {
    const rules = deviceRules(given, 'id');
    expectSameMeaning(rules);
    expectSameMeaning(rules.slice(0, -11));
  });

  it('says what the rules say, for any rules', () => {
    fc.assert(fc.property(anyRules, expectSameMeaning), { numRuns: 300 });
  });

  it('leaves out rules that later ones cover', () => {
    const once = deviceRules([], 'id');
    expect(compileDeviceProgram([...once, ...once])).toEqual(compileDeviceProgram(once));
  });

  it('answers 0 for a device that is neither block nor character', () => {
    expect(
      runProgram(compileDeviceProgram(deviceRules([{ allow: true, access: 'rwm' }], 'id')), {
        accessType: 0x20003,
        major: 1,
        minor: 3,
      }),
    ).toBe(0);
  });
});
