/**
 * The same router over gRPC, for containerd 1.7. @grpc/grpc-js is large (76 ms to load): only `import()` this module.
 * Connections come as byte streams; grpc-js never sees a socket.
 */
import type { Duplex } from 'node:stream';
import * as grpc from '@grpc/grpc-js';
import { CallContext, type Peer } from '../context.ts';
import { metadataOf, type Metadata } from '../codec.ts';
import type { Route, Router } from '../router.ts';
import { statusOf } from '../status.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';

export interface GrpcServer {
  /** Serves one connection: the bytes of HTTP/2, from the client's preface on. */
  accept(connection: Duplex): void;
  /** Ends every connection. */
  close(): void;
}

/** Largest message, as ttrpc has it; containerd's gRPC clients send up to 16 MiB. */
const MAX_MESSAGE = 16 << 20;

/** Serves `router`. Routes registered later are not seen. Every call's context carries `peer`. */
export function createGrpcServer<P extends Peer>(router: Router<P>, peer: P): GrpcServer {
  const server = new grpc.Server({
    'grpc.max_receive_message_length': MAX_MESSAGE,
    'grpc.max_send_message_length': MAX_MESSAGE,
    // Its registry is global and would keep the server of every monitor that ever was.
    'grpc.enable_channelz': 0,
  });
  for (const [service, definition] of Object.entries(definitions(router))) {
    const handlers: grpc.UntypedServiceImplementation = {};
    for (const route of router.routes())
      if (route.service === service) handlers[route.method] = handle(route, peer);
    server.addService(definition, handlers);
  }
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  return {
    accept: (connection) => injector.injectConnection(connection),
    close() {
      injector.destroy();
      server.forceShutdown();
    },
  };
}

const bytes = (buffer: Buffer): Buffer => buffer;

function definitions<P>(router: Router<P>): Record<string, grpc.ServiceDefinition> {
  const services: Record<string, Record<string, grpc.MethodDefinition<Buffer, Buffer>>> = {};
  for (const { service, method, kind } of router.routes()) {
    (services[service] ??= {})[method] = {
      path: `/${service}/${method}`,
      requestStream: kind === 'stream',
      responseStream: kind === 'stream',
      requestSerialize: bytes,
      requestDeserialize: bytes,
      responseSerialize: bytes,
      responseDeserialize: bytes,
    };
  }
  return services;
}

type ServerCall = grpc.ServerUnaryCall<Buffer, Buffer> | grpc.ServerDuplexStream<Buffer, Buffer>;

function handle<P extends Peer>(route: Route<P>, peer: P): grpc.UntypedHandleCall {
  if (route.kind === 'unary') {
    return (call: grpc.ServerUnaryCall<Buffer, Buffer>, answer: grpc.sendUnaryData<Buffer>) => {
      const ctx = contextOf(route, call, peer);
      route.call(ctx, call.request).then(
        (response) => (ctx.finish(), answer(null, asBuffer(response))),
        (error: unknown) => (ctx.finish(), answer(grpcError(error))),
      );
    };
  }
  return (call: grpc.ServerDuplexStream<Buffer, Buffer>) => {
    const ctx = contextOf(route, call, peer);
    // grpc-js leaves a cancelled stream as it is: whoever reads it would wait for ever.
    call.on('cancelled', () => call.destroy());
    const stream = {
      send: async (payload: Uint8Array) => {
        if (call.cancelled) throw cancelled(route.method);
        if (!call.write(asBuffer(payload))) await writable(call);
      },
      [Symbol.asyncIterator]: () => call.iterator({ destroyOnReturn: false }) as AsyncIterator<Uint8Array>,
    };
    route.call(ctx, stream).then(
      () => (ctx.finish(), call.end()),
      (error: unknown) => (ctx.finish(), call.emit('error', grpcError(error))),
    );
  };
}

function writable(call: grpc.ServerDuplexStream<Buffer, Buffer>): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      call.off('drain', done).off('close', done);
      resolve();
    };
    call.on('drain', done).on('close', done);
  });
}

function contextOf<P extends Peer>(route: Route<P>, call: ServerCall, peer: P): CallContext<P> {
  const deadline = call.getDeadline();
  const at = deadline instanceof Date ? deadline.getTime() : deadline;
  const timeoutMs = Number.isFinite(at) ? Math.max(0, at - Date.now()) : undefined;
  const { service, method } = route;
  const ctx = new CallContext<P>({ service, method, metadata: metadataFrom(call.metadata), peer, timeoutMs });
  call.on('cancelled', () => ctx.cancel(cancelled(method)));
  return ctx;
}

/** Text headers only; names that end in -bin carry bytes, and containerd sends none. */
function metadataFrom(metadata: grpc.Metadata): Metadata {
  const pairs = Object.keys(metadata.getMap()).flatMap((key) =>
    metadata.get(key).flatMap((value) => (typeof value === 'string' ? [[key, value] as const] : [])),
  );
  return metadataOf(pairs);
}

function asBuffer(payload: Uint8Array): Buffer {
  return Buffer.isBuffer(payload) ? payload : Buffer.from(payload.buffer, payload.byteOffset, payload.length);
}

function grpcError(error: unknown): Partial<grpc.StatusObject> & Error {
  const { code, message } = statusOf(error);
  return Object.assign(new Error(message), { code, details: message });
}

const cancelled = (method: string): RuntimeError =>
  new RuntimeError({ code: ErrorCode.Canceled, op: method, reason: 'cancelled by the caller' });
