import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeFrame, type Frame, FrameDecoder, HEADER_LENGTH, MAX_PAYLOAD } from './frame.ts';

interface Seen {
  frames: (Omit<Frame, 'payload'> & { payload: Buffer })[];
  oversize: { stream: number; type: number; length: number }[];
}

function decodeAll(chunks: Iterable<Uint8Array>): Seen {
  const seen: Seen = { frames: [], oversize: [] };
  const decoder = new FrameDecoder({
    frame: (frame) => seen.frames.push({ ...frame, payload: Buffer.from(frame.payload) }),
    oversize: (frame) => seen.oversize.push(frame),
  });
  for (const chunk of chunks) decoder.push(chunk);
  return seen;
}

/** Cuts at the given places (taken modulo the length). */
function split(bytes: Buffer, places: number[]): Buffer[] {
  const cuts = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...cuts].map((from, index) => bytes.subarray(from, cuts[index] ?? bytes.length));
}

const anyFrame = fc.record({
  stream: fc.nat(0xffffffff),
  type: fc.nat(255),
  flags: fc.nat(255),
  payload: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
});

describe('frames', () => {
  it('have a 10-byte big-endian header', () => {
    expect(encodeFrame(0x01020305, 2, 4, Buffer.from('hello')).toString('hex')).toBe(
      '00000005010203050204' + '68656c6c6f',
    );
  });

  it('decode the same however they are split', () => {
    fc.assert(
      fc.property(
        fc.array(anyFrame, { maxLength: 20 }),
        fc.array(fc.nat(), { maxLength: 60 }),
        (frames, places) => {
          const bytes = Buffer.concat(
            frames.map(({ stream, type, flags, payload }) => encodeFrame(stream, type, flags, payload)),
          );
          expect(decodeAll(split(bytes, places))).toEqual({ frames, oversize: [] });
        },
      ),
      { numRuns: 300 },
    );
  });

  it('decode byte by byte', () => {
    const bytes = Buffer.concat([
      encodeFrame(1, 1, 0, Buffer.from('one')),
      encodeFrame(3, 1, 0, Buffer.alloc(0)),
    ]);
    const { frames } = decodeAll([...bytes].map((byte) => Buffer.from([byte])));
    expect(frames.map(({ stream, payload }) => [stream, payload.toString()])).toEqual([
      [1, 'one'],
      [3, ''],
    ]);
  });

  it('take the largest payload, and pass over anything larger without holding it', () => {
    const header = (length: number, stream: number): Buffer => {
      const bytes = Buffer.alloc(HEADER_LENGTH);
      bytes.writeUInt32BE(length, 0);
      bytes.writeUInt32BE(stream, 4);
      bytes[8] = 1;
      return bytes;
    };
    const chunk = Buffer.alloc(1 << 20);
    const largest = [header(MAX_PAYLOAD, 1), ...Array.from({ length: 4 }, () => chunk)];
    const larger = [header(MAX_PAYLOAD + 1, 3), ...Array.from({ length: 4 }, () => chunk), Buffer.alloc(1)];
    const { frames, oversize } = decodeAll([...larger, ...largest, encodeFrame(5, 1, 0, Buffer.from('x'))]);
    expect(oversize).toEqual([{ stream: 3, type: 1, length: MAX_PAYLOAD + 1 }]);
    expect(frames.map(({ stream, payload }) => [stream, payload.length])).toEqual([
      [1, MAX_PAYLOAD],
      [5, 1],
    ]);
  });

  it('never throw, whatever arrives', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 }), (chunks) => {
        expect(() => decodeAll(chunks)).not.toThrow();
      }),
      { numRuns: 500 },
    );
  });
});
