/** Interprets seccomp programs (struct sock_filter[]; kernel seccomp_check_filter lists the instructions). */
export interface SeccompData {
  nr: number;
  arch: number;
  args?: bigint[];
}

const LD_W_ABS = 0x20;
const JMP = 0x05;
const RET_K = 0x06;

/** seccomp_data: nr, arch, instruction pointer, six arguments. */
function encode({ nr, arch, args = [] }: SeccompData): DataView {
  const view = new DataView(new ArrayBuffer(64));
  view.setUint32(0, nr >>> 0, true);
  view.setUint32(4, arch >>> 0, true);
  args.forEach((value, index) => view.setBigUint64(16 + 8 * index, BigInt.asUintN(64, value), true));
  return view;
}

/** What the program returns (SECCOMP_RET_* with data), and how many instructions it took. */
export function runSeccomp(program: Uint8Array, data: SeccompData): { action: number; steps: number } {
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const input = encode(data);
  let accumulator = 0;
  let steps = 0;
  for (let pc = 0; pc * 8 < program.byteLength; pc += 1) {
    steps += 1;
    const op = code.getUint16(pc * 8, true);
    const jt = code.getUint8(pc * 8 + 2);
    const jf = code.getUint8(pc * 8 + 3);
    const k = code.getUint32(pc * 8 + 4, true);
    if (op === LD_W_ABS) {
      accumulator = input.getUint32(k, true);
    } else if (op === RET_K) {
      return { action: k, steps };
    } else if ((op & 0x07) === JMP) {
      pc += op === JMP ? k : compare(op, accumulator, k) ? jt : jf;
    } else if (op === 0x54) {
      accumulator = (accumulator & k) >>> 0;
    } else {
      throw new Error(`instruction ${pc}: unexpected opcode 0x${op.toString(16)}`);
    }
  }
  throw new Error('ran off the end of the program');
}

function compare(op: number, left: number, right: number): boolean {
  switch (op) {
    case 0x15:
      return left === right;
    case 0x25:
      return left > right;
    case 0x35:
      return left >= right;
    case 0x45:
      return (left & right) !== 0;
    default:
      throw new Error(`unexpected jump 0x${op.toString(16)}`);
  }
}
