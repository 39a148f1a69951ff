/** The channel of native/core/mux.h, from the host's side, as plain as can be: tests only. */
import { randomBytes } from 'node:crypto';

const MAGIC = Buffer.concat([Buffer.from([0xff]), Buffer.from('bulkhead mux 1'), Buffer.from([0])]);
const HEADER = 9;
export const WINDOW = 256 * 1024;
export const DATA = 0;
export const CREDIT = 1;
export const EOF = 2;
export const RESET = 3;

export interface Frame {
  stream: number;
  kind: number;
  payload: Buffer;
}

export function frame(stream: number, kind: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(HEADER);
  head.writeUInt32BE(payload.length, 0);
  head.writeUInt32BE(stream, 4);
  head[8] = kind;
  return Buffer.concat([head, payload]);
}

export function credit(stream: number, bytes: number): Buffer {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(bytes);
  return frame(stream, CREDIT, number);
}

export const preamble = (nonce: Buffer = randomBytes(16)): Buffer => Buffer.concat([MAGIC, nonce]);

/** Frames of a byte stream, once the expected preamble has come. */
export class MuxReader {
  #bytes: Buffer = Buffer.alloc(0);
  #expected: Buffer;
  inSession = false;

  constructor(expected: Buffer) {
    this.#expected = expected;
  }

  *feed(chunk: Buffer): Generator<Frame> {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    if (!this.inSession) {
      const at = this.#bytes.indexOf(this.#expected);
      if (at < 0) return;
      this.#bytes = this.#bytes.subarray(at + this.#expected.length);
      this.inSession = true;
    }
    while (this.#bytes.length >= HEADER) {
      const length = this.#bytes.readUInt32BE(0);
      if (this.#bytes.length < HEADER + length) return;
      const payload = Buffer.from(this.#bytes.subarray(HEADER, HEADER + length));
      yield { stream: this.#bytes.readUInt32BE(4), kind: this.#bytes[8] ?? 0, payload };
      this.#bytes = this.#bytes.subarray(HEADER + length);
    }
  }
}
