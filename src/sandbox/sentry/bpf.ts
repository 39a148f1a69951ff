/**
 * A small assembler for classic BPF as seccomp(2) runs it (linux/filter.h): struct sock_filter[] with forward jumps
 * to labels. Conditional jumps reach 255 instructions; those that have to reach further go over an unconditional one.
 */

const LD_W_ABS = 0x20;
const JMP_JA = 0x05;
const JMP_JEQ_K = 0x15;
const JMP_JGE_K = 0x35;
const JMP_JSET_K = 0x45;
const ALU_AND_K = 0x54;
const RET_K = 0x06;

/** BPF_MAXINSNS. */
const MAX_INSTRUCTIONS = 4096;

export type Label = { at: number | undefined };

interface Instruction {
  code: number;
  jt: number;
  jf: number;
  k: number;
  target?: Label;
}

export class BpfAssembler {
  readonly #code: Instruction[] = [];

  get length(): number {
    return this.#code.length;
  }

  /** Loads a 32-bit word of struct seccomp_data. */
  load(offset: number): void {
    this.#emit(LD_W_ABS, offset);
  }

  and(mask: number): void {
    this.#emit(ALU_AND_K, mask);
  }

  ret(value: number): void {
    this.#emit(RET_K, value);
  }

  /** Goes on when the accumulator is `value`, else to `target`. */
  unlessEqual(value: number, target: Label): void {
    this.#code.push({ code: JMP_JEQ_K, jt: 1, jf: 0, k: value });
    this.jump(target);
  }

  ifEqual(value: number, target: Label): void {
    this.#code.push({ code: JMP_JEQ_K, jt: 0, jf: 1, k: value });
    this.jump(target);
  }

  ifAtLeast(value: number, target: Label): void {
    this.#code.push({ code: JMP_JGE_K, jt: 0, jf: 1, k: value });
    this.jump(target);
  }

  ifAnyBit(mask: number, target: Label): void {
    this.#code.push({ code: JMP_JSET_K, jt: 0, jf: 1, k: mask });
    this.jump(target);
  }

  jump(target: Label): void {
    this.#code.push({ code: JMP_JA, jt: 0, jf: 0, k: 0, target });
  }

  label(): Label {
    return { at: undefined };
  }

  /** The label stands for the next instruction. */
  place(label: Label): void {
    label.at = this.#code.length;
  }

  /** struct sock_filter[], little-endian. Throws when a label has no place behind its jump, or the limit is passed. */
  assemble(): Uint8Array {
    if (this.#code.length > MAX_INSTRUCTIONS) throw new Error(`bpf: ${this.#code.length} instructions`);
    const code = this.#shortened();
    const view = new DataView(new ArrayBuffer(code.length * 8));
    code.forEach(({ code: op, jt, jf, k }, index) => {
      view.setUint16(index * 8, op, true);
      view.setUint8(index * 8 + 2, jt);
      view.setUint8(index * 8 + 3, jf);
      view.setUint32(index * 8 + 4, k, true);
    });
    return new Uint8Array(view.buffer);
  }

  #emit(code: number, k: number): void {
    this.#code.push({ code, jt: 0, jf: 0, k });
  }

  /** Jumps resolved: relative, forward only (the kernel's checker refuses all else). */
  #shortened(): Instruction[] {
    return this.#code.map((instruction, index) => {
      const { target } = instruction;
      if (target === undefined) return instruction;
      if (target.at === undefined || target.at <= index) throw new Error('bpf: a jump leads nowhere or back');
      return { ...instruction, k: target.at - index - 1 };
    });
  }
}
