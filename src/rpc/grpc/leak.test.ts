/** The engine makes one gRPC server for each monitor; monitors come and go for months. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as grpc from '@grpc/grpc-js';
import { expect, it } from 'vitest';
import { containerd } from '../../gen/containerd.js';
import { Router, serveGrpc } from '../index.ts';

const { StateRequest, StateResponse } = containerd.task.v3;
const SERVICE = 'containerd.task.v3.Task';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

it('leaves nothing of servers whose connections are gone', async () => {
  const router = new Router();
  router.register({
    service: SERVICE,
    method: 'State',
    request: StateRequest,
    response: StateResponse,
    handler: (_ctx, { id }) => ({ id }),
  });
  const dir = mkdtempSync(join(tmpdir(), 'bh-grpc-'));
  const path = join(dir, 'shim.sock');
  // grpc-js' server holds the handlers, and they hold the peer.
  const peers: WeakRef<object>[] = [];
  const listener = createServer((socket) => {
    const peer = { name: 'monitor' };
    peers.push(new WeakRef(peer));
    void serveGrpc(router, peer).then((server) => server.accept(socket));
  });
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  const raw = (bytes: Buffer): Buffer => bytes;
  for (let round = 0; round < 20; round++) {
    const client = new grpc.Client(`unix:${path}`, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_channelz': 0,
    });
    await new Promise<void>((resolve, reject) => {
      client.makeUnaryRequest(`/${SERVICE}/State`, raw, raw, Buffer.alloc(0), (error) => {
        if (error === null) resolve();
        else reject(error);
      });
    });
    client.close();
  }
  expect(peers.length).toBe(20);
  const left = (): number => {
    collect();
    return peers.filter((peer) => peer.deref() !== undefined).length;
  };
  await expect.poll(left).toBeLessThanOrEqual(1);
  listener.close();
  rmSync(dir, { recursive: true, force: true });
});
