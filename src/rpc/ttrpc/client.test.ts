import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { containerd, google } from '../../gen/containerd.js';
import { Router } from '../router.ts';
import { streamTransport } from '../transport.ts';
import { connectTtrpc } from './client.ts';
import { serveTtrpc } from './server.ts';

const { StateRequest, StateResponse, PauseRequest } = containerd.task.v3;
const SERVICE = 'containerd.task.v3.Task';

let dir: string;
let path: string;
let server: Server;
let sockets: Socket[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'bh-rpc-'));
  path = join(dir, 'shim.sock');
  sockets = [];
  const router = new Router();
  router.register({
    service: SERVICE,
    method: 'State',
    request: StateRequest,
    response: StateResponse,
    handler: (_ctx, { id }) => ({ id, bundle: id.startsWith('long') ? 'b'.repeat(1 << 20) : '' }),
  });
  router.register({
    service: SERVICE,
    method: 'Pause',
    request: PauseRequest,
    response: google.protobuf.Empty,
    handler: () => new Promise<never>(() => {}),
  });
  server = createServer((socket) => {
    sockets.push(socket);
    serveTtrpc(router, streamTransport(socket), { name: 'test' });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
});

afterEach(() => {
  for (const socket of sockets) socket.destroy();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

const state = (id: string): Uint8Array => StateRequest.encode({ id }).finish();

describe('TtrpcClient over a unix socket', () => {
  it.each([
    ['a path', ''],
    ['a url', 'unix://'],
  ])('connects to %s and calls', async (_what, prefix) => {
    const client = await connectTtrpc(`${prefix}${path}`);
    const ids = Array.from({ length: 200 }, (_, index) => `c${index}`);
    const answers = await Promise.all(ids.map((id) => client.call(SERVICE, 'State', state(id))));
    expect(answers.map((bytes) => StateResponse.decode(bytes).id)).toEqual(ids);
    client.close();
  });

  it('carries many large answers past a full socket buffer', async () => {
    const client = await connectTtrpc(path);
    const answers = await Promise.all(
      Array.from({ length: 24 }, (_, i) => client.call(SERVICE, 'State', state(`long${i}`))),
    );
    expect(answers.map((bytes) => StateResponse.decode(bytes).bundle.length)).toEqual(
      Array(24).fill(1 << 20),
    );
    client.close();
  });

  it('reports the server’s error, with its code', async () => {
    const client = await connectTtrpc(path);
    await expect(client.call(SERVICE, 'Fly', state('web'))).rejects.toMatchObject({
      code: ErrorCode.Unimplemented,
      message: `${SERVICE}/Fly: call: method ${SERVICE}/Fly: not implemented`,
    });
    client.close();
  });

  it('gives up at its deadline and takes no harm from a late answer', async () => {
    const client = await connectTtrpc(path);
    await expect(client.call(SERVICE, 'Pause', state('web'), { timeoutMs: 20 })).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
    });
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(StateResponse.decode(await client.call(SERVICE, 'State', state('web'))).id).toBe('web');
    client.close();
  });

  it('fails open and later calls when the connection is lost', async () => {
    const client = await connectTtrpc(path);
    const open = client.call(SERVICE, 'Pause', state('web'));
    await client.call(SERVICE, 'State', state('web'));
    expect(client.open).toBe(true);
    sockets[0]!.destroy();
    await expect(open).rejects.toMatchObject({ code: ErrorCode.Unavailable, reason: 'connection closed' });
    expect(client.open).toBe(false);
    await expect(client.call(SERVICE, 'State', state('web'))).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
    });
  });

  it.each([
    ['/nobody/here.sock', ErrorCode.Unavailable, /^connect \/nobody\/here.sock: .*ENOENT/],
    [
      'vsock://3:1024',
      ErrorCode.InvalidArgument,
      /^connect vsock:\/\/3:1024: not the path of a unix socket$/,
    ],
  ])('does not connect to %s', async (address, code, message) => {
    await expect(connectTtrpc(address)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });
});
