/**
 * The reader's side of what a supervisor tells of its decisions (native/sentry/watch.h): counters with the distinct
 * refusals, once; and a stream of records. Everything is numbers from registers, so no workload can forge a line.
 */
import { connect, type Socket } from 'node:net';

/** AUDIT_ARCH_X86_64; other architectures' numbers mean other calls. */
export const ARCH_X86_64 = 0xc000003e;

/** By the numbers of native/sentry/watch.h. */
const outcomes = ['answered', 'failed', 'refused', 'gone'] as const;
export type DecisionKind = (typeof outcomes)[number];

export interface CallRecord {
  timeNs: bigint;
  /** Records that this reader was too slow for, before this one. */
  lost: number;
  /** Thread, in the host's pid namespace. */
  tid: number;
  arch: number;
  number: number;
  decision: DecisionKind;
  value: bigint;
  errno: number;
  /** Bit n: the policy looked at argument n. */
  lookedAt: number;
  arguments: bigint[];
}

export interface CallCount {
  /** -1: none of x86-64's. */
  number: number;
  decision: DecisionKind;
  count: number;
}

export interface RefusedCall {
  arch: number;
  number: number;
  errno: number;
  lookedAt: number;
  count: number;
  lastNs: bigint;
  /** Lower halves; 0 where the policy did not look. */
  arguments: number[];
}

export interface Counts {
  counters: CallCount[];
  refusals: RefusedCall[];
  /** Refusals that found no place in the list of distinct ones. */
  moreRefusals: number;
}

const RECORD_SIZE = 96;
const COUNTER_SIZE = 16;
const REFUSAL_SIZE = 56;
const HEADER_SIZE = 24;
const MAGIC = 'BSCOUNT1';
const TIMEOUT_MS = 20_000;

/** Asks a supervisor for its counters. Rejects with the socket's error, or when what came is no answer. */
export function readCounts(path: string): Promise<Counts> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const chunks: Buffer[] = [];
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no answer')));
    socket.once('error', reject);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.once('end', () => {
      const counts = decodeCounts(Buffer.concat(chunks));
      if (counts === undefined) reject(new Error('the answer is malformed'));
      else resolve(counts);
    });
    socket.write('counts');
  });
}

/** undefined when it is not what a supervisor sends. */
export function decodeCounts(bytes: Buffer): Counts | undefined {
  if (bytes.length < HEADER_SIZE || bytes.toString('latin1', 0, 8) !== MAGIC) return undefined;
  const counterCount = bytes.readUInt32LE(8);
  const refusalCount = bytes.readUInt32LE(12);
  const refusalsAt = HEADER_SIZE + counterCount * COUNTER_SIZE;
  if (bytes.length !== refusalsAt + refusalCount * REFUSAL_SIZE) return undefined;
  const counters = Array.from({ length: counterCount }, (_, index): CallCount => {
    const at = HEADER_SIZE + index * COUNTER_SIZE;
    return {
      number: bytes.readInt32LE(at),
      decision: kindOf(bytes.readUInt32LE(at + 4)),
      count: Number(bytes.readBigUInt64LE(at + 8)),
    };
  });
  const refusals = Array.from({ length: refusalCount }, (_, index): RefusedCall => {
    const at = refusalsAt + index * REFUSAL_SIZE;
    return {
      arch: bytes.readUInt32LE(at),
      number: bytes.readInt32LE(at + 4),
      errno: bytes.readInt32LE(at + 8),
      lookedAt: bytes.readUInt32LE(at + 12),
      count: Number(bytes.readBigUInt64LE(at + 16)),
      lastNs: bytes.readBigUInt64LE(at + 24),
      arguments: Array.from({ length: 6 }, (_, n) => bytes.readUInt32LE(at + 32 + 4 * n)),
    };
  });
  return { counters, refusals, moreRefusals: Number(bytes.readBigUInt64LE(16)) };
}

export interface Stream {
  /** Resolves when the supervisor has ended, or after close(); rejects when it cannot be reached. */
  ended: Promise<void>;
  close(): void;
}

/** Follows the decisions of a supervisor from now on. */
export function followDecisions(path: string, onRecord: (record: CallRecord) => void): Stream {
  const socket: Socket = connect(path);
  let rest: Buffer = Buffer.alloc(0);
  const ended = new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.once('close', () => resolve());
  });
  socket.on('data', (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    for (; at + RECORD_SIZE <= rest.length; at += RECORD_SIZE) onRecord(decodeRecord(rest, at));
    rest = rest.subarray(at);
  });
  socket.write('watch');
  return { ended, close: () => socket.destroy() };
}

/** The record at `at`, which must be there as a whole. */
export function decodeRecord(bytes: Buffer, at: number): CallRecord {
  return {
    timeNs: bytes.readBigUInt64LE(at),
    lost: Number(bytes.readBigUInt64LE(at + 8)),
    tid: bytes.readUInt32LE(at + 16),
    arch: bytes.readUInt32LE(at + 20),
    number: bytes.readInt32LE(at + 24),
    decision: kindOf(bytes.readUInt32LE(at + 28)),
    value: bytes.readBigInt64LE(at + 32),
    errno: bytes.readInt32LE(at + 40),
    lookedAt: bytes.readUInt32LE(at + 44),
    arguments: Array.from({ length: 6 }, (_, n) => bytes.readBigUInt64LE(at + 48 + 8 * n)),
  };
}

function kindOf(number: number): DecisionKind {
  return outcomes[number] ?? 'refused';
}
