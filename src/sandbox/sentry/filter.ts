/**
 * The filter of a workload, made from the table: architecture and number first, a balanced search over ranges of
 * numbers with the same answer, then the tests of that call's arguments.
 *
 * Calls that are direct without rules need no place near the top: the kernel knows their answer from a bitmap and does
 * not run the program for them (seccomp cache, Linux 5.11).
 */
import { BpfAssembler, type Label } from './bpf.ts';
import {
  errno,
  handlers,
  type Decision,
  type ErrnoName,
  type Rule,
  type SystemCall,
  type Test,
} from './rules.ts';
import { systemCalls, unknownCall } from './syscalls.ts';

const AUDIT_ARCH_X86_64 = 0xc000003e;
/** Numbers from here on are x32's. */
const X32_BIT = 0x40000000;
const OFFSET_NUMBER = 0;
const OFFSET_ARCH = 4;
const OFFSET_ARGUMENTS = 16;

const RET_ERRNO = 0x00050000;
const RET_USER_NOTIF = 0x7fc00000;
const RET_ALLOW = 0x7fff0000;

/** Wakes the supervisor only to end a wait that SIGKILL does not (Linux 5.19). */
export const FILTER_FLAG_WAIT_KILLABLE_RECV = 0x20;

/** What the filter answers: the value of a SECCOMP_RET_*, or rules to be tried. */
type Answer = number | { tried: readonly { when: Rule['when']; ret: number }[]; otherwise: number };

/** What a refusal is: an errno, or a notification. */
type Refuse = (name: ErrnoName, isArgument: boolean) => number;

/** Numbers from `first` up to the next range's. */
interface Range {
  first: number;
  answer: Answer;
}

/**
 * Which refusals go to the supervisor, which counts and answers them:
 *   none       the filter refuses by itself
 *   unusual    those that no C library asks for in the ordinary course of things: EPERM, and refused arguments
 *   all        also those that programs have a fall-back for; each costs them a notification
 */
export type Report = 'none' | 'unusual' | 'all';

export interface FilterInput {
  calls?: readonly SystemCall[];
  report?: Report;
}

/**
 * The program as struct sock_filter[]. Without reports it is also the policy by which the supervisor answers the
 * refusals that are reported to it.
 */
export function compileFilter({ calls = systemCalls, report = 'none' }: FilterInput = {}): Uint8Array {
  const refuse = (name: ErrnoName, isArgument: boolean): number =>
    report === 'all' || (report === 'unusual' && (isArgument || name === 'EPERM'))
      ? RET_USER_NOTIF
      : RET_ERRNO | errno[name];
  const bpf = new BpfAssembler();
  const native = bpf.label();
  bpf.load(OFFSET_ARCH);
  bpf.ifEqual(AUDIT_ARCH_X86_64, native);
  bpf.ret(answerOf(unknownCall, refuse) as number);
  bpf.place(native);
  bpf.load(OFFSET_NUMBER);
  search(bpf, rangesOf(calls, refuse));
  return bpf.assemble();
}

/** The supervisor's dispatch: numbers of brokered calls and of their handlers. */
export function brokeredCalls(calls: readonly SystemCall[] = systemCalls): [call: number, handler: number][] {
  return calls.flatMap(({ number, decision }): [number, number][] =>
    'handler' in decision ? [[number, handlers[decision.handler]]] : [],
  );
}

function answerOf(decision: Decision, refuse: Refuse): Answer {
  switch (decision.use) {
    case 'refuse':
      return refuse(decision.errno, false);
    case 'broker':
    case 'view':
    case 'notice': {
      const { direct } = decision;
      if (direct === undefined) return RET_USER_NOTIF;
      return { tried: [{ when: direct, ret: RET_ALLOW }], otherwise: RET_USER_NOTIF };
    }
    case 'direct': {
      const { rules, otherwise = 'EPERM' } = decision;
      if (rules === undefined) return RET_ALLOW;
      const tried = rules.map(({ when, then }) => ({
        when,
        ret: then === 'direct' ? RET_ALLOW : refuse(then, true),
      }));
      return { tried, otherwise: refuse(otherwise, true) };
    }
  }
}

/** Neighbours with the same answer are one range; the gaps, and all beyond the last, are unknown calls. */
function rangesOf(calls: readonly SystemCall[], refuse: Refuse): Range[] {
  const unknown = answerOf(unknownCall, refuse);
  const byNumber = new Map(calls.map(({ number, decision }) => [number, answerOf(decision, refuse)]));
  const last = Math.max(...byNumber.keys());
  const ranges: Range[] = [];
  for (let number = 0; number <= last + 1; number++) {
    const answer = byNumber.get(number) ?? unknown;
    const previous = ranges.at(-1);
    if (previous === undefined || previous.answer !== answer) ranges.push({ first: number, answer });
  }
  ranges.push({ first: X32_BIT, answer: unknown });
  return ranges;
}

function search(bpf: BpfAssembler, ranges: readonly Range[]): void {
  const [only, ...more] = ranges;
  if (only === undefined) return;
  if (more.length === 0) {
    leaf(bpf, only.answer);
    return;
  }
  const middle = Math.ceil(ranges.length / 2);
  const upper = bpf.label();
  bpf.ifAtLeast(ranges[middle]?.first ?? 0, upper);
  search(bpf, ranges.slice(0, middle));
  bpf.place(upper);
  search(bpf, ranges.slice(middle));
}

function leaf(bpf: BpfAssembler, answer: Answer): void {
  if (typeof answer === 'number') {
    bpf.ret(answer);
    return;
  }
  for (const { when, ret } of answer.tried) {
    const next = bpf.label();
    for (const test of when) emitTest(bpf, test, next);
    bpf.ret(ret);
    bpf.place(next);
  }
  bpf.ret(answer.otherwise);
}

/** Goes on when the test holds, else to `next`. */
function emitTest(bpf: BpfAssembler, test: Test, next: Label): void {
  const offset = OFFSET_ARGUMENTS + 8 * test.arg;
  bpf.load(offset);
  if ('null' in test) {
    bpf.unlessEqual(0, next);
    bpf.load(offset + 4);
    bpf.unlessEqual(0, next);
  } else if ('none' in test) {
    bpf.ifAnyBit(test.none, next);
  } else {
    if (test.and !== undefined) bpf.and(test.and);
    const fits = bpf.label();
    for (const value of test.in) bpf.ifEqual(value >>> 0, fits);
    bpf.jump(next);
    bpf.place(fits);
  }
}
