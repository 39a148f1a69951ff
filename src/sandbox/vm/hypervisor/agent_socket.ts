/** Where a guest's agent is reached: a unix socket, or vsock, which Node.js's own sockets do not know. */
import { connect, Socket } from 'node:net';
import { addon } from '../../../native/index.ts';

/** Of the guest's agent, ours and Kata's. */
const AGENT_PORT = 1024;
export const VHOST_VSOCK = '/dev/vhost-vsock';

/** "vsock://CID:PORT", which stands in the place of a socket's path. */
export function vsockPath(cid: number): string {
  return `vsock://${cid}:${AGENT_PORT}`;
}

/** Connects; rejects with the errno of connect(2) as `code`, or when the signal is aborted. */
export async function dialAgent(path: string, signal: AbortSignal): Promise<Socket> {
  return path.startsWith('vsock:') ? dialVsock(path, signal) : dialUnix(path, signal);
}

async function dialVsock(path: string, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted();
  const fd = await addon().connectVsock(path);
  const socket = new Socket({ fd, readable: true, writable: true });
  // Told again by whoever uses it; without any listener it would end the process.
  socket.on('error', () => {});
  if (signal.aborted) {
    socket.destroy();
    signal.throwIfAborted();
  }
  return socket;
}

/** The signal ends the attempt only: given to connect(), it would end the connection too, whenever it is aborted. */
function dialUnix(path: string, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = connect(path);
    const late = (): void => void socket.destroy(signal.reason as Error);
    signal.addEventListener('abort', late, { once: true });
    socket.once('error', reject);
    socket.once('connect', () => {
      signal.removeEventListener('abort', late);
      socket.off('error', reject);
      socket.on('error', () => {});
      resolve(socket);
    });
    socket.once('close', () => signal.removeEventListener('abort', late));
  });
}
