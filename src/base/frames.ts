/**
 * Length-framed messages on a stream socket: big-endian u32 length, then the message (executor.proto, part 2).
 */
import type { Socket } from 'node:net';

/** A longer message is a broken peer: the connection is dropped. */
export const MAX_MESSAGE = 8 * 1024 * 1024;

/** Cuts a byte stream into messages. Subarrays of the chunks received are handed out; they stay valid. */
export class FrameReader {
  #pending: Buffer[] = [];
  #size = 0;

  /** Messages completed by `chunk`, in order. Throws RangeError at a length over MAX_MESSAGE. */
  push(chunk: Buffer): Buffer[] {
    this.#pending.push(chunk);
    this.#size += chunk.length;
    const needed = this.#needed();
    if (this.#size < needed) return [];
    let bytes = this.#pending.length === 1 ? chunk : Buffer.concat(this.#pending);
    const messages: Buffer[] = [];
    while (bytes.length >= 4) {
      const length = checkedLength(bytes);
      if (bytes.length < 4 + length) break;
      messages.push(bytes.subarray(4, 4 + length));
      bytes = bytes.subarray(4 + length);
    }
    this.#pending = bytes.length === 0 ? [] : [bytes];
    this.#size = bytes.length;
    return messages;
  }

  /** Bytes that must be there before the first pending message is whole. */
  #needed(): number {
    const first = this.#pending[0];
    if (first === undefined || first.length < 4) return 4;
    return 4 + checkedLength(first);
  }
}

function checkedLength(bytes: Buffer): number {
  const length = bytes.readUInt32BE(0);
  if (length > MAX_MESSAGE)
    throw new RangeError(`message of ${length} bytes is over the limit of ${MAX_MESSAGE}`);
  return length;
}

/** One message with its length, ready to be written. */
export function frame(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(4 + message.length);
  framed.writeUInt32BE(message.length, 0);
  framed.set(message, 4);
  return framed;
}

/** Calls `onMessage` for every message of a socket; a broken frame or an error destroys it. */
export function readMessages(
  socket: Socket,
  onMessage: (message: Buffer) => void,
  onError: (error: Error) => void,
): void {
  const reader = new FrameReader();
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const message of reader.push(chunk)) onMessage(message);
    } catch (error) {
      onError(error as Error);
      socket.destroy();
    }
  });
}
