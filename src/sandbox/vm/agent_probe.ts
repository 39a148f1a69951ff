/**
 * Whether a guest's agent answers: the preamble that opens a session (native/core/mux.h) goes to it, and comes back. For
 * a machine that becomes a template; a pod's session is the monitor's (native/shim).
 */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';

/** Never the start of a frame. */
const MAGIC = Buffer.from('\xffbulkhead mux 1\0', 'latin1');
const NONCE_BYTES = 16;
/** More than this without an answer is not an agent. */
const MAX_NOISE = 1 << 20;
/** For the guest to be told that nobody is connected any more; a clone then waits for a connection from its start. */
const HANG_UP_MS = 50;

/** Resolves when the agent has answered and the connection is closed. Rejects with DeadlineExceeded or Unavailable. */
export async function probeAgent(path: string, id: string, deadlineMs: number): Promise<void> {
  const socket = connect(path);
  try {
    await answered(socket, id, deadlineMs);
  } finally {
    socket.destroy();
  }
  await sleep(HANG_UP_MS);
}

function answered(socket: Socket, id: string, deadlineMs: number): Promise<void> {
  const preamble = Buffer.concat([MAGIC, randomBytes(NONCE_BYTES)]);
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    let noise = 0;
    const fail = (code: ErrorCode, reason: string): void => {
      clearTimeout(timer);
      reject(new RuntimeError({ code, op: 'vm', id, object: 'agent', reason }));
    };
    const timer = setTimeout(
      () => fail(ErrorCode.DeadlineExceeded, `no answer within ${deadlineMs} ms`),
      deadlineMs,
    );
    socket.on('error', (error) => fail(ErrorCode.Unavailable, error.message));
    socket.on('close', () => fail(ErrorCode.Unavailable, 'the connection was closed'));
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.includes(preamble)) {
        clearTimeout(timer);
        resolve();
        return;
      }
      // The rest of what an earlier session had still to say may come first.
      noise += chunk.length;
      received = received.subarray(Math.max(0, received.length - preamble.length));
      if (noise > MAX_NOISE) fail(ErrorCode.Unavailable, 'says something else');
    });
    socket.write(preamble);
  });
}
