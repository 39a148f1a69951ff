/**
 * Where the sockets of a container may lead, and what they may be bound to. A list of rules, the first that fits decides:
 *
 *   allow tcp 10.0.0.0/8 443; allow udp 10.0.0.53 53; allow [fd00::]/8 8000-8999; deny *
 *   ACTION [PROTOCOL] ADDRESS[/PREFIX] [PORT[-PORT]]
 *
 * The last rule is "allow *" or "deny *": what nobody thought of is said, too.
 */
import { isIPv4, isIPv6 } from 'node:net';

export interface SocketRule {
  allow: boolean;
  /** IPPROTO_TCP or IPPROTO_UDP; undefined: both. */
  protocol?: number;
  /** undefined: every address of both families. */
  range?: AddressRange;
  ports: readonly [first: number, last: number];
}

export interface AddressRange {
  family: 4 | 6;
  /** The address in words of 32 bits: one, or four. Bits behind the prefix are zero. */
  words: readonly number[];
  prefix: number;
}

const protocols: Readonly<Record<string, number>> = { tcp: 6, udp: 17 };
const ALL_PORTS = [0, 65_535] as const;
/** Each is a few instructions of a program that the kernel runs on every connect. */
const MAX_RULES = 64;

/** The rules, or what is wrong with the text. */
export function parseSocketRules(text: string): SocketRule[] | string {
  const parts = text
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  if (parts.length === 0) return 'has no rules';
  if (parts.length > MAX_RULES) return `has more than ${MAX_RULES} rules`;
  const rules: SocketRule[] = [];
  for (const part of parts) {
    const rule = parseRule(part);
    if (typeof rule === 'string') return `rule ${JSON.stringify(part)}: ${rule}`;
    rules.push(rule);
  }
  const last = rules.at(-1);
  const isTotal = last?.range === undefined && last?.protocol === undefined && last?.ports === ALL_PORTS;
  return isTotal ? rules : 'the last rule is neither "allow *" nor "deny *"';
}

function parseRule(text: string): SocketRule | string {
  const words = text.split(/\s+/);
  const action = words.shift();
  if (action !== 'allow' && action !== 'deny') return 'begins with neither allow nor deny';
  const protocol = Object.hasOwn(protocols, words[0] ?? '') ? protocols[words.shift() ?? ''] : undefined;
  const [address, ports, ...more] = words;
  if (address === undefined) return 'names no address';
  if (more.length > 0) return `does not end after ${JSON.stringify(ports)}`;
  const range = address === '*' ? undefined : parseRange(address);
  if (typeof range === 'string') return range;
  const span = ports === undefined ? ALL_PORTS : parsePorts(ports);
  if (typeof span === 'string') return span;
  return {
    allow: action === 'allow',
    ...(protocol === undefined ? {} : { protocol }),
    ...(range === undefined ? {} : { range }),
    ports: span,
  };
}

function parseRange(text: string): AddressRange | string {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9a-fA-F:.]+))(?:\/(\d{1,3}))?$/.exec(text);
  const address = match?.[1] ?? match?.[2] ?? '';
  const family = isIPv4(address) ? 4 : isIPv6(address) ? 6 : undefined;
  if (family === undefined) return `${JSON.stringify(text)} is no address`;
  const bits = family === 4 ? 32 : 128;
  const prefix = match?.[3] === undefined ? bits : Number(match[3]);
  if (prefix > bits) return `${JSON.stringify(text)} has a prefix longer than ${bits}`;
  const words = family === 4 ? [wordOf(address)] : wordsOf(address);
  const masked = words.map((word, index) => (word & prefixMask(prefix - 32 * index)) >>> 0);
  if (masked.some((word, index) => word !== words[index]))
    return `${JSON.stringify(text)} has bits behind its prefix`;
  return { family, words, prefix };
}

/** Mask of the first `bits` bits of a word. */
export function prefixMask(bits: number): number {
  return bits <= 0 ? 0 : bits >= 32 ? 0xffff_ffff : (0xffff_ffff << (32 - bits)) >>> 0;
}

function wordOf(ipv4: string): number {
  return ipv4.split('.').reduce((word, part) => word * 256 + Number(part), 0);
}

/** Four words of an IPv6 address that `isIPv6` has passed. */
function wordsOf(ipv6: string): number[] {
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(ipv6);
  const tail = dotted === null ? 0 : wordOf(dotted[2] ?? '');
  const plain =
    dotted === null ? ipv6 : `${dotted[1]}${(tail >>> 16).toString(16)}:${(tail & 0xffff).toString(16)}`;
  const [head = '', rest] = plain.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = rest === undefined || rest === '' ? [] : rest.split(':');
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right].map(
    (group) => Number.parseInt(group, 16),
  );
  return [0, 2, 4, 6].map((at) => (groups[at] ?? 0) * 65_536 + (groups[at + 1] ?? 0));
}

function parsePorts(text: string): [number, number] | string {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = match?.[2] === undefined ? first : Number(match[2]);
  if (match === null || last > 65_535 || first > last)
    return `${JSON.stringify(text)} is no port or range of ports`;
  return [first, last];
}
