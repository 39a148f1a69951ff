import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { containerd, google, ttrpc } from '../../gen/containerd.js';
import type { CallContext } from '../context.ts';
import { memoryTransports } from '../memory.ts';
import { Router, type ServerStream } from '../router.ts';
import type { Transport } from '../transport.ts';
import { TtrpcClient } from './client.ts';
import {
  encodeFrame,
  FLAG_NO_DATA,
  FLAG_REMOTE_CLOSED,
  FLAG_REMOTE_OPEN,
  FrameDecoder,
  FrameType,
} from './frame.ts';
import { serveTtrpc, type TtrpcConnection } from './server.ts';

const { KillRequest, StateRequest, StateResponse } = containerd.task.v3;
const { Any, Empty } = google.protobuf;
const SERVICE = 'containerd.task.v3.Task';
const peer = { name: 'test' };

function testRouter(): { router: Router; seen: CallContext[] } {
  const router = new Router();
  const seen: CallContext[] = [];
  router.register({
    service: SERVICE,
    method: 'State',
    request: StateRequest,
    response: StateResponse,
    handler(ctx, { id }) {
      seen.push(ctx);
      return { id, pid: 7, bundle: id === 'long' ? 'x'.repeat(4 << 20) : '' };
    },
  });
  router.register({
    service: SERVICE,
    method: 'Kill',
    request: KillRequest,
    response: Empty,
    handler(_ctx, { id }) {
      if (id === 'plain') throw new Error('a plain error');
      throw new RuntimeError({ code: ErrorCode.NotFound, op: 'kill', id, reason: 'no such container' });
    },
  });
  router.register({
    service: SERVICE,
    method: 'Wait',
    request: StateRequest,
    response: Empty,
    handler: (ctx) => {
      seen.push(ctx);
      return new Promise(() => {});
    },
  });
  router.registerStream({
    service: 'test.Echo',
    method: 'Stream',
    request: Any,
    response: Any,
    async handler(_ctx, stream: ServerStream<google.protobuf.Any, google.protobuf.Any>) {
      for await (const message of stream) {
        if (message.typeUrl === 'fail') throw new Error('told to fail');
        await stream.send(message);
      }
      await stream.send(Any.decode(Any.encode({ typeUrl: 'end' }).finish()));
    },
  });
  return { router, seen };
}

interface Answer {
  stream: number;
  type: number;
  flags: number;
  code: number;
  message: string;
  payload: Uint8Array;
}

/** A client that writes frames by hand and collects what comes back. */
class RawClient {
  readonly answers: Answer[] = [];
  readonly transport: Transport;
  readonly seen: CallContext[];
  readonly connection: TtrpcConnection;
  closed = false;

  constructor() {
    const [client, server] = memoryTransports();
    const { router, seen } = testRouter();
    this.seen = seen;
    this.transport = client;
    const decoder = new FrameDecoder({
      frame: ({ stream, type, flags, payload }) => {
        const response = type === FrameType.Response ? ttrpc.Response.decode(payload) : undefined;
        const { code = 0, message = '' } = response?.status ?? {};
        const body = response?.payload ?? payload;
        this.answers.push({ stream, type, flags, code: code ?? 0, message: message ?? '', payload: body });
      },
      oversize: () => {
        throw new Error('server sent an oversized frame');
      },
    });
    client.onClose(() => (this.closed = true));
    client.onData((chunk) => decoder.push(chunk));
    this.connection = serveTtrpc(router, server, peer);
  }

  request(
    stream: number,
    method: string,
    payload: Uint8Array = new Uint8Array(0),
    flags = 0,
    service = SERVICE,
  ): void {
    const body = ttrpc.Request.encode({ service, method, payload }).finish();
    this.transport.send(encodeFrame(stream, FrameType.Request, flags, body));
  }

  data(stream: number, flags: number, typeUrl?: string): void {
    const payload = typeUrl === undefined ? new Uint8Array(0) : Any.encode({ typeUrl }).finish();
    this.transport.send(encodeFrame(stream, FrameType.Data, flags, payload));
  }

  async until(count: number): Promise<Answer[]> {
    for (let turn = 0; this.answers.length < count; turn++) {
      if (turn === 1000) throw new Error(`${this.answers.length} answers, ${count} wanted`);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return this.answers;
  }

  async settle(): Promise<Answer[]> {
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
    return this.answers;
  }
}

const state = (id: string): Uint8Array => StateRequest.encode({ id }).finish();
const kill = (id: string): Uint8Array => KillRequest.encode({ id }).finish();

describe('unary calls', () => {
  it('answers on the stream of the request', async () => {
    const raw = new RawClient();
    raw.request(1, 'State', state('web'));
    raw.request(5, 'State', state('db'));
    const answers = await raw.until(2);
    expect(answers.map(({ stream, type, flags, code }) => ({ stream, type, flags, code }))).toEqual([
      { stream: 1, type: FrameType.Response, flags: 0, code: 0 },
      { stream: 5, type: FrameType.Response, flags: 0, code: 0 },
    ]);
    expect(StateResponse.decode(answers[1]!.payload)).toMatchObject({ id: 'db', pid: 7 });
    expect(raw.connection.activeCalls).toBe(0);
  });

  it.each([
    ['a RuntimeError by its code', kill('web'), ErrorCode.NotFound, 'kill web: no such container'],
    ['any other error as Unknown', kill('plain'), ErrorCode.Unknown, 'a plain error'],
    [
      'bytes that are no request',
      Buffer.from('0a05616263', 'hex'),
      ErrorCode.InvalidArgument,
      /^Kill: request: /,
    ],
  ])('reports %s', async (_what, payload, code, message) => {
    const raw = new RawClient();
    raw.request(1, 'Kill', payload);
    const [answer] = await raw.until(1);
    expect(answer).toMatchObject({ stream: 1, type: FrameType.Response, code });
    expect(answer?.message).toMatch(message);
  });

  it.each([
    ['service', 'no.Such', 'State', 'call: service no.Such: not implemented'],
    ['method', SERVICE, 'Fly', `call: method ${SERVICE}/Fly: not implemented`],
  ])('says Unimplemented for an unknown %s', async (_what, service, method, message) => {
    const raw = new RawClient();
    raw.request(1, method, state('web'), 0, service);
    const [answer] = await raw.until(1);
    expect(answer).toMatchObject({ code: ErrorCode.Unimplemented, message });
  });

  it('hands metadata, namespace and deadline to the handler', async () => {
    const [client, server] = memoryTransports();
    const { router, seen } = testRouter();
    serveTtrpc(router, server, peer);
    const before = Date.now();
    const metadata = { 'Containerd-Namespace-Ttrpc': 'k8s.io', other: 'x' };
    await new TtrpcClient(client).call(SERVICE, 'State', state('web'), { timeoutMs: 60_000, metadata });
    const [ctx] = seen;
    expect(ctx?.namespace).toBe('k8s.io');
    expect(ctx?.metadata.get('other')).toEqual(['x']);
    expect(ctx?.peer).toBe(peer);
    expect(ctx!.deadline! - before).toBeGreaterThanOrEqual(60_000);
    expect(ctx!.deadline! - before).toBeLessThan(120_000);
    expect(ctx?.signal.aborted).toBe(false);
  });
});

describe('deadlines and lost callers', () => {
  const timed = (timeoutNano: number): Uint8Array =>
    ttrpc.Request.encode({ service: SERVICE, method: 'Wait', payload: state('web'), timeoutNano }).finish();

  it('answers DeadlineExceeded and aborts the handler', async () => {
    const raw = new RawClient();
    raw.transport.send(encodeFrame(1, FrameType.Request, 0, timed(500e6)));
    await raw.settle();
    const { signal } = raw.seen[0]!;
    expect(signal.aborted).toBe(false);
    await expect.poll(() => raw.answers).toHaveLength(1);
    expect(raw.answers[0]).toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: 'Wait: not done within 500 ms',
    });
    expect(signal.reason).toMatchObject({ code: ErrorCode.DeadlineExceeded });
    expect(raw.connection.activeCalls).toBe(0);
  });

  it('takes a deadline that has passed, and one beyond what a timer holds', async () => {
    const raw = new RawClient();
    raw.transport.send(encodeFrame(1, FrameType.Request, 0, timed(-5)));
    raw.transport.send(encodeFrame(3, FrameType.Request, 0, timed(9e18)));
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await raw.settle()).toMatchObject([{ stream: 1, code: ErrorCode.DeadlineExceeded }]);
    expect(raw.connection.activeCalls).toBe(1);
  });

  it('cancels open calls when the connection goes, and stays silent', async () => {
    const raw = new RawClient();
    raw.request(1, 'Wait', state('web'));
    await raw.settle();
    const { signal } = raw.seen[0]!;
    raw.transport.close();
    await raw.settle();
    expect(signal.reason).toMatchObject({ code: ErrorCode.Canceled, message: 'call: connection closed' });
    expect(raw.answers).toEqual([]);
    expect(raw.connection.activeCalls).toBe(0);
  });

  it('cancels open calls when the server closes', async () => {
    const raw = new RawClient();
    raw.request(1, 'Wait', state('web'));
    await raw.settle();
    raw.connection.close();
    await raw.settle();
    expect(raw.seen[0]!.signal.aborted).toBe(true);
    expect(raw.closed).toBe(true);
  });
});

describe('stream ids', () => {
  it.each([
    ['even', [4], 'receive: stream 4 is even: clients open odd ones'],
    ['zero', [0], 'receive: stream 0 is even: clients open odd ones'],
    ['used', [5, 5], 'receive: stream 5 was used: the last is 5'],
    ['falling', [7, 3], 'receive: stream 3 was used: the last is 7'],
  ])('refuses an id that is %s', async (_what, ids, message) => {
    const raw = new RawClient();
    for (const [index, id] of ids.entries()) {
      raw.request(id, 'State', state('web'));
      await raw.until(index + 1);
    }
    const answers = raw.answers;
    expect(answers.find(({ code }) => code !== 0)).toMatchObject({
      stream: ids.at(-1),
      code: ErrorCode.InvalidArgument,
      message,
    });
  });

  it('refuses an oversized frame on its stream and goes on', async () => {
    const raw = new RawClient();
    const header = Buffer.from([0, 0x40, 0, 1, 0, 0, 0, 1, FrameType.Request, 0]);
    raw.transport.send(header);
    for (let sent = 0; sent < 64; sent++) raw.transport.send(Buffer.alloc(65536));
    raw.transport.send(Buffer.alloc(1));
    raw.request(3, 'State', state('web'));
    const answers = await raw.until(2);
    const message = 'receive: frame of 4194305 bytes: at most 4194304 are taken';
    expect(answers).toMatchObject([
      { stream: 1, code: ErrorCode.ResourceExhausted, message },
      { stream: 3, code: 0 },
    ]);
  });

  it('refuses to answer more than a frame holds', async () => {
    const raw = new RawClient();
    raw.request(1, 'State', state('long'));
    const [answer] = await raw.until(1);
    expect(answer).toMatchObject({ stream: 1, code: ErrorCode.ResourceExhausted });
    expect(answer?.message).toMatch(/^answer: message of 41943\d\d bytes: at most 4194304 can be sent$/);
  });

  it('refuses bytes that are no request', async () => {
    const raw = new RawClient();
    raw.transport.send(encodeFrame(1, FrameType.Request, 0, Buffer.from('ff', 'hex')));
    const [answer] = await raw.until(1);
    expect(answer).toMatchObject({ stream: 1, code: ErrorCode.InvalidArgument });
    expect(answer?.message).toMatch(/^receive: request: /);
  });

  it('passes over frames of unknown type', async () => {
    const raw = new RawClient();
    raw.transport.send(encodeFrame(1, 9, 0, Buffer.from('?')));
    raw.transport.send(encodeFrame(1, FrameType.Response, 0, Buffer.from('?')));
    raw.request(3, 'State', state('web'));
    expect(await raw.settle()).toMatchObject([{ stream: 3, code: 0 }]);
  });
});

describe('streams', () => {
  const types = (answers: Answer[]): string[] =>
    answers.map(({ type, flags, payload }) =>
      type === FrameType.Data && (flags & FLAG_NO_DATA) === 0
        ? Any.decode(payload).typeUrl
        : `${type}/${flags}`,
    );

  it('carries messages both ways and closes after the handler', async () => {
    const raw = new RawClient();
    raw.request(1, 'Stream', undefined, FLAG_REMOTE_OPEN, 'test.Echo');
    raw.data(1, 0, 'a');
    raw.data(1, 0, 'b');
    raw.data(1, FLAG_REMOTE_CLOSED | FLAG_NO_DATA);
    expect(types(await raw.until(4))).toEqual([
      'a',
      'b',
      'end',
      `${FrameType.Data}/${FLAG_REMOTE_CLOSED | FLAG_NO_DATA}`,
    ]);
    expect(raw.connection.activeCalls).toBe(0);
  });

  it('takes a message in the request and an empty one as a message', async () => {
    const raw = new RawClient();
    raw.request(1, 'Stream', Any.encode({ typeUrl: 'first' }).finish(), FLAG_REMOTE_OPEN, 'test.Echo');
    raw.data(1, FLAG_REMOTE_CLOSED);
    expect(types(await raw.until(4)).slice(0, 3)).toEqual(['first', '', 'end']);
  });

  it('ends with a response when the handler fails; later data is refused', async () => {
    const raw = new RawClient();
    raw.request(1, 'Stream', undefined, FLAG_REMOTE_OPEN, 'test.Echo');
    raw.data(1, 0, 'fail');
    await raw.until(1);
    raw.data(1, 0, 'late');
    expect(await raw.until(2)).toMatchObject([
      { type: FrameType.Response, code: ErrorCode.Unknown, message: 'told to fail' },
      { type: FrameType.Response, code: ErrorCode.InvalidArgument, message: 'receive: stream 1 is not open' },
    ]);
  });

  it.each([
    [
      'after the caller closed',
      'Stream',
      'test.Echo',
      FLAG_REMOTE_CLOSED,
      'receive: stream 1 was closed by its caller',
    ],
    ['on a unary call', 'Wait', SERVICE, 0, 'receive: stream 1 takes no data'],
  ])('refuses data %s', async (_what, method, service, flags, message) => {
    const raw = new RawClient();
    raw.request(1, method, undefined, flags, service);
    raw.data(1, 0, 'more');
    const [answer] = await raw.until(1);
    expect(answer).toMatchObject({ code: ErrorCode.InvalidArgument, message });
  });

  it('refuses a stream to a unary method', async () => {
    const raw = new RawClient();
    raw.request(1, 'State', state('web'), FLAG_REMOTE_OPEN);
    const [answer] = await raw.until(1);
    expect(answer).toMatchObject({
      code: ErrorCode.InvalidArgument,
      message: `receive: ${SERVICE}/State takes one request, not a stream`,
    });
  });

  it('ends a stream whose handler is too far behind', async () => {
    const raw = new RawClient();
    raw.request(1, 'Stream', undefined, FLAG_REMOTE_OPEN, 'test.Echo');
    for (let sent = 0; sent < 1025; sent++) raw.data(1, 0, 'x');
    const answers = await raw.until(1);
    expect(answers.at(-1)).toMatchObject({ code: ErrorCode.ResourceExhausted });
  });
});
