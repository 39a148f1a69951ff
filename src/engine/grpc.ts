/** gRPC over relayed connections, loaded when the first one comes: it costs an engine 60 ms and 4 MB. */
import type { Duplex } from 'node:stream';
import { serveGrpc } from '../rpc/index.ts';
import type { GrpcServer } from '../rpc/index.ts';
import type { Router } from '../rpc/router.ts';
import type { TaskPeer } from './bind.ts';

/** Takes a byte stream that begins with HTTP/2's preface and serves the router's methods on it for `peer`. */
export function grpcAcceptor(router: Router<TaskPeer>): (stream: Duplex, peer: TaskPeer) => Promise<void> {
  const servers = new WeakMap<TaskPeer, Promise<GrpcServer>>();
  return async (stream, peer) => {
    let server = servers.get(peer);
    if (server === undefined) servers.set(peer, (server = serveGrpc(router, peer)));
    (await server).accept(stream);
  };
}
