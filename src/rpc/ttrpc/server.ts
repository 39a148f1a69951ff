/**
 * ttrpc server of one connection.
 *
 *   Request(flags 0)            -> Response                       unary
 *   Request(RO|RC) Data* Data(RC) -> Data* then Data(RC, no data)   stream; an error ends it by a Response
 *
 * A bad frame is answered on its own stream; the connection lives on. Frame types that the protocol does not define
 * yet are passed over, as containerd's server does.
 */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { ttrpc } from '../../gen/containerd.js';
import { metadataOf, noMetadata } from '../codec.ts';
import { CallContext, type Peer } from '../context.ts';
import type { ByteStream, Route, Router } from '../router.ts';
import { statusOf } from '../status.ts';
import type { Transport } from '../transport.ts';
import {
  encodeFrame,
  FLAG_NO_DATA,
  FLAG_REMOTE_CLOSED,
  FLAG_REMOTE_OPEN,
  type Frame,
  FrameDecoder,
  FrameType,
  MAX_PAYLOAD,
} from './frame.ts';
import { IncomingMessages } from './stream.ts';

/** containerd keeps one Wait for each process open; a connection that goes past this is out of control. */
const MAX_CALLS = 16384;

const NO_BYTES = new Uint8Array(0);

export interface TtrpcConnection {
  /** Calls that are not answered yet. */
  readonly activeCalls: number;
  /** Cancels them and closes the transport. */
  close(): void;
}

/** Serves `router` on a connection. Every call's context carries `peer`. */
export function serveTtrpc<P extends Peer>(
  router: Router<P>,
  transport: Transport,
  peer: P,
): TtrpcConnection {
  return new ServerConnection(router, transport, peer);
}

interface Call<P> {
  stream: number;
  ctx: CallContext<P>;
  incoming: IncomingMessages | undefined;
}

class ServerConnection<P extends Peer> implements TtrpcConnection {
  readonly #router: Router<P>;
  readonly #transport: Transport;
  readonly #peer: P;
  readonly #calls = new Map<number, Call<P>>();
  #lastStream = 0;
  #closed = false;

  constructor(router: Router<P>, transport: Transport, peer: P) {
    this.#router = router;
    this.#transport = transport;
    this.#peer = peer;
    const decoder = new FrameDecoder({
      frame: (frame) => this.#frame(frame),
      oversize: ({ stream, type, length }) => this.#oversize(stream, type, length),
    });
    transport.onClose(() => this.#abandon());
    transport.onData((chunk) => decoder.push(chunk));
  }

  get activeCalls(): number {
    return this.#calls.size;
  }

  close(): void {
    this.#abandon();
    this.#transport.close();
  }

  #abandon(): void {
    if (this.#closed) return;
    this.#closed = true;
    const reason = new RuntimeError({ code: ErrorCode.Canceled, op: 'call', reason: 'connection closed' });
    for (const call of this.#calls.values()) {
      call.incoming?.fail(reason);
      call.ctx.cancel(reason);
    }
    this.#calls.clear();
  }

  #frame(frame: Frame): void {
    if (this.#closed) return;
    try {
      if (frame.stream % 2 === 0) throw invalid(`stream ${frame.stream} is even: clients open odd ones`);
      if (frame.type === FrameType.Request) this.#request(frame);
      else if (frame.type === FrameType.Data) this.#data(frame);
    } catch (error) {
      this.#answerError(frame.stream, error);
    }
  }

  #oversize(stream: number, type: number, length: number): void {
    if (this.#closed) return;
    const reason = `frame of ${length} bytes: at most ${MAX_PAYLOAD} are taken`;
    const error = new RuntimeError({ code: ErrorCode.ResourceExhausted, op: 'receive', reason });
    if (type === FrameType.Request && stream > this.#lastStream) this.#lastStream = stream;
    this.#calls.get(stream)?.incoming?.fail(error);
    this.#answerError(stream, error);
  }

  #request(frame: Frame): void {
    const { stream, flags } = frame;
    if (stream <= this.#lastStream)
      throw invalid(`stream ${stream} was used: the last is ${this.#lastStream}`);
    this.#lastStream = stream;
    if (this.#calls.size >= MAX_CALLS) {
      const reason = `${MAX_CALLS} calls are open on this connection`;
      throw new RuntimeError({ code: ErrorCode.ResourceExhausted, op: 'receive', reason });
    }
    const request = decodeRequest(frame.payload);
    const route = this.#router.route(request.service, request.method);
    const ctx = this.#context(stream, request);
    if (route.kind === 'unary') this.#callUnary(stream, flags, route, ctx, request.payload);
    else this.#callStream(stream, flags, route, ctx, request.payload);
  }

  #context(stream: number, request: ttrpc.Request): CallContext<P> {
    const { service, method } = request;
    const metadata =
      request.metadata.length === 0
        ? noMetadata
        : metadataOf(request.metadata.map(({ key, value }) => [key ?? '', value ?? ''] as const));
    // Zero: no limit. Below zero: the caller's deadline passed on the way.
    const timeoutMs =
      request.timeoutNano === 0 ? undefined : Math.max(0, Math.ceil(request.timeoutNano / 1e6));
    return new CallContext({ service, method, metadata, peer: this.#peer, timeoutMs }, (reason) => {
      // The handler is told by the signal. The caller has its answer now, even if the handler never ends.
      this.#calls.get(stream)?.incoming?.fail(reason);
      this.#answerError(stream, reason);
    });
  }

  #callUnary(
    stream: number,
    flags: number,
    route: Route<P> & { kind: 'unary' },
    ctx: CallContext<P>,
    payload: Uint8Array,
  ): void {
    if ((flags & FLAG_REMOTE_OPEN) !== 0) {
      ctx.finish();
      throw invalid(`${route.service}/${route.method} takes one request, not a stream`);
    }
    const call: Call<P> = { stream, ctx, incoming: undefined };
    this.#calls.set(stream, call);
    route.call(ctx, payload).then(
      (response) => this.#answer(call, response),
      (error: unknown) => this.#fail(call, error),
    );
  }

  #callStream(
    stream: number,
    flags: number,
    route: Route<P> & { kind: 'stream' },
    ctx: CallContext<P>,
    payload: Uint8Array,
  ): void {
    const incoming = new IncomingMessages();
    const call: Call<P> = { stream, ctx, incoming };
    this.#calls.set(stream, call);
    if (payload.length > 0) incoming.push(payload);
    if ((flags & FLAG_REMOTE_OPEN) === 0) incoming.end();
    route.call(ctx, this.#byteStream(call, incoming)).then(
      () => this.#endStream(call),
      (error: unknown) => this.#fail(call, error),
    );
  }

  #byteStream(call: Call<P>, incoming: IncomingMessages): ByteStream {
    return {
      send: async (payload) => {
        if (!this.#isOpen(call)) throw closedStream(call.stream);
        if (payload.length > MAX_PAYLOAD) throw tooLong(payload.length);
        this.#transport.send(encodeFrame(call.stream, FrameType.Data, 0, payload));
        await this.#transport.blocked?.();
      },
      [Symbol.asyncIterator]: () => incoming[Symbol.asyncIterator](),
    };
  }

  #data(frame: Frame): void {
    const call = this.#calls.get(frame.stream);
    if (call === undefined) throw invalid(`stream ${frame.stream} is not open`);
    const { incoming } = call;
    if (incoming === undefined) throw invalid(`stream ${frame.stream} takes no data`);
    if (incoming.ended) throw invalid(`stream ${frame.stream} was closed by its caller`);
    if ((frame.flags & FLAG_NO_DATA) === 0) incoming.push(frame.payload);
    if ((frame.flags & FLAG_REMOTE_CLOSED) !== 0) incoming.end();
  }

  #isOpen(call: Call<P>): boolean {
    return this.#calls.get(call.stream) === call;
  }

  /** True when the call was still open: only then may it be answered. */
  #finish(call: Call<P>): boolean {
    if (!this.#isOpen(call)) return false;
    this.#calls.delete(call.stream);
    call.ctx.finish();
    return true;
  }

  #answer(call: Call<P>, payload: Uint8Array): void {
    if (!this.#finish(call)) return;
    const response = ttrpc.Response.encode({ payload }).finish();
    if (response.length > MAX_PAYLOAD) this.#answerError(call.stream, tooLong(response.length));
    else this.#transport.send(encodeFrame(call.stream, FrameType.Response, 0, response));
  }

  #endStream(call: Call<P>): void {
    if (!this.#finish(call)) return;
    this.#transport.send(
      encodeFrame(call.stream, FrameType.Data, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, NO_BYTES),
    );
  }

  #fail(call: Call<P>, error: unknown): void {
    if (this.#isOpen(call)) this.#answerError(call.stream, error);
  }

  /** Ends the stream, if it is open, with an error. */
  #answerError(stream: number, error: unknown): void {
    const call = this.#calls.get(stream);
    if (call !== undefined) this.#finish(call);
    if (this.#closed) return;
    const { code, message } = statusOf(error);
    const payload = ttrpc.Response.encode({ status: { code, message: clip(message) } }).finish();
    this.#transport.send(encodeFrame(stream, FrameType.Response, 0, payload));
  }
}

function decodeRequest(payload: Uint8Array): ttrpc.Request {
  try {
    return ttrpc.Request.decode(payload);
  } catch (cause) {
    throw invalid(`request: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
}

/** A message built from the workload's input can be of any length; a frame cannot. */
const MAX_MESSAGE = 64 << 10;
const clip = (message: string): string =>
  message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}…` : message;

const invalid = (reason: string): RuntimeError =>
  new RuntimeError({ code: ErrorCode.InvalidArgument, op: 'receive', reason });

const tooLong = (length: number): RuntimeError =>
  new RuntimeError({
    code: ErrorCode.ResourceExhausted,
    op: 'answer',
    reason: `message of ${length} bytes: at most ${MAX_PAYLOAD} can be sent`,
  });

const closedStream = (stream: number): RuntimeError =>
  new RuntimeError({ code: ErrorCode.Canceled, op: 'send', reason: `stream ${stream} is closed` });
