/** What the socket programs of a container have refused, as they count it (socket_program.ts). */
import { socketOperations } from './socket_program.ts';

export interface SocketRefusal {
  operation: (typeof socketOperations)[number];
  /** "tcp", "udp" or the number. */
  protocol: string;
  /** 192.0.2.1, or 2001:db8:0:0:0:0:0:1 as eight groups. */
  address: string;
  port: number;
  count: number;
}

const ENTRY_SIZE = 32;

/** Entries of 24 bytes of key and 8 of count, little-endian; the most frequent first. */
export function decodeSocketLog(bytes: Buffer): SocketRefusal[] {
  const entries = Array.from({ length: Math.floor(bytes.length / ENTRY_SIZE) }, (_, index) => {
    const at = index * ENTRY_SIZE;
    const kind = bytes.readUInt32LE(at);
    const target = bytes.readUInt32LE(at + 4);
    const words = [8, 12, 16, 20].map((offset) => bytes.readUInt32LE(at + offset));
    return {
      operation: socketOperations[kind & 0xffff] ?? 'connect',
      protocol: { 6: 'tcp', 17: 'udp' }[target >>> 16] ?? String(target >>> 16),
      address: addressOf(kind >>> 16, words),
      port: target & 0xffff,
      count: Number(bytes.readBigUInt64LE(at + 24)),
    };
  });
  return entries.sort((a, b) => b.count - a.count);
}

function addressOf(family: number, words: readonly number[]): string {
  const [first = 0, second = 0, third = 0, last = 0] = words;
  const isMapped = first === 0 && second === 0 && third === 0xffff;
  if (family === 4 || isMapped) {
    return [last >>> 24, (last >>> 16) & 255, (last >>> 8) & 255, last & 255].join('.');
  }
  return words.flatMap((word) => [(word >>> 16).toString(16), (word & 0xffff).toString(16)]).join(':');
}

/** "connect tcp 192.0.2.1 port 443" */
export function socketRefusalText({ operation, protocol, address, port }: SocketRefusal): string {
  return `${operation} ${protocol} ${address} port ${port}`;
}
