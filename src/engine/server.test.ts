import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createLogger, silentLogger } from '../base/log.ts';
import { frame } from '../base/frames.ts';
import { bootTicks, processStartTime } from '../base/proc.ts';
import { bulkhead } from '../gen/bulkhead.js';
import { containerd, google } from '../gen/containerd.js';
import { Router } from '../rpc/router.ts';
import { TtrpcClient } from '../rpc/ttrpc/client.ts';
import { Status } from '../runtime/lifecycle.ts';
import { BackendRegistry } from '../sandbox/registry.ts';
import { StateStore } from '../state/index.ts';
import type { ContainerRecord } from '../state/index.ts';
import { bindTaskService } from './bind.ts';
import type { TaskPeer } from './bind.ts';
import { FakeBackend } from '../../test/fakes/backend.ts';
import { FakeMonitor } from '../../test/fakes/monitor.ts';
import { EngineServer } from './server.ts';

const { ToEngine } = bulkhead.executor.v1;

const t = containerd.task.v3;
const hello = {
  protocolMin: 1,
  protocolMax: 1,
  monitorPid: 42,
  wall: 'namespace',
  namespace: 'default',
  group: 'web',
};
const config = {
  ociVersion: '1.2.0',
  process: { user: { uid: 0, gid: 0 }, args: ['true'], cwd: '/' },
  root: { path: 'rootfs' },
  linux: {},
};

class Rig {
  readonly root = mkdtempSync(join(tmpdir(), 'bh-engine-'));
  readonly path = join(this.root, 'engine.sock');
  readonly store = new StateStore(join(this.root, 'state'));
  readonly backend = new FakeBackend();
  readonly events: string[] = [];
  /** Of sessions. */
  readonly log: string[] = [];
  readonly server: EngineServer;
  idle = 0;

  constructor(idleTimeoutMs = 0) {
    const backends = new BackendRegistry();
    backends.register(this.backend);
    const ctx = { store: this.store, backends, log: silentLogger, now: Date.now };
    const router = new Router<TaskPeer>();
    bindTaskService(router);
    this.server = new EngineServer({
      session: {
        ctx,
        router,
        acceptGrpc: () => Promise.reject(new Error('not in this test')),
        eventsFor: () => ({
          flush: () => Promise.resolve(),
          publish: (name, message) => {
            const { containerId, exitStatus } = message as { containerId: string; exitStatus?: number };
            this.events.push(`${name} ${containerId}${exitStatus === undefined ? '' : ` ${exitStatus}`}`);
          },
        }),
        log: createLogger((line) => void this.log.push(line)),
      },
      shim: { ctx, protocol: 'ttrpc', version: '0', features: () => ({ ociVersionMax: '1.3.0' }) },
      log: silentLogger,
      runInGuest: () => Promise.reject(new Error('no guests here')),
      idleTimeoutMs,
      abandonedMs: 60_000,
      onIdle: () => (this.idle += 1),
    });
  }

  bundle(id: string, annotations: Record<string, string> = {}): string {
    const bundle = join(this.root, id);
    mkdirSync(bundle, { recursive: true });
    writeFileSync(join(bundle, 'config.json'), JSON.stringify({ ...config, annotations }));
    return bundle;
  }

  async close(): Promise<void> {
    await this.server.close();
    rmSync(this.root, { recursive: true, force: true });
  }
}

class Task {
  readonly #client: TtrpcClient;
  constructor(monitor: FakeMonitor) {
    this.#client = new TtrpcClient(monitor.open());
  }
  async call<Request, Response>(
    method: string,
    request: { encode(message: Request): { finish(): Uint8Array } },
    response: { decode(bytes: Uint8Array): Response },
    message: Request,
  ): Promise<Response> {
    return response.decode(
      await this.#client.call('containerd.task.v2.Task', method, request.encode(message).finish()),
    );
  }
  create(id: string, bundle: string): Promise<containerd.task.v3.CreateTaskResponse> {
    return this.call('Create', t.CreateTaskRequest, t.CreateTaskResponse, { id, bundle });
  }
  start(id: string): Promise<containerd.task.v3.StartResponse> {
    return this.call('Start', t.StartRequest, t.StartResponse, { id });
  }
  wait(id: string): Promise<containerd.task.v3.WaitResponse> {
    return this.call('Wait', t.WaitRequest, t.WaitResponse, { id });
  }
  delete(id: string): Promise<containerd.task.v3.DeleteResponse> {
    return this.call('Delete', t.DeleteRequest, t.DeleteResponse, { id });
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    if (tries > 6000) throw new Error('did not come true within a minute');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function ask(
  path: string,
  request: bulkhead.executor.v1.IShimRequest,
): Promise<bulkhead.executor.v1.IShimReply> {
  return FakeMonitor.connect(path, undefined).then(
    (launcher) =>
      new Promise((resolve) => {
        launcher.onMessage = ({ shimReply }) => {
          launcher.close();
          resolve(shimReply ?? {});
        };
        launcher.send({ shimRequest: request });
      }),
  );
}

/** Starts a container in the pod "web", whose monitor then loses the engine. */
async function startAndLose(rig: Rig, id: string): Promise<void> {
  const monitor = await FakeMonitor.connect(rig.path, hello);
  const task = new Task(monitor);
  await task.create(id, rig.bundle(id));
  await task.start(id);
  monitor.close();
  await until(() => rig.server.sessionOf('default', id) === undefined);
}

describe('engine', () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = new Rig();
    await rig.server.listen({ path: rig.path });
  });
  afterEach(() => rig.close());

  it('serves a container through a monitor', async () => {
    const monitor = await FakeMonitor.connect(rig.path, hello);
    const task = new Task(monitor);
    expect((await task.create('web', rig.bundle('web'))).pid).toBe(5000);
    expect((await task.start('web')).pid).toBe(5000);
    const waiting = task.wait('web');
    monitor.exit('web', 7 << 8);
    expect((await waiting).exitStatus).toBe(7);
    expect((await task.delete('web')).exitStatus).toBe(7);
    expect(rig.events).toEqual(['create web', 'start web', 'exit web 7', 'delete web 7']);
    expect(monitor.received[0]?.welcome?.protocol).toBe(1);
    monitor.close();
  });

  it('writes no more warnings of a launch than a plan can have', async () => {
    const monitor = await FakeMonitor.connect(rig.path, hello);
    const task = new Task(monitor);
    await task.create('web', rig.bundle('web'));
    const launchWarning = { key: 'web', warning: { action: 3, path: 'p'.repeat(4096), errno: 2 } };
    for (let sent = 0; sent < 600; sent++) monitor.send({ launchWarning });
    await task.start('web');
    const warnings = rig.log.filter((line) => line.includes('launch step passed over'));
    expect(warnings).toHaveLength(500);
    expect(Math.max(...warnings.map(({ length }) => length))).toBeLessThan(1000);
    monitor.exit('web', 0);
    monitor.send({ launchWarning });
    await task.delete('web');
    expect(rig.log.filter((line) => line.includes('launch step passed over'))).toHaveLength(501);
    monitor.close();
  });

  it('finds containers again after a restart, and tells the exit that nobody heard of', async () => {
    await startAndLose(rig, 'web');

    const running = { key: 'web', pid: 5000, running: true };
    const second = await FakeMonitor.connect(rig.path, { ...hello, processes: [running] });
    const again = new Task(second);
    expect((await again.create('web', join(rig.root, 'web'))).pid).toBe(5000);
    expect((await again.start('web')).pid).toBe(5000);
    second.close();

    const gone = { ...running, exited: true, waitStatus: 3 << 8, exitedAtNs: 1_700_000_000_000_000_000 };
    const third = await FakeMonitor.connect(rig.path, { ...hello, processes: [gone] });
    const last = new Task(third);
    expect((await last.wait('web')).exitStatus).toBe(3);
    expect((await last.delete('web')).exitStatus).toBe(3);
    expect(rig.events.slice(-2)).toEqual(['exit web 3', 'delete web 3']);
    third.close();
  });

  it('answers a delete again whose answer was lost with the engine', async () => {
    const record: ContainerRecord = {
      id: 'web',
      namespace: 'default',
      group: 'web',
      wall: 'namespace',
      bundle: rig.bundle('web'),
      deleted: true,
      init: { status: Status.STATUS_STOPPED, pid: 77, exitCode: 5, exitPublished: true },
    };
    rig.store.save(record);
    const monitor = await FakeMonitor.connect(rig.path, hello);
    const task = new Task(monitor);
    expect(await task.delete('web')).toMatchObject({ pid: 77, exitStatus: 5 });
    await task.call('Shutdown', t.ShutdownRequest, google.protobuf.Empty, { id: 'web' });
    expect(rig.store.exists('default', 'web')).toBe(false);
    expect(rig.events).toEqual(['delete web 5']);
    monitor.close();
  });

  it('tells an exit again that had perhaps not arrived', async () => {
    rig.store.save({
      id: 'web',
      namespace: 'default',
      group: 'web',
      wall: 'namespace',
      bundle: rig.bundle('web'),
      init: { status: Status.STATUS_STOPPED, pid: 77, exitCode: 5 },
    });
    const monitor = await FakeMonitor.connect(rig.path, hello);
    expect((await new Task(monitor).wait('web')).exitStatus).toBe(5);
    expect(rig.events).toEqual(['exit web 5']);
    monitor.close();
  });

  it('answers a start that got through while no engine looked, in pods too', async () => {
    for (const [id, pid] of [
      ['first', 77],
      ['web', 78],
    ] as const) {
      const init = { status: Status.STATUS_CREATED, pid };
      rig.store.save({
        id,
        namespace: 'default',
        group: 'web',
        wall: 'namespace',
        bundle: rig.bundle(id),
        init,
      });
    }
    const waiting = [
      { key: 'first', pid: 77, pausedAt: 'start' },
      { key: 'web', pid: 78, pausedAt: 'start' },
    ];
    const exitedAtNs = 1_700_000_000_000_000_000;
    const exits = waiting.map(({ key, pid }) => ({
      exited: { key, pid, waitStatus: 5 << 8, exitedAtNs, executed: true },
    }));
    const messages = [{ hello: { ...hello, processes: waiting } }, ...exits];
    const monitor = await FakeMonitor.connect(rig.path, undefined);
    monitor.sendRaw(Buffer.concat(messages.map((message) => frame(ToEngine.encode(message).finish()))));
    const task = new Task(monitor);
    expect((await task.wait('web')).exitStatus).toBe(5);
    expect((await task.start('web')).pid).toBe(78);
    expect((await task.start('first')).pid).toBe(77);
    expect((await task.wait('first')).exitStatus).toBe(5);
    expect([...rig.events].sort()).toEqual(['exit first 5', 'exit web 5', 'start first', 'start web']);
    monitor.close();
  });

  it('undoes a create that was cut short, then does it anew', async () => {
    const record: ContainerRecord = {
      id: 'web',
      namespace: 'default',
      group: 'web',
      wall: 'namespace',
      bundle: rig.bundle('web'),
      spec: Buffer.from(JSON.stringify(config)),
      init: { status: Status.STATUS_CREATING },
    };
    rig.store.save(record);
    const monitor = await FakeMonitor.connect(rig.path, { ...hello, processes: [{ key: 'web', pid: 9 }] });
    expect((await new Task(monitor).create('web', join(rig.root, 'web'))).pid).toBe(5000);
    expect(rig.backend.calls).toEqual(['destroy web', 'create web']);
    expect(monitor.received.find(({ signal }) => signal)?.signal).toMatchObject({ key: 'web', signal: 9 });
    monitor.close();
  });

  it('tells the launcher the group of a bundle', async () => {
    const cases: [Record<string, string>, string][] = [
      [{}, 'web'],
      [{ 'io.kubernetes.cri.sandbox-id': 'pod' }, 'pod'],
      [{ 'io.kubernetes.cri.sandbox-id': 'pod', 'io.containerd.runc.v2.group': 'own' }, 'own'],
    ];
    for (const [annotations, group] of cases) {
      const bundle = rig.bundle('web', annotations);
      expect(await ask(rig.path, { action: 'start', namespace: 'default', id: 'web', bundle })).toMatchObject(
        { group, error: '' },
      );
    }
    const missing = await ask(rig.path, {
      action: 'start',
      namespace: 'default',
      id: 'web',
      bundle: '/nowhere',
    });
    expect(missing).toMatchObject({ group: 'web', error: '' });
  });

  it('says one sentence for options it cannot use', async () => {
    const stdin = Buffer.from([0x0a, 0x03, 0x66, 0x6f, 0x6f]); // Any{type_url: "foo"}
    const reply = await ask(rig.path, {
      action: 'start',
      namespace: 'default',
      id: 'web',
      bundle: rig.bundle('web'),
      stdin,
    });
    expect(reply.error).toBe('start web: options of type foo: unknown type');
  });

  describe('a monitor whose hello comes after its delete', () => {
    // Started long ago, as far as the engine can see.
    const old = { ...hello, monitorPid: process.pid };
    const removed = async (): Promise<void> => {
      await until(() => (processStartTime(process.pid) ?? 0) < bootTicks());
      const request = { action: 'delete', namespace: 'default', id: 'web', bundle: rig.bundle('web') };
      expect((await ask(rig.path, request)).error).toBe('');
    };
    const isEnded = ({ received }: FakeMonitor): boolean => received.some(({ shutdown }) => shutdown);

    it('is ended, and no other', async () => {
      await removed();
      const deleted = bootTicks();
      await until(() => bootTicks() > deleted);
      const newer = spawn('sleep', ['1000']);
      try {
        const others = await Promise.all(
          [{ monitorPid: newer.pid }, { namespace: 'other' }, { group: 'other' }].map((more) =>
            FakeMonitor.connect(rig.path, { ...old, ...more }),
          ),
        );
        const late = await FakeMonitor.connect(rig.path, old);
        await until(() => isEnded(late));
        await until(() => others.every(({ received }) => received.length > 0));
        expect(others.map(isEnded)).toEqual([false, false, false]);
      } finally {
        newer.kill('SIGKILL');
      }
    });

    it('goes on when it has a container still', async () => {
      await startAndLose(rig, 'db');
      await removed();
      const processes = [{ key: 'db', pid: 5000, running: true }];
      const second = await FakeMonitor.connect(rig.path, { ...old, processes });
      const again = new Task(second);
      expect((await again.create('db', join(rig.root, 'db'))).pid).toBe(5000);
      expect(isEnded(second)).toBe(false);
      second.close();
    });
  });

  it('cleans up for `delete` with the monitor there, gone, and when there is nothing', async () => {
    const monitor = await FakeMonitor.connect(rig.path, hello);
    const task = new Task(monitor);
    await task.create('web', rig.bundle('web'));
    await task.start('web');
    const request = { action: 'delete', namespace: 'default', id: 'web', bundle: join(rig.root, 'web') };
    const answer = t.DeleteResponse.decode((await ask(rig.path, request)).stdout ?? new Uint8Array());
    expect(answer).toMatchObject({ pid: 5000, exitStatus: 137 });
    expect(rig.store.exists('default', 'web')).toBe(false);

    await task.create('web', rig.bundle('web'));
    monitor.close();
    await until(() => rig.server.sessionOf('default', 'web') === undefined);
    expect(
      t.DeleteResponse.decode((await ask(rig.path, request)).stdout ?? new Uint8Array()).exitStatus,
    ).toBe(137);
    expect(rig.backend.calls.slice(-2)).toEqual(['kill-all web', 'destroy web']);
    expect(rig.store.exists('default', 'web')).toBe(false);
    expect((await ask(rig.path, request)).error).toBe('');
  });

  it('drops peers that speak nonsense, and serves the others', async () => {
    const garbage = connect(rig.path, () => garbage.write(Buffer.alloc(64, 0xff)));
    await new Promise((resolve) => garbage.once('close', resolve));
    const old = await FakeMonitor.connect(rig.path, { ...hello, protocolMin: 2, protocolMax: 9 });
    await until(() => old.closed);
    const monitor = await FakeMonitor.connect(rig.path, hello);
    expect((await new Task(monitor).create('web', rig.bundle('web'))).pid).toBe(5000);
    monitor.close();
  });

  it('ends when no monitor has come for the idle time', async () => {
    const idle = new Rig(1000);
    await idle.server.listen({ path: idle.path });
    const monitor = await FakeMonitor.connect(idle.path, hello);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(idle.idle).toBe(0);
    monitor.close();
    await until(() => idle.idle === 1);
    await idle.close();
  });
});
