/** Calls to the agent of a guest (proto/agent.proto), as functions; failures as the sentence that a user reads. */
import { randomBytes } from 'node:crypto';
import { errnoName, errnoText } from '../../base/errno.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { cut } from '../../base/text.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import { GuestError, type Guests } from '../executor.ts';
import { withPause } from './kills.ts';
import { GUEST } from './layout.ts';

const { Call, CallReply, Event } = bulkhead.agent.v1;
type ICall = bulkhead.agent.v1.ICall;
type CallReply = bulkhead.agent.v1.CallReply;
type IFileWrite = bulkhead.agent.v1.IFileWrite;
type IMount = bulkhead.agent.v1.IMount;
type IDevice = bulkhead.agent.v1.IDevice;
type IDeviceMatch = bulkhead.agent.v1.IDeviceMatch;

const ENTROPY_BYTES = 256;

const codes: Readonly<Record<string, ErrorCode>> = {
  ENOENT: ErrorCode.NotFound,
  EINVAL: ErrorCode.InvalidArgument,
  ETIMEDOUT: ErrorCode.DeadlineExceeded,
  ENOTCONN: ErrorCode.Unavailable,
  ECONNRESET: ErrorCode.Unavailable,
  ENOSPC: ErrorCode.ResourceExhausted,
};

export class GuestAgent {
  readonly #guests: Guests;
  readonly #onGarbage: (what: string) => void;

  /** @param onGarbage told when the agent says what no agent says: nothing in its guest can be relied on any more */
  constructor(guests: Guests, onGarbage: (what: string) => void = () => {}) {
    this.#guests = guests;
    this.#onGarbage = onGarbage;
  }

  /** Makes this guest this guest: its name, clock, random numbers and machine id. */
  async setup(id: string, hostname: string): Promise<void> {
    await this.call('create', id, {
      setup: {
        hostname,
        clockRealtimeNs: Date.now() * 1e6,
        entropy: randomBytes(ENTROPY_BYTES),
        machineId: randomBytes(16).toString('hex'),
      },
    });
  }

  async mount(id: string, mount: IMount): Promise<void> {
    await this.call('create', id, { mount });
  }

  async unmount(id: string, target: string): Promise<void> {
    await this.call('delete', id, { unmount: { target, detach: true } });
  }

  async waitDevice(id: string, device: IDeviceMatch): Promise<IDevice> {
    const reply = await this.call('create', id, { waitDevice: { device } });
    return reply.device ?? {};
  }

  /** Text by path; a file that cannot be read is left out. A directory's text are the names in it. */
  async readFiles(op: string, id: string, paths: readonly string[]): Promise<Map<string, string>> {
    const { files } = await this.call(op, id, { readFiles: { paths: [...paths] } });
    const found = (files ?? []).filter(({ errno }) => (errno ?? 0) === 0);
    return new Map(found.map(({ path, data }) => [path ?? '', Buffer.from(data ?? []).toString('latin1')]));
  }

  /** Each in one write(2), in order. */
  async writeFiles(op: string, id: string, files: readonly IFileWrite[]): Promise<void> {
    await this.call(op, id, { writeFiles: { files: [...files] } });
  }

  async awaitFile(op: string, id: string, path: string, line: string): Promise<void> {
    await this.call(op, id, { awaitFile: { path, line } });
  }

  async remove(id: string, paths: readonly string[]): Promise<void> {
    await this.call('delete', id, { remove: { paths: [...paths] } });
  }

  /** Calls back whenever the memory limit of the cgroup has killed; returns what ends the interest. */
  watchOom(id: string, cgroup: string, onOom: () => void): () => void {
    const told = withPause(onOom);
    const forget = this.#guests.onEvent((guest, bytes) => {
      if (guest === GUEST && this.#event(bytes)?.oom?.cgroup === cgroup) told();
    });
    // A guest that is gone kills nobody any more.
    this.call('watch', id, { watchOom: { cgroup } }).catch(() => {});
    return forget;
  }

  /** @throws RuntimeError with the agent's own words, or those of its channel; Internal for what is no reply */
  async call(op: string, id: string, call: ICall, deadlineMs?: number): Promise<CallReply> {
    let bytes: Uint8Array;
    try {
      bytes = await this.#guests.call(GUEST, Call.encode(call).finish(), deadlineMs);
    } catch (error) {
      throw error instanceof GuestError ? callError(op, id, error) : error;
    }
    try {
      return CallReply.decode(bytes);
    } catch (error) {
      throw this.refuse(op, id, Object.keys(call).join(), 'answers with what is no reply', error);
    }
  }

  /**
   * The error of an answer that cannot be one, of which the wall is told.
   * @param what was asked for
   */
  refuse(op: string, id: string, what: string, reason: string, cause?: unknown): RuntimeError {
    this.#onGarbage(`its agent ${reason}`);
    return new RuntimeError({ code: ErrorCode.Internal, op, id, object: `guest ${what}`, reason, cause });
  }

  #event(bytes: Uint8Array): bulkhead.agent.v1.Event | undefined {
    try {
      return Event.decode(bytes);
    } catch {
      this.#onGarbage('its agent tells of what is no event');
      return undefined;
    }
  }
}

/** Characters of what a guest says in a message. */
const MAX_WORD = 64;
const MAX_PATH = 300;

/** What the agent says of a failure; undefined: nothing that could be read. */
export function failureOf({ reply }: GuestError): { op: string; path: string; errno: number } | undefined {
  if (reply.length === 0) return undefined;
  try {
    const { op, path, errno } = CallReply.decode(reply).failure ?? {};
    return { op: cut(op ?? '', MAX_WORD), path: cut(path ?? '', MAX_PATH), errno: errno ?? 0 };
  } catch {
    return undefined;
  }
}

function callError(op: string, id: string, error: GuestError): RuntimeError {
  const failure = failureOf(error);
  const { op: what, path } = failure ?? { op: error.what, path: '' };
  const errno = failure === undefined || failure.errno === 0 ? error.errno : failure.errno;
  return new RuntimeError({
    code: codes[errnoName(errno)] ?? ErrorCode.Unknown,
    op,
    id,
    object: ['guest', what, path].filter((word) => word !== '').join(' '),
    reason: errnoText(errno),
    path: path || undefined,
    errno: errnoName(errno),
    cause: error,
  });
}
