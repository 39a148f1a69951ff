/**
 * Whether a guest's agent answers: the preamble that opens a session (native/core/mux.h) goes to it, and comes back; and
 * one call to it. For a machine that becomes a template; a pod's session is the monitor's (native/shim).
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoText } from '../../base/errno.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import { dialAgent } from './hypervisor/agent_socket.ts';

const { Call, FromAgent, ToAgent } = bulkhead.agent.v1;

/** Never the start of a frame. */
const MAGIC = Buffer.from('\xffbulkhead mux 1\0', 'latin1');
const NONCE_BYTES = 16;
/** More than this without an answer is not an agent. */
const MAX_NOISE = 1 << 20;
/** For the guest to be told that nobody is connected any more; a clone then waits for a connection from its start. */
const HANG_UP_MS = 50;

/** What connecting by vsock meets until a guest's agent listens. */
const NOT_YET: ReadonlySet<string> = new Set(['ENODEV', 'ECONNRESET', 'ETIMEDOUT']);
const RETRY_MS = 20;

/** Length, stream and kind of a frame; control messages are kind 0 of stream 0. */
const HEADER_BYTES = 9;
const MAX_CONTROL = 1 << 20;
const PROTOCOL = 1;
const ENOSYS = 38;

/** Resolves when the agent has answered and the connection is closed. Rejects with DeadlineExceeded or Unavailable. */
export function probeAgent(path: string, id: string, deadlineMs: number): Promise<void> {
  return inSession(path, id, deadlineMs, () => true);
}

/**
 * The same, and lets the agent overwrite the guest's free memory with zeros, which need no room in a template. An agent
 * that does not know how leaves it. Rejects with Unavailable when the agent says that it failed.
 */
export function probeAndClean(path: string, id: string, deadlineMs: number): Promise<void> {
  const call = Call.encode({ cleanMemory: { timeoutMs: deadlineMs } }).finish();
  const requests = [{ hello: { protocol: PROTOCOL } }, { call: { request: 1, call } }];
  return inSession(path, id, deadlineMs, answerOf, Buffer.concat(requests.map(control)));
}

function control(message: bulkhead.agent.v1.IToAgent): Buffer {
  const payload = ToAgent.encode(message).finish();
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(payload.length);
  return Buffer.concat([header, payload]);
}

/** Whether the call's answer is among the frames; throws what it says of a failure. */
function answerOf(frames: Buffer): boolean {
  for (let at = 0; frames.length - at >= HEADER_BYTES;) {
    const length = frames.readUInt32BE(at);
    if (length > MAX_CONTROL) throw new Error('says something else');
    const end = at + HEADER_BYTES + length;
    if (end > frames.length) return false;
    const isControl = frames.readUInt32BE(at + 4) === 0 && frames[at + 8] === 0;
    const { call } = isControl ? FromAgent.decode(frames.subarray(at + HEADER_BYTES, end)) : {};
    if (call) {
      const errno = call.errno ?? 0;
      if (errno !== 0 && errno !== ENOSYS)
        throw new Error(`free memory cannot be cleared: ${errnoText(errno)}`);
      return true;
    }
    at = end;
  }
  return false;
}

/** @param isDone told what has come behind the preamble; what it throws is the end */
async function inSession(
  path: string,
  id: string,
  deadlineMs: number,
  isDone: (frames: Buffer) => boolean,
  requests = Buffer.alloc(0),
): Promise<void> {
  const socket = await dial(path, id, deadlineMs);
  try {
    await answered(socket, { id, deadlineMs, isDone, requests });
  } finally {
    socket.destroy();
  }
  await sleep(HANG_UP_MS);
}

/** A unix socket is the hypervisor's, and there from its start; vsock is the guest's, and there when the agent is. */
async function dial(path: string, id: string, deadlineMs: number): Promise<Socket> {
  const signal = AbortSignal.timeout(deadlineMs);
  for (;;) {
    try {
      return await dialAgent(path, signal);
    } catch (cause) {
      const { message, code = '' } = cause as NodeJS.ErrnoException;
      const object = { op: 'vm', id, object: 'agent', cause };
      if (signal.aborted)
        throw new RuntimeError({
          code: ErrorCode.DeadlineExceeded,
          reason: `no answer within ${deadlineMs} ms`,
          ...object,
        });
      if (!NOT_YET.has(code))
        throw new RuntimeError({ code: ErrorCode.Unavailable, reason: message, ...object });
    }
    await sleep(RETRY_MS);
  }
}

interface Session {
  id: string;
  deadlineMs: number;
  isDone: (frames: Buffer) => boolean;
  requests: Buffer;
}

function answered(socket: Socket, { id, deadlineMs, isDone, requests }: Session): Promise<void> {
  const preamble = Buffer.concat([MAGIC, randomBytes(NONCE_BYTES)]);
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    let open = false;
    let noise = 0;
    const fail = (code: ErrorCode, reason: string, cause?: unknown): void => {
      clearTimeout(timer);
      reject(new RuntimeError({ code, op: 'vm', id, object: 'agent', reason, cause }));
    };
    const timer = setTimeout(
      () => fail(ErrorCode.DeadlineExceeded, `no answer within ${deadlineMs} ms`),
      deadlineMs,
    );
    const opening = (): boolean => {
      const at = received.indexOf(preamble);
      if (at >= 0) {
        received = received.subarray(at + preamble.length);
        return true;
      }
      // The rest of what an earlier session had still to say may come first.
      received = received.subarray(Math.max(0, received.length - preamble.length));
      return false;
    };
    socket.on('error', (error) => fail(ErrorCode.Unavailable, error.message, error));
    socket.on('close', () => fail(ErrorCode.Unavailable, 'the connection was closed'));
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      noise += chunk.length;
      if (!open && (open = opening())) socket.write(requests);
      try {
        if (open && isDone(received)) {
          clearTimeout(timer);
          resolve();
          return;
        }
      } catch (error) {
        fail(ErrorCode.Unavailable, (error as Error).message, error);
      }
      if (noise > MAX_NOISE) fail(ErrorCode.Unavailable, 'says something else');
    });
    socket.write(preamble);
  });
}
