/**
 * ttrpc's frames (containerd/ttrpc PROTOCOL.md): a 10-byte header (u32 length, u32 stream, u8 type, u8 flags, all
 * big-endian) and `length` bytes, at most 4 MiB.
 */
export const HEADER_LENGTH = 10;
export const MAX_PAYLOAD = 4 << 20;

export const FrameType = { Request: 1, Response: 2, Data: 3 } as const;

/** The sender sends no more on this stream. */
export const FLAG_REMOTE_CLOSED = 1;
/** A request that is followed by data. */
export const FLAG_REMOTE_OPEN = 2;
/** A data frame that closes without carrying a message: an empty message is a message. */
export const FLAG_NO_DATA = 4;

export interface Frame {
  stream: number;
  type: number;
  flags: number;
  /** Shares memory with the chunk it came in, which its owner must not overwrite. */
  payload: Uint8Array;
}

/** One frame. The caller keeps payload within MAX_PAYLOAD. */
export function encodeFrame(stream: number, type: number, flags: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_LENGTH + payload.length);
  frame.writeUInt32BE(payload.length, 0);
  frame.writeUInt32BE(stream, 4);
  frame[8] = type;
  frame[9] = flags;
  frame.set(payload, HEADER_LENGTH);
  return frame;
}

export interface FrameSink {
  frame(frame: Frame): void;
  /** A frame above MAX_PAYLOAD: its bytes are passed over as they arrive, never held. */
  oversize(frame: { stream: number; type: number; length: number }): void;
}

/** Cuts a byte stream into frames, however it was split. Holds at most one incomplete frame. */
export class FrameDecoder {
  readonly #sink: FrameSink;
  /** The incomplete frame: first room for the header, then for all of it. */
  #buffer = Buffer.allocUnsafe(HEADER_LENGTH);
  #held = 0;
  #skip = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(chunk: Uint8Array): void {
    let rest = chunk;
    while (rest.length > 0) {
      let used: number;
      if (this.#skip > 0) used = this.#pass(rest);
      else if (this.#held > 0) used = this.#complete(rest);
      else used = this.#cut(rest) || this.#hold(rest);
      rest = rest.subarray(used);
    }
  }

  #pass(bytes: Uint8Array): number {
    const passed = Math.min(this.#skip, bytes.length);
    this.#skip -= passed;
    return passed;
  }

  /** Handles the frame at the start of `bytes`. Returns how many bytes it took; 0: incomplete. */
  #cut(bytes: Uint8Array): number {
    if (bytes.length < HEADER_LENGTH) return 0;
    const { length, stream, type, flags } = headerOf(bytes);
    if (length > MAX_PAYLOAD) {
      this.#skip = length;
      this.#sink.oversize({ stream, type, length });
      return HEADER_LENGTH;
    }
    const end = HEADER_LENGTH + length;
    if (bytes.length < end) return 0;
    this.#sink.frame({ stream, type, flags, payload: bytes.subarray(HEADER_LENGTH, end) });
    return end;
  }

  /** Keeps the start of a frame until the rest arrives. */
  #hold(bytes: Uint8Array): number {
    const size = bytes.length < HEADER_LENGTH ? HEADER_LENGTH : HEADER_LENGTH + headerOf(bytes).length;
    this.#buffer = Buffer.allocUnsafe(size);
    this.#buffer.set(bytes);
    this.#held = bytes.length;
    return bytes.length;
  }

  #complete(bytes: Uint8Array): number {
    const taken = Math.min(this.#buffer.length - this.#held, bytes.length);
    this.#buffer.set(bytes.subarray(0, taken), this.#held);
    this.#held += taken;
    if (this.#held < this.#buffer.length) return taken;
    const whole = this.#buffer;
    this.#held = 0;
    if (this.#cut(whole) === 0) this.#hold(whole);
    return taken;
  }
}

function headerOf(bytes: Uint8Array): { length: number; stream: number; type: number; flags: number } {
  const header = new DataView(bytes.buffer, bytes.byteOffset, HEADER_LENGTH);
  return {
    length: header.getUint32(0),
    stream: header.getUint32(4),
    type: header.getUint8(8),
    flags: header.getUint8(9),
  };
}
