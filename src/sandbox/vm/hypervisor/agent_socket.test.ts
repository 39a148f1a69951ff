import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dialAgent, vsockPath } from './agent_socket.ts';

let dir: string;
let server: Server | undefined;
const accepted: Socket[] = [];
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'bulkhead-dial-'))));
afterEach(async () => {
  for (const socket of accepted.splice(0)) socket.destroy();
  if (server !== undefined) await new Promise((resolve) => server?.close(resolve));
  server = undefined;
  rmSync(dir, { recursive: true, force: true });
});

const listen = async (): Promise<string> => {
  const path = join(dir, 'agent.sock');
  server = createServer((socket) => accepted.push(socket));
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  return path;
};

describe('dialAgent', () => {
  it('leaves a connection that is there alone when the time to connect is over', async () => {
    const deadline = new AbortController();
    const socket = await dialAgent(await listen(), deadline.signal);
    deadline.abort();
    const echo = new Promise<string>((resolve) => socket.once('data', (bytes) => resolve(bytes.toString())));
    while (accepted.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    accepted[0]?.write('still here');
    expect(await echo).toBe('still here');
    socket.destroy();
  });

  it('says what connect(2) says, and gives up when it is told to', async () => {
    const { signal } = new AbortController();
    await expect(dialAgent(join(dir, 'none'), signal)).rejects.toMatchObject({ code: 'ENOENT' });
    const path = await listen();
    await expect(dialAgent(path, AbortSignal.abort(new Error('late')))).rejects.toThrow('late');
    await expect(dialAgent(vsockPath(70_000), AbortSignal.abort(new Error('late')))).rejects.toThrow('late');
  });

  it('takes no other address for vsock', async () => {
    const { signal } = new AbortController();
    for (const address of [
      'vsock://1',
      'vsock://1:',
      'vsock://-1:5',
      'vsock://99999999999:5',
      'vsock://1:5x',
    ])
      await expect(dialAgent(address, signal)).rejects.toThrow('expected vsock://CID:PORT');
  });
});
