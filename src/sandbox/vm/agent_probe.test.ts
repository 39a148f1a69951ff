import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import { probeAgent, probeAndClean } from './agent_probe.ts';

const { Call, FromAgent, ToAgent } = bulkhead.agent.v1;

const PREAMBLE = 32;

let dir: string;
let path: string;
let server: Server;
let closed: number;

function agent(answer: (socket: Socket, preamble: Buffer) => void): Promise<void> {
  let count = 0;
  server = createServer((socket) => {
    let received = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('close', () => (closed = ++count));
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
    await probeAgent(path, 'template', 60_000);
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
    const deadlineMs = code === ErrorCode.DeadlineExceeded ? 100 : 60_000;
    const error: unknown = await probeAgent(path, 'template', deadlineMs).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code, message: expect.stringContaining(message) as string });
  });

  it('says when nobody listens', async () => {
    await agent(() => {});
    await expect(probeAgent(`${path}.none`, 'template', 60_000)).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
    });
  });
});

describe('probeAndClean', () => {
  const frame = (message: bulkhead.agent.v1.IFromAgent): Buffer => {
    const payload = FromAgent.encode(message).finish();
    const header = Buffer.alloc(9);
    header.writeUInt32BE(payload.length);
    return Buffer.concat([header, payload]);
  };
  /** An agent that says hello, and answers the call with an errno. */
  const answering = (errno: number, asked: Buffer[] = []): Promise<void> => {
    let greeted = false;
    return agent((socket, preamble) => {
      if (greeted) return;
      greeted = true;
      socket.write(Buffer.concat([preamble, frame({ hello: { protocol: 1 } })]));
      socket.on('data', (chunk: Buffer) => {
        asked.push(chunk);
        const answer = frame({ call: { request: 1, errno } });
        // In pieces, as a port may give them.
        socket.write(answer.subarray(0, 5));
        setTimeout(() => socket.write(answer.subarray(5)), 5);
      });
    });
  };

  it('asks for free memory to be cleared, behind a hello, and hangs up when that is done', async () => {
    const asked: Buffer[] = [];
    await answering(0, asked);
    await probeAndClean(path, 'template', 2000);
    expect(closed).toBe(1);
    const sent = Buffer.concat(asked);
    const first = sent.readUInt32BE(0);
    expect(ToAgent.decode(sent.subarray(9, 9 + first)).hello).toMatchObject({ protocol: 1 });
    const request = ToAgent.decode(sent.subarray(9 + first + 9)).call;
    expect(request?.request).toBe(1);
    expect(Call.decode(request?.call ?? new Uint8Array()).cleanMemory).toMatchObject({ timeoutMs: 2000 });
  });

  it('is content with an agent that knows no such call', async () => {
    await answering(38);
    await probeAndClean(path, 'template', 2000);
  });

  it('says what the agent could not do', async () => {
    await answering(12);
    await expect(probeAndClean(path, 'template', 2000)).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
      message: 'vm template: agent: free memory cannot be cleared: cannot allocate memory',
    });
  });

  it.each([
    ['a frame longer than any', Buffer.alloc(64, 0xff), 'says something else'],
    [
      'bytes that are no message',
      Buffer.concat([Buffer.from([0, 0, 0, 1, 0, 0, 0, 0, 0]), Buffer.from([0x0a])]),
      '',
    ],
  ])('takes %s for the end', async (_what, bytes, message) => {
    await agent((socket, preamble) => void socket.write(Buffer.concat([preamble, bytes])));
    const error: unknown = await probeAndClean(path, 'template', 2000).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: ErrorCode.Unavailable });
    expect((error as Error).message).toContain(`vm template: agent: ${message}`);
  });
});
