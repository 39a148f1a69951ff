import { createServer, type Server } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { callName, callRows, countsTable, prometheusText, refusalText, traceLine } from './report.ts';
import {
  ARCH_X86_64,
  decodeCounts,
  decodeRecord,
  followDecisions,
  readCounts,
  type CallRecord,
  type Counts,
} from './watch.ts';

const second = 1_763_780_000_000_000_000n;

/** As native/sentry/watch.cc writes them. */
function encodeCounts({ counters, refusals, moreRefusals }: Counts): Buffer {
  const header = Buffer.alloc(24);
  header.write('BSCOUNT1', 'latin1');
  header.writeUInt32LE(counters.length, 8);
  header.writeUInt32LE(refusals.length, 12);
  header.writeBigUInt64LE(BigInt(moreRefusals), 16);
  const kinds = ['answered', 'failed', 'refused', 'gone'];
  const counterBytes = counters.map(({ number, decision, count }) => {
    const bytes = Buffer.alloc(16);
    bytes.writeInt32LE(number, 0);
    bytes.writeUInt32LE(kinds.indexOf(decision), 4);
    bytes.writeBigUInt64LE(BigInt(count), 8);
    return bytes;
  });
  const refusalBytes = refusals.map((refusal) => {
    const bytes = Buffer.alloc(56);
    bytes.writeUInt32LE(refusal.arch, 0);
    bytes.writeInt32LE(refusal.number, 4);
    bytes.writeInt32LE(refusal.errno, 8);
    bytes.writeUInt32LE(refusal.lookedAt, 12);
    bytes.writeBigUInt64LE(BigInt(refusal.count), 16);
    bytes.writeBigUInt64LE(refusal.lastNs, 24);
    refusal.arguments.forEach((value, index) => bytes.writeUInt32LE(value, 32 + 4 * index));
    return bytes;
  });
  return Buffer.concat([header, ...counterBytes, ...refusalBytes]);
}

function encodeRecord(record: CallRecord): Buffer {
  const bytes = Buffer.alloc(96);
  bytes.writeBigUInt64LE(record.timeNs, 0);
  bytes.writeBigUInt64LE(BigInt(record.lost), 8);
  bytes.writeUInt32LE(record.tid, 16);
  bytes.writeUInt32LE(record.arch, 20);
  bytes.writeInt32LE(record.number, 24);
  bytes.writeUInt32LE(['answered', 'failed', 'refused', 'gone'].indexOf(record.decision), 28);
  bytes.writeBigInt64LE(record.value, 32);
  bytes.writeInt32LE(record.errno, 40);
  bytes.writeUInt32LE(record.lookedAt, 44);
  record.arguments.forEach((value, index) => bytes.writeBigUInt64LE(value, 48 + 8 * index));
  return bytes;
}

const record = (more: Partial<CallRecord> = {}): CallRecord => ({
  timeNs: second + 123_456_789n,
  lost: 0,
  tid: 4711,
  arch: ARCH_X86_64,
  number: 41,
  decision: 'refused',
  value: 0n,
  errno: 97,
  lookedAt: 0b111,
  arguments: [17n, 3n, 0x300n, 0xdeadn, 5n, 6n],
  ...more,
});

const counts: Counts = {
  counters: [
    { number: 63, decision: 'answered', count: 12 },
    { number: 63, decision: 'gone', count: 1 },
    { number: 165, decision: 'refused', count: 2 },
    { number: -1, decision: 'refused', count: 3 },
  ],
  refusals: [
    {
      arch: ARCH_X86_64,
      number: 16,
      errno: 25,
      lookedAt: 0b10,
      count: 4,
      lastNs: second,
      arguments: [0, 0x5412, 0, 0, 0, 0],
    },
  ],
  moreRefusals: 7,
};

describe('what a supervisor sends', () => {
  it('is read as it was written', () => {
    expect(decodeCounts(encodeCounts(counts))).toEqual(counts);
    expect(decodeRecord(encodeRecord(record()), 0)).toEqual(record());
  });

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['another magic', Buffer.alloc(24)],
    ['a list cut short', encodeCounts(counts).subarray(0, -1)],
    ['more than was announced', Buffer.concat([encodeCounts(counts), Buffer.alloc(16)])],
  ])('is refused when it is %s', (_what, bytes) => {
    expect(decodeCounts(bytes)).toBeUndefined();
  });
});

describe('words', () => {
  it('are strace-like, with what decided it', () => {
    expect(traceLine(record())).toBe(
      '02:53:20.123456 4711 socket(AF_PACKET, 3, 0x300) = -1 EAFNOSUPPORT <refused>\n',
    );
    const answered = record({
      number: 63,
      decision: 'answered',
      errno: 0,
      lookedAt: 0,
      arguments: [4096n, 0n, 0n, 0n, 0n, 0n],
    });
    expect(traceLine(answered)).toBe('02:53:20.123456 4711 uname(0x1000) = 0 <answered>\n');
    expect(traceLine({ ...answered, decision: 'gone' })).toMatch(/= \? <gone>\n$/);
  });

  it('say what was missed', () => {
    expect(traceLine(record({ lost: 3 })).split('\n')[0]).toBe('02:53:20.123456 ... 3 records missed');
  });

  it('name calls of other architectures by number only', () => {
    expect(callName(11, 0x40000003)).toBe('i386 call 11');
    expect(callName(0x4000003b)).toBe('x32 call 59');
    expect(callName(600)).toBe('call 600');
    expect(callName(1, 0xc00000b7)).toBe('arch 0xc00000b7 call 1');
  });

  it('leave out what nobody looked at', () => {
    expect(refusalText(counts.refusals[0]!)).toBe('ioctl(_, 0x5412) = -1 ENOTTY');
  });

  it('make a table, the busiest first', () => {
    expect(callRows(counts).map(({ call }) => call)).toEqual(['uname', 'other architectures', 'mount']);
    expect(countsTable(counts)).toBe(
      [
        'CALL                 ANSWERED  FAILED  REFUSED  GONE',
        'uname                12        0       0        1',
        'other architectures  0         0       3        0',
        'mount                0         0       2        0',
        '',
        'REFUSED                       TIMES',
        'ioctl(_, 0x5412) = -1 ENOTTY  4      last 02:53:20.000000',
        'and 7 of other kinds',
        '',
      ].join('\n'),
    );
  });

  it('are metrics', () => {
    const text = prometheusText([{ namespace: 'k8s.io', id: 'web', counts }]);
    expect(text).toContain('# TYPE bulkhead_sentry_calls_total counter\n');
    expect(text).toContain(
      'bulkhead_sentry_calls_total{namespace="k8s.io",id="web",call="mount",decision="refused"} 2\n',
    );
  });
});

describe('over a socket', () => {
  let dir: string;
  let path: string;
  let server: Server;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'bh-watch-'));
    path = join(dir, 's');
  });
  afterEach(async () => {
    await new Promise((resolve) => server.close(resolve));
    rmSync(dir, { recursive: true, force: true });
  });
  const serve = (answer: (word: string) => Buffer[]): Promise<void> => {
    server = createServer((socket) => {
      const send = async (parts: Buffer[]): Promise<void> => {
        for (const part of parts) {
          socket.write(part);
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        socket.end();
      };
      socket.on('data', (word) => void send(answer(word.toString())));
    });
    return new Promise((resolve) => server.listen(path, resolve));
  };

  it('counters come whole', async () => {
    const bytes = encodeCounts(counts);
    await serve((word) => (word === 'counts' ? [bytes.subarray(0, 30), bytes.subarray(30)] : []));
    expect(await readCounts(path)).toEqual(counts);
  });

  it('an answer cut short is none', async () => {
    await serve(() => [encodeCounts(counts).subarray(0, 40)]);
    await expect(readCounts(path)).rejects.toThrow('the answer is malformed');
  });

  it('records come one by one, however they are cut', async () => {
    const sent = [record(), record({ number: 63, tid: 1 }), record({ lost: 9 })];
    const bytes = Buffer.concat(sent.map(encodeRecord));
    await serve((word) =>
      word === 'watch' ? [bytes.subarray(0, 50), bytes.subarray(50, 200), bytes.subarray(200)] : [],
    );
    const seen: CallRecord[] = [];
    await followDecisions(path, (one) => seen.push(one)).ended;
    expect(seen).toEqual(sent);
  });

  it('a supervisor that is not there is an error', async () => {
    await serve(() => []);
    await expect(readCounts(join(dir, 'none'))).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(followDecisions(join(dir, 'none'), () => {}).ended).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });
});
