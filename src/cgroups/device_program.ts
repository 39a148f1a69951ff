/**
 * Device rules as a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE: what cgroup v2 has instead of the v1 devices
 * controller (Documentation/admin-guide/cgroup-v2.rst "Device controller"; linux/bpf.h struct bpf_cgroup_dev_ctx).
 * Output is struct bpf_insn[], little-endian.
 *
 *   r1 = context { u32 access_type: type in the low, access in the high half; u32 major; u32 minor }
 *   r2 = type  r3 = access not decided yet  r4 = major  r5 = minor
 *   from the last rule to the first: a match that denies an undecided bit answers 0; one that allows takes its bits
 *   away and answers 1 when none is left; after the first rule: 0.
 */
import { Access, covers, type DeviceRule } from './device_rules.ts';

/** linux/bpf.h and linux/bpf_common.h. */
const Op = {
  loadWord: 0x61, // BPF_LDX | BPF_MEM | BPF_W
  moveRegister: 0xbf, // BPF_ALU64 | BPF_MOV | BPF_X
  moveConstant: 0xb7, // BPF_ALU64 | BPF_MOV | BPF_K
  and: 0x57, // BPF_ALU64 | BPF_AND | BPF_K
  shiftRight: 0x77, // BPF_ALU64 | BPF_RSH | BPF_K
  jumpNotEqual: 0x55, // BPF_JMP | BPF_JNE | BPF_K
  jumpAnySet: 0x45, // BPF_JMP | BPF_JSET | BPF_K
  jump: 0x05, // BPF_JMP | BPF_JA
  exit: 0x95, // BPF_JMP | BPF_EXIT
} as const;

const deviceTypes = { b: 1, c: 2 } as const; // BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR

interface Instruction {
  code: number;
  dst?: number;
  src?: number;
  off?: number;
  imm?: number;
}

/** The program for `rules`; the last rule that matches decides, and no match denies. */
export function compileDeviceProgram(rules: readonly DeviceRule[]): Uint8Array {
  const program: Instruction[] = [
    { code: Op.loadWord, dst: 2, src: 1, off: 0 },
    { code: Op.moveRegister, dst: 3, src: 2 },
    { code: Op.and, dst: 2, imm: 0xffff },
    { code: Op.shiftRight, dst: 3, imm: 16 },
    { code: Op.loadWord, dst: 4, src: 1, off: 4 },
    { code: Op.loadWord, dst: 5, src: 1, off: 8 },
  ];
  for (const rule of effectiveRules(rules)) program.push(...ruleInstructions(rule));
  program.push(...answer(0));
  return assemble(program);
}

/** Last to first, without rules that later ones leave nothing to say for, nor denials that the end makes anyway. */
function effectiveRules(rules: readonly DeviceRule[]): DeviceRule[] {
  const kept: DeviceRule[] = [];
  for (const rule of [...rules].reverse()) {
    const decided = kept.reduce((bits, later) => (covers(later, rule) ? bits | later.access : bits), 0);
    if ((rule.access & ~decided) !== 0) kept.push(rule);
  }
  while (kept.at(-1)?.allow === false) kept.pop();
  return kept;
}

function ruleInstructions(rule: DeviceRule): Instruction[] {
  const verdict = rule.allow ? allowInstructions(rule.access) : denyInstructions(rule.access);
  const tests: Instruction[] = [{ code: Op.jumpNotEqual, dst: 2, imm: deviceTypes[rule.type] }];
  if (rule.major !== undefined) tests.push({ code: Op.jumpNotEqual, dst: 4, imm: rule.major });
  if (rule.minor !== undefined) tests.push({ code: Op.jumpNotEqual, dst: 5, imm: rule.minor });
  const block = [...tests, ...verdict];
  // A failed test goes to the next rule: the offset counts from the instruction after the jump.
  return block.map((each, index) =>
    index < tests.length ? { ...each, off: block.length - index - 1 } : each,
  );
}

function allowInstructions(access: number): Instruction[] {
  if (access === Access.all) return answer(1);
  return [
    { code: Op.and, dst: 3, imm: ~access },
    { code: Op.jumpNotEqual, dst: 3, imm: 0, off: 2 },
    ...answer(1),
  ];
}

function denyInstructions(access: number): Instruction[] {
  if (access === Access.all) return answer(0);
  return [{ code: Op.jumpAnySet, dst: 3, imm: access, off: 1 }, { code: Op.jump, off: 2 }, ...answer(0)];
}

function answer(value: 0 | 1): Instruction[] {
  return [{ code: Op.moveConstant, dst: 0, imm: value }, { code: Op.exit }];
}

function assemble(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * 8);
  const view = new DataView(bytes.buffer);
  program.forEach(({ code, dst = 0, src = 0, off = 0, imm = 0 }, index) => {
    view.setUint8(index * 8, code);
    view.setUint8(index * 8 + 1, dst | (src << 4));
    view.setInt16(index * 8 + 2, off, true);
    view.setInt32(index * 8 + 4, imm, true);
  });
  return bytes;
}
