/**
 * Hostile bytes against both ends of a connection. Runs for BULKHEAD_FUZZ_SECONDS (2 unless told); fast-check prints
 * the seed of a failure, and BULKHEAD_FUZZ_SEED repeats it.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { containerd, google, ttrpc } from '../../gen/containerd.js';
import { Router } from '../router.ts';
import type { Transport } from '../transport.ts';
import { TtrpcClient } from './client.ts';
import { encodeFrame, FrameDecoder, FrameType, MAX_PAYLOAD } from './frame.ts';
import { serveTtrpc } from './server.ts';

const seconds = Number(process.env.BULKHEAD_FUZZ_SECONDS ?? 2);
const seed = process.env.BULKHEAD_FUZZ_SEED;
const limits = {
  numRuns: Number.MAX_SAFE_INTEGER,
  interruptAfterTimeLimit: (seconds * 1000) / 2,
  markInterruptAsFailure: false,
  ...(seed === undefined ? {} : { seed: Number(seed) }),
};
const timeout = seconds * 1000 + 120_000;

const { CreateTaskRequest, StateResponse } = containerd.task.v3;
const { Any, Empty } = google.protobuf;
const SERVICE = 'containerd.task.v3.Task';

/** A transport whose far end is the test: everything runs within the call, so that what throws is seen. */
class Wire implements Transport {
  readonly sent: Uint8Array[] = [];
  closed = false;
  receive: (chunk: Uint8Array) => void = () => {};
  hangUp: (error?: Error) => void = () => {};

  send(bytes: Uint8Array): void {
    this.sent.push(bytes);
  }
  onData(callback: (chunk: Uint8Array) => void): void {
    this.receive = callback;
  }
  onClose(callback: (error?: Error) => void): void {
    this.hangUp = callback;
  }
  close(): void {
    this.closed = true;
    this.hangUp();
  }
}

function router(): Router {
  const routes = new Router();
  const create = { request: CreateTaskRequest, response: StateResponse };
  routes.register({ service: SERVICE, method: 'Create', ...create, handler: (_ctx, { id }) => ({ id }) });
  routes.register({
    service: SERVICE,
    method: 'Wait',
    ...create,
    handler: () => new Promise<never>(() => {}),
  });
  routes.registerStream({
    service: SERVICE,
    method: 'Stream',
    request: Any,
    response: Empty,
    async handler(_ctx, stream) {
      for await (const _message of stream) await stream.send({});
    },
  });
  return routes;
}

const bytes = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });

/** A good message with some of its bytes changed, cut or doubled. */
function mutated(good: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> {
  const change = fc.record({
    at: fc.nat(),
    to: fc.nat(255),
    kind: fc.constantFrom('set', 'cut', 'double', 'none'),
  });
  return fc.tuple(good, fc.array(change, { maxLength: 4 })).map(([message, changes]) => {
    let result = Buffer.from(message);
    for (const { at, to, kind } of changes) {
      if (result.length === 0) break;
      const place = at % result.length;
      if (kind === 'set') result[place] = to;
      else if (kind === 'cut') result = result.subarray(0, place);
      else if (kind === 'double') result = Buffer.concat([result, result.subarray(place)]);
    }
    return result;
  });
}

const any = fc.record({ typeUrl: fc.string(), value: bytes(40) });
const createPayload = fc
  .record({ id: fc.string(), bundle: fc.string(), terminal: fc.boolean(), options: any })
  .map((message) => CreateTaskRequest.encode(message).finish());
const request = fc
  .record({
    service: fc.constantFrom(SERVICE, 'no.Such'),
    method: fc.constantFrom('Create', 'Wait', 'Stream', 'Fly'),
    payload: fc.oneof(mutated(createPayload), bytes(60)),
    timeoutNano: fc.constantFrom(0, -1, 1, 5e9, 9e18),
    metadata: fc.array(fc.record({ key: fc.string(), value: fc.string() }), { maxLength: 3 }),
  })
  .map((message) => ttrpc.Request.encode(message).finish());
const response = fc
  .record({ payload: bytes(40), status: fc.option(fc.record({ code: fc.nat(20), message: fc.string() })) })
  .map((message) => ttrpc.Response.encode(message).finish());

/** Frames whose length is right: the connection must outlive them. */
const frames = (payload: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Buffer[]> =>
  fc.array(
    fc
      .record({
        stream: fc.oneof(fc.nat(40), fc.nat(0xffff)),
        type: fc.oneof(fc.constantFrom(1, 2, 3), fc.nat(255)),
        flags: fc.oneof(fc.nat(7), fc.nat(255)),
        payload: fc.oneof(mutated(payload), bytes(80)),
      })
      .map(({ stream, type, flags, payload: body }) => encodeFrame(stream, type, flags, body)),
    { maxLength: 30 },
  );

/** Every frame in what was sent; throws when it is not whole frames. */
function sentFrames(wire: Wire): { stream: number; type: number; length: number }[] {
  const seen: { stream: number; type: number; length: number }[] = [];
  const decoder = new FrameDecoder({
    frame: ({ stream, type, payload }) => {
      if (type === FrameType.Response) ttrpc.Response.decode(payload);
      seen.push({ stream, type, length: payload.length });
    },
    oversize: ({ length }) => {
      throw new Error(`sent a frame of ${length} bytes`);
    },
  });
  for (const chunk of wire.sent) decoder.push(chunk);
  return seen;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('hostile bytes', () => {
  it(
    'leave a server that answers',
    async () => {
      const routes = router();
      const goodId = 0x7fffffff;
      const good = ttrpc.Request.encode({ service: SERVICE, method: 'Create' }).finish();
      let runs = 0;
      await fc.assert(
        fc.asyncProperty(frames(request), fc.array(bytes(64), { maxLength: 8 }), async (before, garbage) => {
          runs++;
          const wire = new Wire();
          const connection = serveTtrpc(routes, wire, { name: 'fuzz' });
          wire.receive(Buffer.concat(before));
          wire.receive(encodeFrame(goodId, FrameType.Request, 0, good));
          await turn();
          const answers = sentFrames(wire);
          expect(answers.filter(({ stream }) => stream === goodId)).toMatchObject([
            { type: FrameType.Response },
          ]);
          for (const { type, length } of answers) {
            expect([FrameType.Response, FrameType.Data]).toContain(type);
            expect(length).toBeLessThanOrEqual(MAX_PAYLOAD);
          }
          for (const chunk of garbage) wire.receive(chunk);
          await turn();
          sentFrames(wire);
          connection.close();
          await turn();
          expect(connection.activeCalls).toBe(0);
          expect(wire.closed).toBe(true);
        }),
        limits,
      );
      expect(runs).toBeGreaterThan(0);
    },
    timeout,
  );

  it(
    'settle every call of a client exactly once',
    async () => {
      let runs = 0;
      await fc.assert(
        fc.asyncProperty(
          frames(response),
          fc.array(bytes(64), { maxLength: 8 }),
          async (answers, garbage) => {
            runs++;
            const wire = new Wire();
            const client = new TtrpcClient(wire);
            const calls = Array.from({ length: 10 }, () => client.call(SERVICE, 'State', new Uint8Array(0)));
            const settled = Promise.allSettled(calls);
            for (const chunk of [...answers, ...garbage]) wire.receive(chunk);
            wire.close();
            for (const result of await settled) {
              if (result.status === 'rejected') expect(result.reason).toMatchObject({ name: 'RuntimeError' });
            }
            expect(client.open).toBe(false);
          },
        ),
        limits,
      );
      expect(runs).toBeGreaterThan(0);
    },
    timeout,
  );
});
