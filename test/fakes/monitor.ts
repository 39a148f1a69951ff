/**
 * A scripted monitor: speaks the executor protocol to a real engine server over a unix socket, and relays a ttrpc
 * client of the tests as it would relay containerd.
 */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { frame, readMessages } from '../../src/base/frames.ts';
import { bulkhead } from '../../src/gen/bulkhead.js';
import type { Transport } from '../../src/rpc/transport.ts';

const { ToEngine, ToMonitor, StreamProtocol } = bulkhead.executor.v1;
type IToEngine = bulkhead.executor.v1.IToEngine;
type ToMonitorMessage = bulkhead.executor.v1.ToMonitor;
type IHello = bulkhead.executor.v1.IHello;

export class FakeMonitor {
  /** Everything the engine sent, but relayed data. */
  readonly received: ToMonitorMessage[] = [];
  /** Called for every message; default: launches succeed and wait at "start" (inits) or run (execs). */
  onMessage: (message: ToMonitorMessage) => void = (message) => this.#answer(message);
  closed = false;
  readonly #socket: Socket;
  readonly #receivers = new Map<number, (data: Uint8Array) => void>();
  #nextConn = 1;
  #nextPid = 5000;
  readonly pids = new Map<string, number>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('close', () => (this.closed = true));
    readMessages(
      socket,
      (bytes) => {
        const message = ToMonitor.decode(bytes);
        if (message.streamData)
          this.#receivers.get(message.streamData.conn ?? 0)?.(message.streamData.data ?? new Uint8Array());
        else {
          this.received.push(message);
          this.onMessage(message);
        }
      },
      () => {},
    );
  }

  static connect(path: string, hello: IHello | undefined): Promise<FakeMonitor> {
    return new Promise((resolve, reject) => {
      const socket = connect(path, () => {
        const monitor = new FakeMonitor(socket);
        if (hello !== undefined) monitor.send({ hello });
        resolve(monitor);
      });
      socket.once('error', reject);
    });
  }

  send(message: IToEngine): void {
    this.#socket.write(frame(ToEngine.encode(message).finish()));
  }

  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** A relayed ttrpc connection, as containerd's end sees it. */
  open(): Transport {
    const conn = this.#nextConn++;
    this.send({ streamOpen: { conn, protocol: StreamProtocol.STREAM_PROTOCOL_TTRPC } });
    return {
      send: (data) => this.send({ streamData: { conn, data } }),
      onData: (callback) => this.#receivers.set(conn, callback),
      onClose: () => {},
      close: () => this.send({ streamClose: { conn } }),
    };
  }

  exit(key: string, waitStatus: number): void {
    this.send({
      exited: { key, pid: this.pids.get(key) ?? 0, waitStatus, exitedAtNs: 1_700_000_000_000_000_000 },
    });
  }

  /** The machine loses the monitor, or the test is over. */
  close(): void {
    this.#socket.destroy();
  }

  #answer({ launch, continue: proceed, signal, resize, closeStdin, forget }: ToMonitorMessage): void {
    if (launch) {
      const key = launch.key ?? '';
      const pid = this.#nextPid++;
      this.pids.set(key, pid);
      this.send({
        launched: { request: launch.request, key, pid, pausedAt: key.includes('/') ? '' : 'start' },
      });
    }
    if (proceed)
      this.send({
        started: { request: proceed.request, key: proceed.key, pid: this.pids.get(proceed.key ?? '') ?? 0 },
      });
    const simple = signal ?? resize ?? closeStdin ?? forget;
    if (simple) this.send({ reply: { request: simple.request, errno: 0 } });
    if (signal?.signal === 9) this.exit(signal.key ?? '', 9);
  }
}
