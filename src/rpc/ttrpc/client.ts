/** ttrpc client for unary calls: publishes events to containerd, and drives the shim in tests. */
import { connect } from 'node:net';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { ttrpc } from '../../gen/containerd.js';
import { errorOf } from '../status.ts';
import { streamTransport, type Transport } from '../transport.ts';
import { encodeFrame, FrameDecoder, FrameType, MAX_PAYLOAD } from './frame.ts';

export interface CallOptions {
  timeoutMs?: number | undefined;
  metadata?: Readonly<Record<string, string>> | undefined;
}

interface Pending {
  op: string;
  resolve(payload: Uint8Array): void;
  reject(error: RuntimeError): void;
  timer: NodeJS.Timeout | undefined;
}

/** The highest odd stream id. The protocol cannot reuse one, so the connection has to be made anew. */
const LAST_STREAM = 0xffffffff;

export class TtrpcClient {
  readonly #transport: Transport;
  readonly #pending = new Map<number, Pending>();
  #nextStream = 1;
  #closed: RuntimeError | undefined;

  constructor(transport: Transport) {
    this.#transport = transport;
    const decoder = new FrameDecoder({
      frame: ({ stream, type, payload }) => {
        if (type === FrameType.Response) this.#response(stream, payload);
      },
      oversize: ({ stream, length }) => {
        const reason = `response of ${length} bytes: at most ${MAX_PAYLOAD} are taken`;
        this.#settle(stream)?.reject(failure(ErrorCode.ResourceExhausted, 'receive', reason));
      },
    });
    transport.onClose((error) => this.#lose(error?.message ?? 'connection closed'));
    transport.onData((chunk) => decoder.push(chunk));
  }

  /** False once the connection is gone: every call would fail. */
  get open(): boolean {
    return this.#closed === undefined;
  }

  /**
   * Calls a method and gives the response's payload.
   * Errors: what the server answered; DeadlineExceeded after `timeoutMs`; Unavailable when the connection is lost.
   */
  call(service: string, method: string, payload: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    const op = `${service}/${method}`;
    const { timeoutMs } = options;
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) return reject(this.#closed);
      const metadata = Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value }));
      const timeoutNano = timeoutMs === undefined ? 0 : Math.round(timeoutMs * 1e6);
      const request = ttrpc.Request.encode({ service, method, payload, metadata, timeoutNano }).finish();
      if (request.length > MAX_PAYLOAD) {
        return reject(
          failure(ErrorCode.ResourceExhausted, op, `request of ${request.length} bytes is too long`),
        );
      }
      const stream = this.#nextStream;
      this.#nextStream += 2;
      if (stream > LAST_STREAM) return reject(failure(ErrorCode.Unavailable, op, 'stream ids are used up'));
      const late = (): void => {
        this.#settle(stream)?.reject(
          failure(ErrorCode.DeadlineExceeded, op, `no answer within ${timeoutMs} ms`),
        );
      };
      const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs);
      this.#pending.set(stream, { op, resolve, reject, timer });
      this.#transport.send(encodeFrame(stream, FrameType.Request, 0, request));
    });
  }

  close(): void {
    this.#lose('closed by us');
    this.#transport.close();
  }

  #settle(stream: number): Pending | undefined {
    const pending = this.#pending.get(stream);
    this.#pending.delete(stream);
    clearTimeout(pending?.timer);
    return pending;
  }

  #response(stream: number, payload: Uint8Array): void {
    const pending = this.#settle(stream);
    if (pending === undefined) return;
    try {
      const { status, payload: result } = ttrpc.Response.decode(payload);
      if (status?.code)
        pending.reject(errorOf({ code: status.code, message: status.message ?? '' }, pending.op));
      else pending.resolve(result);
    } catch (error) {
      pending.reject(failure(ErrorCode.Internal, pending.op, `response: ${(error as Error).message}`));
    }
  }

  #lose(reason: string): void {
    this.#closed ??= failure(ErrorCode.Unavailable, 'call', reason);
    for (const stream of [...this.#pending.keys()]) {
      const pending = this.#settle(stream);
      pending?.reject(failure(ErrorCode.Unavailable, pending.op, reason));
    }
  }
}

/**
 * Connects to a ttrpc server. address: a socket's path, also as `unix:///path`.
 * Errors: Unavailable when nobody listens there; InvalidArgument for an abstract or remote address.
 */
export function connectTtrpc(address: string, timeoutMs = 5000): Promise<TtrpcClient> {
  const path = address.startsWith('unix://') ? address.slice('unix://'.length) : address;
  const op = `connect ${address}`;
  if (!path.startsWith('/')) {
    return Promise.reject(failure(ErrorCode.InvalidArgument, op, 'not the path of a unix socket'));
  }
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    const timer = setTimeout(
      () => socket.destroy(new Error(`not connected within ${timeoutMs} ms`)),
      timeoutMs,
    );
    const failed = (error: Error): void => {
      clearTimeout(timer);
      reject(failure(ErrorCode.Unavailable, op, error.message));
    };
    socket.once('error', failed);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', failed);
      resolve(new TtrpcClient(streamTransport(socket)));
    });
  });
}

function failure(code: ErrorCode, op: string, reason: string): RuntimeError {
  return new RuntimeError({ code, op, reason });
}
