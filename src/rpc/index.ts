/**
 * Calls from containerd, whichever way they come.
 *
 *   const router = new Router<MonitorPeer>();
 *   router.register({ service, method, request, response, handler });
 *   serveTtrpc(router, transport, peer);             // one connection
 *   const grpc = await serveGrpc(router, peer);      // many: grpc.accept(duplex)
 */
import type { Peer } from './context.ts';
import type { GrpcServer } from './grpc/server.ts';
import type { Router } from './router.ts';

export type { Decoder, Encoder, Metadata } from './codec.ts';
export { CallContext, type CallDetails, type Peer } from './context.ts';
export { Router, type ServerStream, type StreamMethod, type UnaryMethod } from './router.ts';
export { errorOf, type Status, statusOf } from './status.ts';
export { streamTransport, type Transport } from './transport.ts';
export { type CallOptions, connectTtrpc, TtrpcClient } from './ttrpc/client.ts';
export { serveTtrpc, type TtrpcConnection } from './ttrpc/server.ts';
export type { GrpcServer } from './grpc/server.ts';

/** A gRPC server for `router`. Loads @grpc/grpc-js the first time. */
export async function serveGrpc<P extends Peer>(router: Router<P>, peer: P): Promise<GrpcServer> {
  const { createGrpcServer } = await import('./grpc/server.ts');
  return createGrpcServer(router, peer);
}
