/**
 * Services and methods, apart from how calls arrive: ttrpc, gRPC and tests' in-memory transports all end here.
 *
 *   transport -> ttrpc/server or grpc/server -> Router.call -> handler
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Decoder, Encoder } from './codec.ts';
import type { CallContext, Peer } from './context.ts';

/** One request, one response. */
export interface UnaryMethod<P, Request, Response> {
  service: string;
  method: string;
  request: Decoder<Request>;
  response: Encoder<Response>;
  handler(ctx: CallContext<P>, request: Request): Promise<Response> | Response;
}

/** A handler's end of a stream: iterate to receive; ends when the caller closed its side. */
export interface ServerStream<In, Out> extends AsyncIterable<In> {
  /** Resolves when the transport takes more. Rejects once the stream is over. */
  send(message: Out): Promise<void>;
}
export type ByteStream = ServerStream<Uint8Array, Uint8Array>;

/** Messages both ways; the stream ends when the handler's promise does. */
export interface StreamMethod<P, In, Out> {
  service: string;
  method: string;
  request: Decoder<In>;
  response: Encoder<Out>;
  handler(ctx: CallContext<P>, stream: ServerStream<In, Out>): Promise<void>;
}

type UnaryRoute<P> = (ctx: CallContext<P>, payload: Uint8Array) => Promise<Uint8Array>;
type StreamRoute<P> = (ctx: CallContext<P>, stream: ByteStream) => Promise<void>;

export type Route<P> = { service: string; method: string } & (
  { kind: 'unary'; call: UnaryRoute<P> } | { kind: 'stream'; call: StreamRoute<P> }
);

export class Router<P = Peer> {
  readonly #services = new Map<string, Map<string, Route<P>>>();

  /** Adds a method. A second one of the same name is a mistake in the program: throws. */
  register<Request, Response>(spec: UnaryMethod<P, Request, Response>): void {
    const { service, method } = spec;
    this.#add({ kind: 'unary', service, method, call: (ctx, payload) => callUnary(spec, ctx, payload) });
  }

  registerStream<In, Out>(spec: StreamMethod<P, In, Out>): void {
    const { service, method } = spec;
    this.#add({
      kind: 'stream',
      service,
      method,
      call: (ctx, stream) => spec.handler(ctx, typed(spec, stream)),
    });
  }

  /** The route of a call. Errors: Unimplemented, naming what is unknown. */
  route(service: string, method: string): Route<P> {
    const methods = this.#services.get(service);
    const found = methods?.get(method);
    if (found !== undefined) return found;
    const object = methods === undefined ? `service ${service}` : `method ${service}/${method}`;
    throw new RuntimeError({ code: ErrorCode.Unimplemented, op: 'call', object, reason: 'not implemented' });
  }

  /** Every route, for transports that must announce them beforehand. */
  *routes(): IterableIterator<Route<P>> {
    for (const methods of this.#services.values()) yield* methods.values();
  }

  #add(route: Route<P>): void {
    let methods = this.#services.get(route.service);
    if (methods === undefined) {
      methods = new Map<string, Route<P>>();
      this.#services.set(route.service, methods);
    }
    if (methods.has(route.method))
      throw new Error(`register ${route.service}/${route.method}: already registered`);
    methods.set(route.method, route);
  }
}

async function callUnary<P, Request, Response>(
  spec: UnaryMethod<P, Request, Response>,
  ctx: CallContext<P>,
  payload: Uint8Array,
): Promise<Uint8Array> {
  const request = decode(spec, payload);
  return spec.response.encode(await spec.handler(ctx, request)).finish();
}

function decode<T>(spec: { method: string; request: Decoder<T> }, payload: Uint8Array): T {
  try {
    return spec.request.decode(payload);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: spec.method,
      object: 'request',
      reason,
      cause,
    });
  }
}

function typed<P, In, Out>(spec: StreamMethod<P, In, Out>, stream: ByteStream): ServerStream<In, Out> {
  return {
    send: (message) => stream.send(spec.response.encode(message).finish()),
    async *[Symbol.asyncIterator]() {
      for await (const payload of stream) yield decode(spec, payload);
    },
  };
}
