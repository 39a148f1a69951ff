import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { probeAgent } from './agent_probe.ts';

const PREAMBLE = 32;

let dir: string;
let path: string;
let server: Server;
let closed = 0;

function agent(answer: (socket: Socket, preamble: Buffer) => void): Promise<void> {
  server = createServer((socket) => {
    let received = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('close', () => closed++);
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.length >= PREAMBLE) answer(socket, received.subarray(0, PREAMBLE));
    });
  });
  return new Promise((resolve) => server.listen(path, resolve));
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bulkhead-probe-'));
  path = join(dir, 'agent.sock');
  closed = 0;
});

afterEach(async () => {
  await new Promise((resolve) => server.close(resolve));
  rmSync(dir, { recursive: true, force: true });
});

describe('probeAgent', () => {
  it('is content with its preamble, behind what an earlier session left, and hangs up', async () => {
    await agent((socket, preamble) => {
      socket.write(Buffer.concat([Buffer.alloc(5000, 7), preamble.subarray(0, 10)]));
      setTimeout(() => socket.write(Buffer.concat([preamble.subarray(10), Buffer.from('frames')])), 5);
    });
    await probeAgent(path, 'template', 2000);
    expect(closed).toBe(1);
  });

  it.each<[string, (socket: Socket, preamble: Buffer) => void, ErrorCode, string]>([
    ['silence', () => {}, ErrorCode.DeadlineExceeded, 'vm template: agent: no answer within 100 ms'],
    [
      "another one's preamble",
      (socket, preamble) => socket.write(Buffer.from(preamble).fill(1, 16)),
      ErrorCode.DeadlineExceeded,
      'no answer within 100 ms',
    ],
    ['an end', (socket) => socket.destroy(), ErrorCode.Unavailable, 'the connection was closed'],
    ['noise', (socket) => socket.write(Buffer.alloc(3 << 20)), ErrorCode.Unavailable, 'says something else'],
  ])('takes %s for no answer', async (_what, answer, code, message) => {
    await agent(answer);
    const error: unknown = await probeAgent(path, 'template', 100).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code, message: expect.stringContaining(message) as string });
  });

  it('says when nobody listens', async () => {
    await agent(() => {});
    await expect(probeAgent(`${path}.none`, 'template', 100)).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
    });
  });
});
