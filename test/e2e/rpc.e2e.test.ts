/**
 * Contract of our ttrpc with containerd's own: the same bad and good frames go to our server and to runc's shim of
 * each containerd, which must answer alike; our client calls runc's shim; our events reach containerd.
 */
import { mkdtempSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { EventPublisher } from '../../src/events/index.ts';
import { containerd, ttrpc } from '../../src/gen/containerd.js';
import { connectTtrpc, Router, serveTtrpc, streamTransport } from '../../src/rpc/index.ts';
import { encodeFrame, FrameDecoder, FrameType, HEADER_LENGTH } from '../../src/rpc/ttrpc/frame.ts';
import { PrivateContainerd, type Version } from './lib/containerd.ts';
import { eventually } from './lib/exec.ts';
import { scratch } from './lib/paths.ts';
import { type RuncShim, startRuncShim, taskService } from './lib/runc_shim.ts';

const { ConnectRequest, ConnectResponse } = containerd.task.v3;

/** Our server, with a Connect that answers for any id, as runc's shim does. */
async function serveOurs(): Promise<RuncShim> {
  const dir = mkdtempSync(join(scratch(), 'rpc-'));
  const path = join(dir, 'ours.sock');
  const router = new Router();
  router.register({
    service: taskService('1.7'),
    method: 'Connect',
    request: ConnectRequest,
    response: ConnectResponse,
    handler: () => ({ shimPid: process.pid }),
  });
  const server: Server = createServer((socket) =>
    serveTtrpc(router, streamTransport(socket), { name: 'contract' }),
  );
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return { path, stop: () => new Promise((resolve) => server.close(() => resolve())) };
}

const request = (service: string, method: string, payload: Uint8Array = new Uint8Array(0)): Uint8Array =>
  ttrpc.Request.encode({ service, method, payload }).finish();
const frame = (stream: number, payload: Uint8Array, type: number = FrameType.Request): Buffer =>
  encodeFrame(stream, type, 0, payload);

function oversized(stream: number): Buffer {
  const bytes = Buffer.alloc(HEADER_LENGTH + (4 << 20) + 1);
  encodeFrame(stream, FrameType.Request, 0, new Uint8Array(0)).copy(bytes);
  bytes.writeUInt32BE(bytes.length - HEADER_LENGTH, 0);
  return bytes;
}

/** Frames sent one after the other, each answered before the next, and the codes they must be answered with. */
const exchanges = (service: string): [string, Buffer[], number[]][] => {
  const good = request(service, 'Connect', ConnectRequest.encode({ id: 'contract' }).finish());
  return [
    ['a good request', [frame(1, good)], [0]],
    ['requests on rising streams', [frame(1, good), frame(7, good), frame(9, good)], [0, 0, 0]],
    ['an unknown service', [frame(1, request('no.Such', 'Connect'))], [12]],
    ['an unknown method', [frame(1, request(service, 'Fly'))], [12]],
    ['an even stream', [frame(2, good), frame(1, good)], [3, 0]],
    ['a stream used before', [frame(3, good), frame(3, good), frame(5, good)], [0, 3, 0]],
    ['a stream below the last', [frame(5, good), frame(3, good), frame(7, good)], [0, 3, 0]],
    ['bytes that are no request', [frame(1, Buffer.from('ff', 'hex')), frame(3, good)], [3, 0]],
    ['an oversized request', [oversized(1), frame(3, good)], [8, 0]],
  ];
};

/** Sends each frame when the one before was answered. Resolves to the answers' streams and codes. */
function exchange(path: string, frames: Buffer[]): Promise<{ stream: number; code: number }[]> {
  return new Promise((resolve, reject) => {
    const answers: { stream: number; code: number }[] = [];
    const socket = connect(path);
    const next = (): void => {
      const bytes = frames[answers.length];
      if (bytes !== undefined) socket.write(bytes);
      else socket.end(() => resolve(answers));
    };
    const decoder = new FrameDecoder({
      frame({ stream, payload }) {
        answers.push({ stream, code: ttrpc.Response.decode(payload).status?.code ?? 0 });
        next();
      },
      oversize: () => reject(new Error('oversized answer')),
    });
    socket.on('data', (chunk) => decoder.push(chunk));
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`closed after ${answers.length} of ${frames.length} answers`)));
    socket.on('connect', next);
  });
}

describe.each<[string, Version, () => Promise<RuncShim>]>([
  ['our server', '1.7', serveOurs],
  ['runc’s shim of containerd 1.6', '1.6', () => startRuncShim('1.6', scratch())],
  ['runc’s shim of containerd 1.7', '1.7', () => startRuncShim('1.7', scratch())],
  ['runc’s shim of containerd 2', '2', () => startRuncShim('2', scratch())],
])('%s', (_name, version, start) => {
  let served: RuncShim;
  beforeAll(async () => void (served = await start()));
  afterAll(() => served.stop());
  // ttrpc 1.1, which containerd 1.6 has, takes any odd stream at any time.
  const rising = new Set(['a stream used before', 'a stream below the last']);
  const table = exchanges(taskService(version)).filter(([what]) => version !== '1.6' || !rising.has(what));

  it.each(table)('answers %s', async (_what, frames, codes) => {
    const answers = await exchange(served.path, frames);
    const streams = frames.map((bytes) => bytes.readUInt32BE(4));
    expect(answers).toEqual(streams.map((stream, index) => ({ stream, code: codes[index] })));
  });

  it('is called by our client', async () => {
    const client = await connectTtrpc(`unix://${served.path}`);
    const payload = ConnectRequest.encode({ id: 'contract' }).finish();
    const metadata = { 'containerd-namespace-ttrpc': 'contract' };
    const answer = await client.call(taskService(version), 'Connect', payload, {
      timeoutMs: 60_000,
      metadata,
    });
    expect(ConnectResponse.decode(answer).shimPid).toBeGreaterThan(1);
    await expect(client.call(taskService(version), 'Fly', payload)).rejects.toMatchObject({ code: 12 });
    client.close();
  });
});

const exits = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, index) => `c${from + index}`);

describe.each<Version>(['1.6', '1.7', '2'])('containerd %s', (version) => {
  let daemon: PrivateContainerd;
  beforeAll(async () => void (daemon = await PrivateContainerd.start({ version })));
  afterAll(() => daemon.stop());

  it('takes our events in order, also after it was away', async () => {
    const publisher = new EventPublisher({
      address: `unix://${daemon.address}.ttrpc`,
      namespace: daemon.namespace,
      log: silentLogger,
      connect: connectTtrpc,
    });
    const publish = (id: string): void => {
      const exit = { containerId: id, id, pid: 7, exitStatus: 3, exitedAt: { seconds: 1, nanos: 5 } };
      publisher.publish('/tasks/exit', 'containerd.events.TaskExit', () =>
        containerd.events.TaskExit.encode(exit).finish(),
      );
    };
    const deliver = async (ids: string[], away = false): Promise<void> => {
      const stream = await daemon.events();
      if (away) await daemon.kill();
      for (const id of ids) publish(id);
      await publisher.flush(away ? 100 : 5000);
      if (!away) {
        expect(publisher.pending).toBe(0);
        const seen = await eventually('the last event', () =>
          stream.seen(ids.at(-1)).length > 0
            ? stream.seen().filter(({ topic }) => topic === '/tasks/exit')
            : undefined,
        );
        expect(seen.map(({ event }) => event.container_id)).toEqual(ids);
        expect(seen[0]?.event).toMatchObject({ pid: 7, exit_status: 3 });
      }
    };
    await deliver(exits(0, 100));
    await deliver(exits(100, 110), true);
    expect(publisher.pending).toBe(10);
    await daemon.launch();
    await eventually('the queue to drain', () => publisher.pending === 0 || undefined);
    await deliver(exits(110, 120));
    await publisher.close();
  });
});
