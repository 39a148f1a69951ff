/**
 * The engine's socket: monitors (for as long as their pod lives), launchers (one question each) and who runs something
 * in a guest connect here. The first message says which.
 */
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import type { Logger } from '../base/log.ts';
import { bulkhead } from '../gen/bulkhead.js';
import { frame, readMessages } from '../base/frames.ts';
import { GuestExec, type RunInGuest } from './guest_exec.ts';
import { LateMonitors } from './late_monitors.ts';
import { MonitorSession, PROTOCOL } from './monitor_session.ts';
import type { SessionDeps } from './monitor_session.ts';
import { answerShim } from './shim_actions.ts';
import type { ShimActionDeps } from './shim_actions.ts';

const { ToEngine, ToMonitor } = bulkhead.executor.v1;

export interface EngineServerOptions {
  session: Omit<SessionDeps, 'isHeld'>;
  shim: Omit<ShimActionDeps, 'sessionFor' | 'deletedUnseen'>;
  /** For `bulkhead guest exec`. */
  runInGuest: RunInGuest;
  log: Logger;
  /** 0: stay for ever. */
  idleTimeoutMs: number;
  onIdle: () => void;
  /** A monitor that has neither containers nor connections is of no use to anybody; it is ended after this long. */
  abandonedMs: number;
}

export class EngineServer {
  readonly #o: EngineServerOptions;
  readonly #server: Server;
  readonly #sessions = new Set<MonitorSession>();
  readonly #sockets = new Set<Socket>();
  readonly #late = new LateMonitors();
  readonly #sweep: NodeJS.Timeout;
  #idleTimer: NodeJS.Timeout | undefined;
  #lastMessage = 0;

  constructor(options: EngineServerOptions) {
    this.#o = options;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#armIdle();
    this.#sweep = setInterval(() => this.#endAbandoned(), options.abandonedMs).unref();
  }

  /** Listens on a descriptor that a launcher bound (socket activation) or on a path. */
  listen(where: { fd: number } | { path: string }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(where, () => resolve());
    });
  }

  /** Stops listening and drops every connection; monitors and their containers live on. */
  close(): Promise<void> {
    clearInterval(this.#sweep);
    clearTimeout(this.#idleTimer);
    this.#o.idleTimeoutMs = 0;
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }

  /** Milliseconds since the last message of anybody. */
  quietMs(): number {
    return performance.now() - this.#lastMessage;
  }

  /** The session whose containers an id belongs to. */
  sessionOf(namespace: string, id: string): MonitorSession | undefined {
    for (const session of this.#sessions) {
      if (session.namespace !== namespace) continue;
      if (session.tasks.containers.has(id) || session.tasks.isCreating(id)) return session;
    }
    return undefined;
  }

  /** The same, or the one that was started for it and never asked to create it. */
  #sessionFor(namespace: string, id: string): MonitorSession | undefined {
    const startedFor = [...this.#sessions].find((one) => one.namespace === namespace && one.group === id);
    return this.sessionOf(namespace, id) ?? startedFor;
  }

  #accept(socket: Socket): void {
    let session: MonitorSession | undefined;
    let exec: GuestExec | undefined;
    const log = this.#o.log;
    clearTimeout(this.#idleTimer);
    this.#sockets.add(socket);
    socket.on('error', (error) => log.debug('connection failed', { error: error.message }));
    socket.on('close', () => {
      this.#sockets.delete(socket);
      if (session !== undefined) {
        this.#sessions.delete(session);
        session.closed();
      }
      exec?.abandon();
      this.#armIdle();
    });
    readMessages(
      socket,
      (bytes) => {
        this.#lastMessage = performance.now();
        const message = ToEngine.decode(bytes);
        if (session !== undefined) session.handle(message);
        else if (exec !== undefined) exec.input(message.guestExecInput ?? {});
        else if (message.guestExec) exec = this.#guestExec(socket, message.guestExec);
        else if (message.hello) session = this.#hello(socket, message.hello);
        else if (message.shimRequest) void this.#answer(socket, message.shimRequest);
        else socket.destroy();
      },
      (error) => log.warning('broken message', { error: error.message }),
    );
  }

  #hello(socket: Socket, hello: bulkhead.executor.v1.IHello): MonitorSession | undefined {
    if ((hello.protocolMin ?? 0) > PROTOCOL || (hello.protocolMax ?? 0) < PROTOCOL) {
      this.#o.log.error('monitor speaks another protocol', {
        min: hello.protocolMin ?? 0,
        max: hello.protocolMax ?? 0,
      });
      socket.destroy();
      return undefined;
    }
    const session = new MonitorSession(
      { ...this.#o.session, isHeld: (namespace, id) => this.sessionOf(namespace, id) !== undefined },
      socket,
      hello,
    );
    this.#sessions.add(session);
    if (this.#late.isLate(session.name, hello.monitorPid ?? 0)) {
      void session.ready.then(() => session.endWhenUnused());
    }
    // The create of its first container is a millisecond away, in which containerd connects.
    const { bundle, group, processes } = hello;
    if (bundle && processes?.length === 0)
      setImmediate(() => this.#o.session.ctx.parsedAhead?.parse(group ?? '', bundle));
    return session;
  }

  async #answer(socket: Socket, request: bulkhead.executor.v1.IShimRequest): Promise<void> {
    const deps = {
      ...this.#o.shim,
      sessionFor: (namespace: string, id: string) => this.#sessionFor(namespace, id),
      deletedUnseen: (namespace: string, id: string) => this.#late.deleted(`${namespace}/${id}`),
    };
    const reply = await answerShim(deps, request);
    socket.write(frame(ToMonitor.encode({ shimReply: reply }).finish()));
  }

  #guestExec(socket: Socket, request: bulkhead.executor.v1.IGuestExec): GuestExec {
    const session = [...this.#sessions].find(
      ({ namespace, group }) => namespace === request.namespace && group === request.group,
    );
    const exec = new GuestExec(session, request, this.#o.runInGuest);
    void exec.end().then((guestExecEnd) => socket.end(frame(ToMonitor.encode({ guestExecEnd }).finish())));
    return exec;
  }

  #armIdle(): void {
    clearTimeout(this.#idleTimer);
    if (this.#sessions.size > 0 || this.#o.idleTimeoutMs === 0) return;
    this.#idleTimer = setTimeout(() => {
      if (this.#sessions.size === 0) this.#o.onIdle();
    }, this.#o.idleTimeoutMs);
  }

  /** A start whose containerd died before it connected leaves a monitor behind; nobody would ever ask it to end. */
  #endAbandoned(): void {
    for (const session of this.#sessions) {
      const idle = session.tasks.isEmpty && session.connections === 0;
      if (idle && session.idleSince !== undefined && Date.now() - session.idleSince >= this.#o.abandonedMs) {
        session.send({ shutdown: {} });
      }
      session.idleSince = idle ? (session.idleSince ?? Date.now()) : undefined;
    }
  }
}
