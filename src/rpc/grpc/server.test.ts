import { connect, createServer, type Server, type Socket } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { containerd, google } from '../../gen/containerd.js';
import type { CallContext } from '../context.ts';
import { type GrpcServer, Router, serveGrpc, type ServerStream } from '../index.ts';

const { StateRequest, StateResponse } = containerd.task.v3;
const { Any, Empty } = google.protobuf;
const SERVICE = 'containerd.task.v3.Task';

let dir: string;
let listener: Server;
let server: GrpcServer;
let client: grpc.Client;
const sockets: Socket[] = [];
const seen: CallContext[] = [];
let streamsOpen = 0;

beforeAll(async () => {
  const router = new Router();
  router.register({
    service: SERVICE,
    method: 'State',
    request: StateRequest,
    response: StateResponse,
    handler(ctx, { id }) {
      seen.push(ctx);
      if (id === 'gone')
        throw new RuntimeError({ code: ErrorCode.NotFound, op: 'state', id, reason: 'no such task' });
      if (id === 'plain') throw new Error('ünexpected');
      return { id, pid: 7 };
    },
  });
  router.register({
    service: SERVICE,
    method: 'Wait',
    request: StateRequest,
    response: Empty,
    handler(ctx) {
      seen.push(ctx);
      return new Promise<never>(() => {});
    },
  });
  router.registerStream({
    service: 'test.Echo',
    method: 'Stream',
    request: Any,
    response: Any,
    async handler(_ctx, stream: ServerStream<google.protobuf.Any, google.protobuf.IAny>) {
      streamsOpen++;
      using _end = { [Symbol.dispose]: () => streamsOpen-- };
      for await (const message of stream) {
        if (message.typeUrl === 'fail')
          throw new RuntimeError({ code: ErrorCode.Aborted, op: 'echo', reason: 'told to' });
        await stream.send({ typeUrl: `${message.typeUrl}!` });
      }
    },
  });
  dir = mkdtempSync(join(tmpdir(), 'bh-grpc-'));
  server = await serveGrpc(router, { name: 'test' });
  listener = createServer((socket) => {
    sockets.push(socket);
    server.accept(socket);
  });
  const path = join(dir, 'shim.sock');
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  client = new grpc.Client(`unix:${path}`, grpc.credentials.createInsecure());
});

afterAll(() => {
  client.close();
  server.close();
  listener.close();
  for (const socket of sockets) socket.destroy();
  rmSync(dir, { recursive: true, force: true });
});

const raw = (bytes: Uint8Array): Buffer => Buffer.from(bytes);

function call(
  method: string,
  id: string,
  options: grpc.CallOptions = {},
  metadata = new grpc.Metadata(),
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const request = Buffer.from(StateRequest.encode({ id }).finish());
    client.makeUnaryRequest(
      `/${SERVICE}/${method}`,
      raw,
      raw,
      request,
      metadata,
      options,
      (error, response) => (error === null ? resolve(response!) : reject(error)),
    );
  });
}

describe('the router over gRPC', () => {
  it('answers, with namespace and deadline in the context', async () => {
    const metadata = new grpc.Metadata();
    metadata.set('containerd-namespace', 'k8s.io');
    const before = Date.now();
    const response = await call('State', 'web', { deadline: before + 60_000 }, metadata);
    expect(StateResponse.decode(response)).toMatchObject({ id: 'web', pid: 7 });
    const ctx = seen.at(-1)!;
    expect(ctx.namespace).toBe('k8s.io');
    expect(ctx.deadline! - before).toBeGreaterThan(55_000);
    expect(ctx.deadline! - before).toBeLessThan(65_000);
  });

  it.each([
    ['State', 'gone', grpc.status.NOT_FOUND, 'state gone: no such task'],
    ['State', 'plain', grpc.status.UNKNOWN, 'ünexpected'],
    ['Fly', 'web', grpc.status.UNIMPLEMENTED, /Fly/],
  ])('%s %s fails by its code', async (method, id, code, details) => {
    await expect(call(method, id)).rejects.toMatchObject({
      code,
      details: expect.stringMatching(details) as string,
    });
  });

  it('aborts the handler at the caller’s deadline', async () => {
    const before = Date.now();
    await expect(call('Wait', 'web', { deadline: before + 50 })).rejects.toMatchObject({
      code: grpc.status.DEADLINE_EXCEEDED,
    });
    await expect.poll(() => seen.at(-1)!.signal.aborted).toBe(true);
  });

  it('aborts the handler when the caller cancels', async () => {
    const count = seen.length;
    const pending = client.makeUnaryRequest(`/${SERVICE}/Wait`, raw, raw, Buffer.alloc(0), () => {});
    await expect.poll(() => seen.length).toBe(count + 1);
    pending.cancel();
    await expect.poll(() => seen.at(-1)!.signal.aborted).toBe(true);
    expect(seen.at(-1)!.signal.reason).toMatchObject({ code: ErrorCode.Canceled });
  });

  it('carries a stream both ways, and its error', async () => {
    const encode = (message: google.protobuf.IAny): Buffer => Buffer.from(Any.encode(message).finish());
    const run = (sent: string[]): Promise<{ got: string[]; code: number }> =>
      new Promise((resolve) => {
        const got: string[] = [];
        const stream = client.makeBidiStreamRequest('/test.Echo/Stream', encode, (bytes) =>
          Any.decode(bytes),
        );
        stream.on('data', (message: google.protobuf.Any) => got.push(message.typeUrl));
        stream.on('error', () => {});
        stream.on('status', ({ code }) => resolve({ got, code }));
        for (const typeUrl of sent) stream.write({ typeUrl });
        stream.end();
      });
    expect(await run(['a', 'b'])).toEqual({ got: ['a!', 'b!'], code: grpc.status.OK });
    expect(await run(['a', 'fail'])).toEqual({ got: ['a!'], code: grpc.status.ABORTED });
  });

  it('ends a stream’s handler when the caller cancels', async () => {
    const stream = client.makeBidiStreamRequest('/test.Echo/Stream', raw, raw);
    stream.on('error', () => {});
    stream.write(Buffer.alloc(0));
    await expect.poll(() => streamsOpen).toBe(1);
    stream.cancel();
    await expect.poll(() => streamsOpen).toBe(0);
  });

  it('aborts handlers when the connection goes', async () => {
    const other = new grpc.Client(`unix:${join(dir, 'shim.sock')}`, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
    });
    const [count, connections] = [seen.length, sockets.length];
    other.makeUnaryRequest(`/${SERVICE}/Wait`, raw, raw, Buffer.alloc(0), () => {});
    await expect.poll(() => seen.length).toBe(count + 1);
    for (const socket of sockets.slice(connections)) socket.destroy();
    await expect.poll(() => seen.at(-1)!.signal.aborted).toBe(true);
    other.close();
  });

  it.each([
    ['no HTTP/2 at all', [Buffer.from('GET / HTTP/1.1\r\n\r\n')]],
    ['a preface and then noise', [Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.alloc(5000, 0xa5)]],
    ['half a preface', [Buffer.from('PRI * HTT')]],
    ['nothing', []],
  ])('survives a caller that sends %s', async (_what, chunks) => {
    const count = sockets.length;
    const socket = connect(join(dir, 'shim.sock'));
    await expect.poll(() => sockets.length).toBe(count + 1);
    for (const chunk of chunks) socket.write(chunk);
    socket.on('error', () => {});
    await new Promise((resolve) => setTimeout(resolve, 20));
    socket.destroy();
    await expect.poll(() => sockets[count]!.destroyed).toBe(true);
    expect(StateResponse.decode(await call('State', 'web'))).toMatchObject({ id: 'web' });
  });
});
