/**
 * Reaches Kata's agent. It listens on a vsock port (agent.server_addr=vsock://-1:1024, its default) or a unix socket of
 * the guest; on the host it is reached in one of three ways:
 *
 *   vsock          (QEMU, where the host has vhost-vsock)
 *   hybrid vsock   (Firecracker, Cloud Hypervisor, vhost-device-vsock beside QEMU)  "CONNECT 1024\n" first, then "OK …\n"
 *   port           a virtio-serial port of QEMU that the guest's image relays to the agent's socket
 */
import type { Socket } from 'node:net';
import { ErrorCode, RuntimeError } from '../../../base/errors.ts';
import { dialAgent } from '../hypervisor/agent_socket.ts';
import type { AgentSocket } from '../hypervisor/hypervisor.ts';
import { KataRpc, type OpenRpc } from './rpc.ts';

/** Between attempts: the socket is not there yet, or nobody in the guest listens. */
const RETRY_MS = 20;
/** "OK 1073741824\n", and a little. */
const MAX_GREETING = 64;
const SERVING = 1;

export interface ConnectInput {
  id: string;
  socket: AgentSocket;
  deadlineMs: number;
  open: OpenRpc;
  /** Aborted when the hypervisor has ended: there is nothing to wait for. */
  signal: AbortSignal;
  /** The machine runs already: where nobody listens it is gone. */
  runs?: boolean;
}

/**
 * Waits until the agent says that it serves.
 * @throws RuntimeError DeadlineExceeded, or Unavailable when the machine has ended
 */
export async function connectAgent(input: ConnectInput): Promise<KataRpc> {
  const { id, socket, deadlineMs, signal } = input;
  const end = Date.now() + deadlineMs;
  for (;;) {
    const left = end - Date.now();
    if (signal.aborted) throw failure(id, ErrorCode.Unavailable, 'the machine has ended');
    if (left <= 0) {
      const reason = `its agent did not answer within ${deadlineMs / 1000} s`;
      throw failure(id, ErrorCode.Unavailable, reason);
    }
    const rpc = await attempt(input, socket, left);
    if (rpc !== undefined) return rpc;
    await pause(Math.min(RETRY_MS, left), signal);
  }
}

/** undefined: not yet. */
async function attempt(
  { id, open, signal, runs = false }: ConnectInput,
  { path, greeting }: AgentSocket,
  leftMs: number,
): Promise<KataRpc | undefined> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(leftMs)]);
  let stream: Socket | undefined;
  try {
    stream = await dialAgent(path, deadline);
    if (greeting !== undefined) await greet(stream, greeting, deadline);
  } catch (error) {
    stream?.destroy();
    const { code = '' } = error as NodeJS.ErrnoException;
    if (runs && ['ENOENT', 'ECONNREFUSED', 'ENODEV'].includes(code))
      throw failure(id, ErrorCode.Unavailable, 'the machine has ended');
    return undefined;
  }
  const rpc = new KataRpc(open(stream));
  const stop = (): void => rpc.close();
  signal.addEventListener('abort', stop, { once: true });
  try {
    const { status } = await rpc.call('Check', {}, { op: 'create', id, deadlineMs: leftMs });
    if (status === SERVING) return rpc;
    rpc.close();
    return undefined;
  } catch (error) {
    rpc.close();
    // Hung up, or silent until the end, which the caller sees by itself; any other answer is final.
    const { code } = error as RuntimeError;
    if (code === ErrorCode.Unavailable || code === ErrorCode.DeadlineExceeded) return undefined;
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Sends the greeting and takes exactly the line that answers it: what follows is the agent's. */
function greet(
  socket: Socket,
  { send, expect }: NonNullable<AgentSocket['greeting']>,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let line = '';
    const settle = (error?: Error): void => {
      socket.off('readable', read).off('close', hungUp);
      signal.removeEventListener('abort', late);
      if (error === undefined) resolve();
      else reject(error);
    };
    const hungUp = (): void => settle(new Error('hung up'));
    const late = (): void => settle(new Error('late'));
    const read = (): void => {
      for (;;) {
        const byte = socket.read(1) as Buffer | null;
        if (byte === null) return;
        line += byte.toString('latin1');
        if (line.endsWith('\n')) return settle(line.startsWith(expect) ? undefined : new Error('refused'));
        if (line.length >= MAX_GREETING) return settle(new Error('no greeting'));
      }
    };
    socket.on('readable', read).on('close', hungUp);
    signal.addEventListener('abort', late, { once: true });
    socket.write(send);
  });
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
  });
}

function failure(id: string, code: ErrorCode, reason: string): RuntimeError {
  return new RuntimeError({ code, op: 'create', id, object: 'virtual machine', reason });
}
