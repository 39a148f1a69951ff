/**
 * A socket policy as BPF programs of a cgroup (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, linux/bpf.h struct bpf_sock_addr), which
 * the kernel runs on its own copy of the address: there is nothing to race with. Output is struct bpf_insn[],
 * little-endian.
 *
 *   r6 = context  r7 = IPv4 address  r8 = port  r9 = protocol, all in the host's byte order
 *   stack: -16 four words of an IPv6 address, -40 key and -48 value of the log
 *
 * 0.0.0.0 and :: lead to this host itself, so they count as 127.0.0.1 and ::1 where a socket is connected; an IPv4
 * address within an IPv6 one (::ffff:0:0/96) counts as the IPv4 address.
 */
import { prefixMask, type AddressRange, type SocketRule } from './socket_policy.ts';

const PROGRAM_SOCK = 9;
const PROGRAM_SOCK_ADDR = 18;
const IPPROTO_ICMP = 1;
const IPPROTO_ICMPV6 = 58;
const LOOPBACK = 0x7f00_0001;

/** enum bpf_attach_type. */
const attachTypes = {
  socketCreate: 2,
  bind4: 8,
  bind6: 9,
  connect4: 10,
  connect6: 11,
  send4: 14,
  send6: 15,
} as const;

/** What was tried, in the first word of a log entry's key. */
export const socketOperations = ['connect', 'send', 'bind'] as const;

export interface SocketProgram {
  programType: number;
  attachType: number;
  instructions: Uint8Array;
}

export interface SocketPolicy {
  connect?: readonly SocketRule[] | undefined;
  bind?: readonly SocketRule[] | undefined;
  /** Refusals are only written down. */
  audit: boolean;
}

/** The programs of a policy; none when it says nothing. */
export function socketPrograms({ connect, bind, audit }: SocketPolicy): SocketProgram[] {
  const program = (
    name: keyof typeof attachTypes,
    operation: number,
    rules: readonly SocketRule[],
  ): SocketProgram => ({
    programType: PROGRAM_SOCK_ADDR,
    attachType: attachTypes[name],
    instructions: addressProgram({ rules, operation, family: name.endsWith('4') ? 4 : 6, audit }),
  });
  const leading =
    connect === undefined
      ? []
      : [
          program('connect4', 0, connect),
          program('connect6', 0, connect),
          program('send4', 1, connect),
          program('send6', 1, connect),
          ...(audit ? [] : [noEcho()]),
        ];
  return [...leading, ...(bind === undefined ? [] : [program('bind4', 2, bind), program('bind6', 2, bind)])];
}

interface Instruction {
  code: number;
  dst?: number;
  src?: number;
  off?: number;
  imm?: number;
  /** Jumps: where to. */
  target?: Label;
}
interface Label {
  at: number;
}

/** linux/bpf.h and linux/bpf_common.h. */
const Op = {
  loadWord: 0x61,
  loadImmediate: 0x18, // BPF_LD | BPF_DW | BPF_IMM, two instructions
  storeWord: 0x63,
  storeWordConstant: 0x62,
  storeDoubleConstant: 0x7a,
  addAtomic: 0xdb,
  move: 0xbf,
  moveConstant: 0xb7,
  addConstant: 0x07,
  and32: 0x54,
  toBigEndian: 0xdc,
  jump: 0x05,
  jumpEqual: 0x15,
  jumpNotEqual32: 0x56,
  jumpEqual32: 0x16,
  jumpLess32: 0xa6,
  jumpGreater32: 0x26,
  call: 0x85,
  exit: 0x95,
} as const;

const Context = { ip4: 4, ip6: 8, port: 24, protocol: 36 } as const;
const Stack = { words: -16, key: -40, value: -48 } as const;
/** The source register of an immediate load that says it is a map's descriptor; the executor puts it in. */
const PSEUDO_MAP_FD = 1;
const MAP_LOOKUP = 1;
const MAP_UPDATE = 2;

interface ProgramInput {
  rules: readonly SocketRule[];
  operation: number;
  family: 4 | 6;
  audit: boolean;
}

function addressProgram({ rules, operation, family, audit }: ProgramInput): Uint8Array {
  const code: Instruction[] = [
    { code: Op.move, dst: 6, src: 1 },
    { code: Op.loadWord, dst: 8, src: 6, off: Context.port },
    { code: Op.toBigEndian, dst: 8, imm: 16 },
    { code: Op.loadWord, dst: 9, src: 6, off: Context.protocol },
    { code: Op.moveConstant, dst: 7, imm: 0 },
  ];
  const denied: Label = { at: -1 };
  const version4: Label = { at: -1 };
  for (let index = 0; index < 4; index++) code.push(storeConstant(Stack.words + 4 * index, 0));
  if (family === 6) {
    code.push(...readAddress6(version4, operation));
    for (const rule of rules) code.push(...ruleCode(rule, 6, denied));
    place(code, version4);
    code.push({ code: Op.loadWord, dst: 7, src: 10, off: Stack.words + 12 });
  } else {
    code.push(
      { code: Op.loadWord, dst: 7, src: 6, off: Context.ip4 },
      { code: Op.toBigEndian, dst: 7, imm: 32 },
    );
  }
  if (operation < 2) code.push(...loopbackFor(7, LOOPBACK));
  code.push({ code: Op.storeWord, dst: 10, src: 7, off: Stack.words + 12 });
  for (const rule of rules) code.push(...ruleCode(rule, 4, denied));
  place(code, denied);
  code.push(...logCode(operation, family), ...answer(audit ? 1 : 0));
  return assemble(code);
}

/** Puts the four words on the stack; goes to `version4` for a mapped address. */
function readAddress6(version4: Label, operation: number): Instruction[] {
  const code: Instruction[] = [];
  for (let index = 0; index < 4; index++) {
    code.push(
      { code: Op.loadWord, dst: 1, src: 6, off: Context.ip6 + 4 * index },
      { code: Op.toBigEndian, dst: 1, imm: 32 },
      { code: Op.storeWord, dst: 10, src: 1, off: Stack.words + 4 * index },
    );
  }
  const plain: Label = { at: -1 };
  for (const [index, word] of [0, 0].entries()) {
    code.push(
      { code: Op.loadWord, dst: 1, src: 10, off: Stack.words + 4 * index },
      { code: Op.jumpNotEqual32, dst: 1, imm: word, target: plain },
    );
  }
  code.push(
    { code: Op.loadWord, dst: 1, src: 10, off: Stack.words + 8 },
    { code: Op.jumpEqual32, dst: 1, imm: 0xffff, target: version4 },
    { code: Op.jumpNotEqual32, dst: 1, imm: 0, target: plain },
    { code: Op.loadWord, dst: 1, src: 10, off: Stack.words + 12 },
  );
  if (operation < 2) code.push(...loopbackFor(1, 1));
  code.push({ code: Op.storeWord, dst: 10, src: 1, off: Stack.words + 12 });
  place(code, plain);
  return code;
}

/** No address is this host's own. */
function loopbackFor(register: number, value: number): Instruction[] {
  const set: Label = { at: -1 };
  const code: Instruction[] = [
    { code: Op.jumpNotEqual32, dst: register, imm: 0, target: set },
    { code: Op.moveConstant, dst: register, imm: value },
  ];
  place(code, set);
  return code;
}

/** Ends the program where the rule fits, goes on behind where it does not. */
function ruleCode(
  { allow, protocol, range, ports }: SocketRule,
  family: 4 | 6,
  denied: Label,
): Instruction[] {
  if (range !== undefined && range.family !== family) return [];
  const next: Label = { at: -1 };
  const code: Instruction[] = [];
  if (protocol !== undefined) code.push({ code: Op.jumpNotEqual32, dst: 9, imm: protocol, target: next });
  if (range !== undefined) code.push(...rangeCode(range, next));
  if (ports[0] > 0) code.push({ code: Op.jumpLess32, dst: 8, imm: ports[0], target: next });
  if (ports[1] < 65_535) code.push({ code: Op.jumpGreater32, dst: 8, imm: ports[1], target: next });
  if (allow) code.push(...answer(1));
  else code.push({ code: Op.jump, target: denied });
  place(code, next);
  return code;
}

function rangeCode({ family, words, prefix }: AddressRange, next: Label): Instruction[] {
  return words.flatMap((word, index): Instruction[] => {
    const mask = prefixMask(prefix - 32 * index);
    if (mask === 0) return [];
    const load: Instruction =
      family === 4
        ? { code: Op.move, dst: 1, src: 7 }
        : { code: Op.loadWord, dst: 1, src: 10, off: Stack.words + 4 * index };
    const masked: Instruction[] = mask === 0xffff_ffff ? [] : [{ code: Op.and32, dst: 1, imm: mask }];
    return [load, ...masked, { code: Op.jumpNotEqual32, dst: 1, imm: word, target: next }];
  });
}

/** Counts the refusal in the map: { operation | family << 16, protocol << 16 | port, four words of the address }. */
function logCode(operation: number, family: 4 | 6): Instruction[] {
  const absent: Label = { at: -1 };
  const done: Label = { at: -1 };
  const code: Instruction[] = [
    storeConstant(Stack.key, operation | (family << 16)),
    { code: 0x67, dst: 9, imm: 16 }, // BPF_ALU64 | BPF_LSH | BPF_K
    { code: 0x4f, dst: 9, src: 8 }, // BPF_ALU64 | BPF_OR | BPF_X
    { code: Op.storeWord, dst: 10, src: 9, off: Stack.key + 4 },
  ];
  for (let index = 0; index < 4; index++) {
    code.push(
      { code: Op.loadWord, dst: 1, src: 10, off: Stack.words + 4 * index },
      { code: Op.storeWord, dst: 10, src: 1, off: Stack.key + 8 + 4 * index },
    );
  }
  const map: Instruction[] = [{ code: Op.loadImmediate, dst: 1, src: PSEUDO_MAP_FD }, { code: 0 }];
  const key: Instruction[] = [
    { code: Op.move, dst: 2, src: 10 },
    { code: Op.addConstant, dst: 2, imm: Stack.key },
  ];
  code.push(
    ...map,
    ...key,
    { code: Op.call, imm: MAP_LOOKUP },
    { code: Op.jumpEqual, dst: 0, imm: 0, target: absent },
    { code: Op.moveConstant, dst: 1, imm: 1 },
    { code: Op.addAtomic, dst: 0, src: 1 },
    { code: Op.jump, target: done },
  );
  place(code, absent);
  code.push(
    { code: Op.storeDoubleConstant, dst: 10, off: Stack.value, imm: 1 },
    ...map,
    ...key,
    { code: Op.move, dst: 3, src: 10 },
    { code: Op.addConstant, dst: 3, imm: Stack.value },
    { code: Op.moveConstant, dst: 4, imm: 0 },
    { code: Op.call, imm: MAP_UPDATE },
  );
  place(code, done);
  return code;
}

/** Echo requests go where they want without being connected, and no hook sees that: no such sockets beside a policy. */
function noEcho(): SocketProgram {
  const refused: Label = { at: -1 };
  const code: Instruction[] = [
    { code: Op.loadWord, dst: 1, src: 1, off: 12 }, // struct bpf_sock: protocol
    { code: Op.jumpEqual32, dst: 1, imm: IPPROTO_ICMP, target: refused },
    { code: Op.jumpEqual32, dst: 1, imm: IPPROTO_ICMPV6, target: refused },
    ...answer(1),
  ];
  place(code, refused);
  code.push(...answer(0));
  return { programType: PROGRAM_SOCK, attachType: attachTypes.socketCreate, instructions: assemble(code) };
}

function answer(value: number): Instruction[] {
  return [{ code: Op.moveConstant, dst: 0, imm: value }, { code: Op.exit }];
}

function storeConstant(off: number, imm: number): Instruction {
  return { code: Op.storeWordConstant, dst: 10, off, imm };
}

/** A marker that assemble() takes out again: what comes next is where `label` is. */
function place(code: Instruction[], label: Label): void {
  code.push({ code: -1, target: label });
}

function assemble(marked: readonly Instruction[]): Uint8Array {
  const code: Instruction[] = [];
  for (const instruction of marked) {
    if (instruction.code === -1 && instruction.target !== undefined) instruction.target.at = code.length;
    else code.push(instruction);
  }
  const view = new DataView(new ArrayBuffer(code.length * 8));
  code.forEach(({ code: op, dst = 0, src = 0, off = 0, imm = 0, target }, index) => {
    const distance = target === undefined ? off : target.at - index - 1;
    if (distance < -32_768 || distance > 32_767) throw new Error('bpf: a jump is too long');
    view.setUint8(index * 8, op);
    view.setUint8(index * 8 + 1, dst | (src << 4));
    view.setInt16(index * 8 + 2, distance, true);
    view.setInt32(index * 8 + 4, imm | 0, true);
  });
  return new Uint8Array(view.buffer);
}
