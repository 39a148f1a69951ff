/** Decisions in words: a line of a trace, the table of a sandbox's counters, metrics for a collector. */
import { errnoName } from '../../base/errno.ts';
import { argumentCount } from './arity.ts';
import { systemCalls } from './syscalls.ts';
import { ARCH_X86_64, type CallRecord, type Counts, type DecisionKind, type RefusedCall } from './watch.ts';

const names = new Map(systemCalls.map(({ number, name }) => [number, name]));

/** A call's name; "call 4711", "x32 call 12" or "i386 call 11" for what the table does not know. */
export function callName(number: number, arch = ARCH_X86_64): string {
  if (arch !== ARCH_X86_64) return `${arch === 0x40000003 ? 'i386' : `arch ${hex(arch)}`} call ${number}`;
  if (number >= 0x40000000) return `x32 call ${number - 0x40000000}`;
  return names.get(number) ?? `call ${number}`;
}

/** As strace would print it, without what lies behind pointers: nobody has looked there. */
export function traceLine(record: CallRecord): string {
  const { arch, number, decision, value, errno, lookedAt } = record;
  const name = callName(number, arch);
  const shown = argumentCount(name) ?? lastBit(lookedAt);
  const args = record.arguments.slice(0, shown).map((argument, index) => symbol(name, index, argument));
  const result =
    decision === 'gone' ? '?' : errno === 0 ? String(value) : `-1 ${errnoName(errno) ?? `errno ${errno}`}`;
  const missed = record.lost === 0 ? '' : `${clock(record.timeNs)} ... ${record.lost} records missed\n`;
  return `${missed}${clock(record.timeNs)} ${record.tid} ${name}(${args.join(', ')}) = ${result} <${decision}>\n`;
}

/** How many arguments there are up to the last one that was looked at. */
function lastBit(mask: number): number {
  return 32 - Math.clz32(mask);
}

/** Families of sockets by their number (bits/socket.h); the rest is hexadecimal. */
const families = new Map([
  [1, 'AF_UNIX'],
  [2, 'AF_INET'],
  [10, 'AF_INET6'],
  [16, 'AF_NETLINK'],
  [17, 'AF_PACKET'],
  [38, 'AF_ALG'],
  [40, 'AF_VSOCK'],
  [44, 'AF_XDP'],
]);

function symbol(name: string, index: number, value: bigint): string {
  if (index === 0 && (name === 'socket' || name === 'socketpair')) {
    return families.get(Number(value)) ?? hex(value);
  }
  return value < 10n ? String(value) : hex(value);
}

function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}

/** HH:MM:SS.mmmmmm, UTC. */
function clock(timeNs: bigint): string {
  const micros = String((timeNs / 1000n) % 1_000_000n).padStart(6, '0');
  return `${new Date(Number(timeNs / 1_000_000n)).toISOString().slice(11, 19)}.${micros}`;
}

/** "socket(AF_PACKET, 3) = -1 EAFNOSUPPORT": what the policy looked at decided it. */
export function refusalText({ arch, number, errno, lookedAt, arguments: args }: RefusedCall): string {
  const name = callName(number, arch);
  const shown = Array.from({ length: lastBit(lookedAt) }, (_, index) =>
    (lookedAt & (1 << index)) === 0 ? '_' : symbol(name, index, BigInt(args[index] ?? 0)),
  );
  return `${name}(${shown.join(', ')}) = -1 ${errnoName(errno) ?? `errno ${errno}`}`;
}

export interface CallRow {
  call: string;
  answered: number;
  failed: number;
  refused: number;
  gone: number;
}

/** One row a call, those asked for most first. */
export function callRows({ counters }: Counts): CallRow[] {
  const rows = new Map<number, CallRow>();
  for (const { number, decision, count } of counters) {
    const call = number < 0 ? 'other architectures' : callName(number);
    const row = rows.get(number) ?? { call, answered: 0, failed: 0, refused: 0, gone: 0 };
    row[decision] += count;
    rows.set(number, row);
  }
  const total = (row: CallRow): number => row.answered + row.failed + row.refused + row.gone;
  return [...rows.values()].sort((a, b) => total(b) - total(a) || (a.call < b.call ? -1 : 1));
}

/** Counters and distinct refusals as people read them. */
export function countsTable(counts: Counts): string {
  const heading = ['CALL', 'ANSWERED', 'FAILED', 'REFUSED', 'GONE'];
  const cells = callRows(counts).map((row) => [
    row.call,
    ...[row.answered, row.failed, row.refused, row.gone].map(String),
  ]);
  const lines = columns([heading, ...cells]);
  const refusals = [...counts.refusals]
    .sort((a, b) => b.count - a.count)
    .map((refusal) => [refusalText(refusal), `${refusal.count}`, `last ${clock(refusal.lastNs)}`]);
  if (refusals.length > 0) lines.push('', ...columns([['REFUSED', 'TIMES', ''], ...refusals]));
  if (counts.moreRefusals > 0) lines.push(`and ${counts.moreRefusals} of other kinds`);
  return lines.map((line) => `${line}\n`).join('');
}

function columns(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, index) => Math.max(...rows.map((row) => (row[index] ?? '').length)));
  return rows.map((row) =>
    row
      .map((cell, index) => cell.padEnd(widths[index] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

export interface Labelled {
  namespace: string;
  id: string;
  counts: Counts;
}

/** Prometheus' text format 0.0.4. Labels are the runtime's own names, whose characters need no escape. */
export function prometheusText(sandboxes: readonly Labelled[]): string {
  const lines = [
    '# HELP bulkhead_sentry_calls_total System calls that the supervisor decided.',
    '# TYPE bulkhead_sentry_calls_total counter',
  ];
  for (const { namespace, id, counts } of sandboxes) {
    for (const { call, ...row } of callRows(counts)) {
      for (const [decision, count] of Object.entries(row) as [DecisionKind, number][]) {
        if (count === 0) continue;
        const labels = `namespace="${namespace}",id="${id}",call="${call}",decision="${decision}"`;
        lines.push(`bulkhead_sentry_calls_total{${labels}} ${count}`);
      }
    }
  }
  return lines.map((line) => `${line}\n`).join('');
}
