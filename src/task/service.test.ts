import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { containerd } from '../gen/containerd.js';
import { BackendRegistry } from '../sandbox/registry.ts';
import { StateStore } from '../state/index.ts';
import { FakeBackend } from '../../test/fakes/backend.ts';
import { FakeExecutor } from '../../test/fakes/executor.ts';
import type { TaskEventMessages } from './events.ts';
import { TaskService } from './service.ts';

const t = containerd.task.v3;
const SIGKILL = 9;

const config = {
  ociVersion: '1.2.0',
  process: { user: { uid: 0, gid: 0 }, args: ['true'], cwd: '/' },
  root: { path: 'rootfs' },
  linux: {},
};

interface Told {
  name: keyof TaskEventMessages;
  id: string;
  message: Record<string, unknown>;
}

class Rig {
  readonly root = mkdtempSync(join(tmpdir(), 'bh-task-'));
  readonly store = new StateStore(join(this.root, 'state'));
  readonly executor = new FakeExecutor();
  readonly backend = new FakeBackend();
  readonly events: Told[] = [];
  ended = 0;
  /** What the monitor answers to State requests, both as hex. */
  readonly left = new Map<string, string>();
  readonly service: TaskService;

  constructor() {
    const backends = new BackendRegistry();
    backends.register(this.backend);
    this.service = new TaskService({
      ctx: { store: this.store, backends, log: silentLogger, now: () => 1_700_000_000_000 },
      executor: this.executor,
      events: {
        flush: () => Promise.resolve(),
        publish: (name, message) => {
          const fields = message as Record<string, unknown>;
          this.events.push({
            name,
            id: String(fields['execId'] ?? fields['id'] ?? fields['containerId']),
            message: fields,
          });
        },
      },
      namespace: 'default',
      group: 'web',
      wall: 'namespace',
      monitorPid: 7,
      log: silentLogger,
      shutdown: () => (this.ended += 1),
      leaveAnswer: (method, request, response) => {
        const key = `${method} ${Buffer.from(request).toString('hex')}`;
        if (response.length === 0) this.left.delete(key);
        else this.left.set(key, Buffer.from(response).toString('hex'));
      },
    });
  }

  bundle(id: string, json: string = JSON.stringify(config)): string {
    const bundle = join(this.root, id);
    mkdirSync(join(bundle, 'rootfs'), { recursive: true });
    writeFileSync(join(bundle, 'config.json'), json);
    return bundle;
  }

  create(id: string): Promise<containerd.task.v3.ICreateTaskResponse> {
    return this.service.create(new t.CreateTaskRequest({ id, bundle: this.bundle(id) }));
  }

  start(id: string, execId = ''): Promise<containerd.task.v3.IStartResponse> {
    return this.service.start(new t.StartRequest({ id, execId }));
  }

  exec(id: string, execId: string): void {
    const value = Buffer.from(JSON.stringify(config.process));
    this.service.exec(new t.ExecProcessRequest({ id, execId, spec: { typeUrl: 'Process', value } }));
  }

  delete(id: string, execId = ''): Promise<containerd.task.v3.IDeleteResponse> {
    return this.service.delete(new t.DeleteRequest({ id, execId }));
  }

  wait(
    id: string,
    execId = '',
    signal = new AbortController().signal,
  ): Promise<containerd.task.v3.IWaitResponse> {
    return this.service.wait(new t.WaitRequest({ id, execId }), signal);
  }

  names(): string[] {
    return this.events.map(({ name, id }) => `${name} ${id}`);
  }
}

/** The event loop goes round once: what an answer leaves for later is done. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

async function failure(work: () => unknown): Promise<RuntimeError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('expected a refusal');
}

describe('task service', () => {
  let rig: Rig;
  beforeEach(() => {
    rig = new Rig();
  });
  afterEach(() => rmSync(rig.root, { recursive: true, force: true }));

  it('runs a container from create to delete, with its events in order and nothing left', async () => {
    const { pid } = await rig.create('web');
    expect(pid).toBe(1000);
    expect(await rig.start('web')).toEqual({ pid: 1000 });
    const waiting = rig.wait('web');
    rig.executor.exit('web', 3 << 8);
    expect((await waiting).exitStatus).toBe(3);
    const deleted = await rig.delete('web');
    expect(deleted).toMatchObject({ pid: 1000, exitStatus: 3, exitedAt: { seconds: 1_700_000_000 } });
    expect(rig.names()).toEqual(['create web', 'start web', 'exit web', 'delete web']);
    await turn();
    expect(rig.store.exists('default', 'web')).toBe(false);
    expect(rig.backend.calls.at(-1)).toBe('destroy web');
    expect(rig.executor.calls).toContain('forget web');
  });

  it('tells an exit that comes during start after the start', async () => {
    await rig.create('web');
    const starting = rig.start('web');
    rig.executor.exit('web', 0);
    await starting;
    await rig.wait('web');
    expect(rig.names()).toEqual(['create web', 'start web', 'exit web']);
  });

  it("tells the init's exit last, after those of its execs", async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await rig.start('web', 'one');
    rig.executor.exit('web', SIGKILL);
    rig.executor.exit('web/one', SIGKILL);
    expect((await rig.wait('web')).exitStatus).toBe(137);
    expect(rig.names()).toEqual([
      'create web',
      'start web',
      'exec-added one',
      'exec-started one',
      'exit one',
      'exit web',
    ]);
  });

  it('kills what is left when the container has no pid namespace of its own', async () => {
    rig.backend.privatePidNamespace = false;
    rig.backend.onKillAll = () => rig.executor.exit('web/one', SIGKILL);
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await rig.start('web', 'one');
    rig.executor.exit('web', 0);
    await rig.wait('web');
    expect(rig.names().slice(-2)).toEqual(['exit one', 'exit web']);
  });

  it('deletes a container that was never started', async () => {
    await rig.create('web');
    expect(await rig.delete('web')).toMatchObject({ pid: 1000, exitStatus: 137 });
    expect(rig.names()).toEqual(['create web', 'exit web', 'delete web']);
  });

  it('refuses what the status does not allow, in a sentence with the right code', async () => {
    await rig.create('web');
    await rig.start('web');
    expect(await failure(() => rig.delete('web'))).toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: 'delete web: cannot delete a running process',
    });
    expect(await failure(() => rig.start('web'))).toMatchObject({
      message: 'start web: container is running',
    });
    expect(await failure(() => rig.wait('web', 'none'))).toMatchObject({
      code: ErrorCode.NotFound,
      message: 'wait web: exec none: no such process',
    });
    rig.executor.exit('web', 0);
    await rig.wait('web');
    expect(await failure(() => rig.service.kill(new t.KillRequest({ id: 'web', signal: 15 })))).toMatchObject(
      {
        code: ErrorCode.NotFound,
        message: 'kill web: process already finished',
      },
    );
    expect(await failure(() => rig.exec('web', 'late'))).toMatchObject({
      code: ErrorCode.FailedPrecondition,
    });
  });

  it('names what is missing', async () => {
    for (const work of [
      () => rig.start('no'),
      () => rig.delete('no'),
      () => rig.service.stats(new t.StatsRequest({ id: 'no' })),
    ]) {
      expect((await failure(work)).code).toBe(ErrorCode.NotFound);
    }
    expect(rig.service.connect(new t.ConnectRequest({ id: 'no' }))).toMatchObject({ shimPid: 7, taskPid: 0 });
  });

  it('ends a container whose SIGKILL nobody carries out by its wall, and none for an exec', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await rig.start('web', 'one');
    const timedOut = Object.assign(new Error('connection timed out'), { code: 'ETIMEDOUT' });
    const late = new RuntimeError({ code: ErrorCode.DeadlineExceeded, op: 'kill', reason: 'no answer' });
    const kill = (signal: number, execId = ''): Promise<unknown> =>
      rig.service.kill(new t.KillRequest({ id: 'web', execId, signal }));
    const killed = (): number => rig.backend.calls.filter((call) => call === 'kill-all web').length;
    for (const error of [timedOut, late]) {
      rig.executor.signal = () => Promise.reject(error);
      const before = killed();
      await expect(kill(15)).rejects.toBe(error);
      await expect(kill(SIGKILL, 'one')).rejects.toBe(error);
      expect(killed()).toBe(before);
      await kill(SIGKILL);
      expect(killed()).toBe(before + 1);
    }
  });

  it('gives an exec that was not started no signal', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    const kill = new t.KillRequest({ id: 'web', execId: 'one', signal: 9 });
    expect(await failure(() => rig.service.kill(kill))).toMatchObject({
      code: ErrorCode.FailedPrecondition,
      message: 'kill web/one: process not created',
    });
  });

  it('launches an exec before its start, which opens the gate', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await turn();
    expect(rig.executor.calls).toContain('launch web/one');
    expect(rig.service.state(new t.StateRequest({ id: 'web', execId: 'one' }))).toMatchObject({ pid: 0 });
    expect(await rig.start('web', 'one')).toEqual({ pid: 1001 });
    expect(rig.executor.calls.filter((call) => call.endsWith('web/one'))).toEqual([
      'launch web/one',
      'proceed web/one',
    ]);
  });

  it.each(['pause', 'resume'] as const)(
    'keeps the end of a container that ends during a %s',
    async (verb) => {
      await rig.create('web');
      await rig.start('web');
      if (verb === 'resume') await rig.service.pause(new t.PauseRequest({ id: 'web' }));
      rig.backend[verb] = () => Promise.resolve(rig.executor.exit('web', SIGKILL));
      expect(await failure(() => rig.service[verb](new t.PauseRequest({ id: 'web' })))).toMatchObject({
        code: ErrorCode.FailedPrecondition,
        message: `${verb} web: container is stopped`,
      });
      expect(await rig.wait('web')).toMatchObject({ exitStatus: 137 });
      expect(rig.service.state(new t.StateRequest({ id: 'web' })).status).toBe(
        containerd.v1.types.Status.STOPPED,
      );
      expect(rig.names()).not.toContain(`${verb}d web`);
      await rig.delete('web');
    },
  );

  it('takes the first of two exits: a monitor and the look at what a former engine left may tell the same', async () => {
    const errors = vi.spyOn(silentLogger, 'error');
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    const { pid } = await rig.start('web', 'one');
    for (const waitStatus of [3 << 8, SIGKILL])
      rig.service.exited({ key: 'web/one', pid: pid ?? 0, waitStatus, exitedAtNs: 1 });
    expect(await rig.wait('web', 'one')).toMatchObject({ exitStatus: 3 });
    expect(rig.names().filter((name) => name === 'exit one')).toHaveLength(1);
    expect(errors).not.toHaveBeenCalled();
    errors.mockRestore();
  });

  it('ends an exec that is deleted before its start, and tells nobody', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await turn();
    expect(await rig.delete('web', 'one')).toMatchObject({ pid: 0, exitStatus: 0 });
    expect(rig.executor.calls).toContain('signal web/one 9');
    expect(rig.executor.processes.has('web/one')).toBe(false);
    expect(rig.names()).toEqual(['create web', 'start web', 'exec-added one']);
  });

  it('refuses the start of an exec whose launch failed, and launches it anew the next time', async () => {
    await rig.create('web');
    await rig.start('web');
    const failed = { path: '/none', errno: 2, detail: 'exec', status: 0, op: '', index: 0, action: 65 };
    for (const prepared of [true, false]) {
      const id = `exec-${prepared}`;
      rig.executor.failures.set(`web/${id}`, failed);
      rig.exec('web', id);
      if (prepared) await turn();
      const error = await failure(() => rig.start('web', id));
      expect(error.message).toBe(`exec web/${id}: exec "/none": no such file or directory`);
      expect(rig.service.state(new t.StateRequest({ id: 'web', execId: id }))).toMatchObject({ pid: 0 });
      await rig.start('web', id);
      rig.executor.exit(`web/${id}`, 3 << 8);
      expect(await rig.wait('web', id)).toMatchObject({ exitStatus: 3 });
    }
  });

  it('tells no exit of an exec that its gate refused, or that ended at the gate', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await turn();
    rig.executor.failures.set('web/one', { path: '', errno: 8, detail: '', status: 0, op: '', index: 1 });
    await failure(() => rig.start('web', 'one'));
    rig.exec('web', 'two');
    await turn();
    rig.executor.exit('web/two', SIGKILL);
    await turn();
    expect(rig.names().filter((name) => name.startsWith('exit'))).toEqual([]);
    rig.executor.exit('web', 0);
    await rig.wait('web');
    expect(await failure(() => rig.start('web', 'two'))).toMatchObject({
      message: 'exec web: container web init process is not running',
    });
    await rig.delete('web');
    expect(rig.executor.processes.size).toBe(0);
  });

  it('lists an exec only from its start on, also while it is being launched', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.backend.pids = () => [...rig.executor.processes.values()].map(({ pid }) => pid);
    const pids = async (): Promise<unknown[]> =>
      ((await rig.service.pids(new t.PidsRequest({ id: 'web' }))).processes ?? []).map(({ pid }) => pid);
    rig.exec('web', 'one');
    await turn();
    expect(await pids()).toEqual([1000]);
    await rig.start('web', 'one');
    expect(await pids()).toEqual([1000, 1001]);
  });

  it('refuses the start of an exec in a paused container', async () => {
    await rig.create('web');
    await rig.start('web');
    rig.exec('web', 'one');
    await rig.service.pause(new t.PauseRequest({ id: 'web' }));
    expect(await failure(() => rig.start('web', 'one'))).toMatchObject({
      message: 'exec web: container is paused',
    });
  });

  it('leaves with the monitor, at every change, what it would answer itself', async () => {
    const expectCurrent = (...execIds: string[]): void => {
      const hex = (writer: { finish: () => Uint8Array }): string =>
        Buffer.from(writer.finish()).toString('hex');
      const expected = execIds.map((execId) => {
        const request = new t.StateRequest(execId === '' ? { id: 'web' } : { id: 'web', execId });
        const answer = rig.service.state(request);
        return [`State ${hex(t.StateRequest.encode(request))}`, hex(t.StateResponse.encode(answer))];
      });
      const request = new t.ConnectRequest({ id: 'web' });
      const answer = rig.service.connect(request);
      expected.push([
        `Connect ${hex(t.ConnectRequest.encode(request))}`,
        hex(t.ConnectResponse.encode(answer)),
      ]);
      expect(Object.fromEntries(rig.left)).toEqual(Object.fromEntries(expected));
    };
    await rig.create('web');
    expectCurrent('');
    await rig.start('web');
    expectCurrent('');
    await rig.service.pause(new t.PauseRequest({ id: 'web' }));
    expectCurrent('');
    await rig.service.resume(new t.ResumeRequest({ id: 'web' }));
    rig.exec('web', 'one');
    expectCurrent('', 'one');
    await rig.start('web', 'one');
    expectCurrent('', 'one');
    rig.executor.exit('web/one', 3 << 8);
    await rig.wait('web', 'one');
    expectCurrent('', 'one');
    await rig.delete('web', 'one');
    expectCurrent('');
    rig.executor.exit('web', 0);
    await rig.wait('web');
    expectCurrent('');
    await rig.delete('web');
    expect(rig.left.size).toBe(0);
  });

  it('stops waiting when the caller does', async () => {
    await rig.create('web');
    await expect(rig.wait('web', '', AbortSignal.timeout(10))).rejects.toMatchObject({
      name: 'TimeoutError',
    });
  });

  it('leaves nothing when create fails, whether the bundle or the backend is to blame', async () => {
    const bad = rig.service.create(new t.CreateTaskRequest({ id: 'bad', bundle: rig.bundle('bad', '{') }));
    expect(await failure(() => bad)).toMatchObject({ code: ErrorCode.InvalidArgument });
    rig.backend.createError = new RuntimeError({
      code: ErrorCode.Unknown,
      op: 'create',
      id: 'web',
      reason: 'no',
    });
    expect(await failure(() => rig.create('web'))).toMatchObject({ message: 'create web: no' });
    expect(rig.backend.calls.filter((call) => call.startsWith('destroy'))).toEqual(['destroy web']);
    expect(rig.store.list(undefined, () => {})).toEqual([]);
    expect(rig.events).toEqual([]);
    rig.backend.createError = undefined;
    await rig.create('web');
  });

  it('says why the command could not be executed, and tells the exit', async () => {
    await rig.create('web');
    const failed = { index: 9, action: 65, path: '/bin/none', errno: 2, detail: '', status: 0, op: '' };
    rig.executor.failures.set('web', failed);
    expect(await failure(() => rig.start('web'))).toMatchObject({
      message: 'start web: exec "/bin/none": no such file or directory',
    });
    await rig.wait('web');
    expect(rig.names()).toEqual(['create web', 'exit web']);
  });

  it('creates an id again at once after its delete', async () => {
    await rig.create('web');
    await rig.delete('web');
    await rig.create('web');
    await turn();
    expect(rig.store.exists('default', 'web')).toBe(true);
    await rig.delete('web');
    await turn();
    expect(rig.store.exists('default', 'web')).toBe(false);
  });

  it('publishes kills by the memory limit', async () => {
    await rig.create('web');
    await turn();
    rig.backend.onOom();
    expect(rig.names()).toEqual(['create web', 'oom web']);
  });

  it('ends the monitor only when no container is left', async () => {
    await rig.create('web');
    rig.service.shutdown();
    await new Promise((resolve) => setImmediate(resolve));
    expect(rig.ended).toBe(0);
    await rig.delete('web');
    rig.service.shutdown();
    await new Promise((resolve) => setImmediate(resolve));
    expect(rig.ended).toBe(1);
  });

  it('keeps the order of events and leaves no record, whatever is called when', async () => {
    const step = fc.constantFrom(
      'create',
      'start',
      'exec',
      'start-exec',
      'exit',
      'exit-exec',
      'kill',
      'delete',
      'pause',
      'resume',
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 24 }), async (steps) => {
        const run = new Rig();
        try {
          for (const name of steps) await attempt(run, name);
          await finish(run);
          expect(orderOf(run.events)).toEqual([]);
          await turn();
          expect(run.store.list(undefined, () => {})).toEqual([]);
        } finally {
          rmSync(run.root, { recursive: true, force: true });
        }
      }),
      { numRuns: 150 },
    );
  });
});

/** One call; refusals are part of the game, anything else is not. */
async function attempt(rig: Rig, name: string): Promise<void> {
  const { service, executor } = rig;
  const calls: Record<string, () => unknown> = {
    create: () => rig.create('web'),
    start: () => rig.start('web'),
    exec: () => rig.exec('web', 'one'),
    'start-exec': () => rig.start('web', 'one'),
    exit: () => {
      // The kernel ends what else is in the pid namespace of an init.
      for (const key of ['web', 'web/one']) if (executor.processes.has(key)) executor.exit(key, 0);
    },
    'exit-exec': () => executor.processes.has('web/one') && executor.exit('web/one', 0),
    kill: () => service.kill(new t.KillRequest({ id: 'web', signal: SIGKILL })),
    delete: () => rig.delete('web'),
    pause: () => service.pause(new t.PauseRequest({ id: 'web' })),
    resume: () => service.resume(new t.ResumeRequest({ id: 'web' })),
  };
  try {
    await calls[name]?.();
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
  }
}

async function finish(rig: Rig): Promise<void> {
  if (rig.service.containers.size === 0) return;
  for (const key of ['web', 'web/one']) if (rig.executor.processes.has(key)) rig.executor.exit(key, 0);
  await rig.delete('web');
}

/** Sentences about every event that is out of order. */
function orderOf(events: Told[]): string[] {
  const wrong: string[] = [];
  const seen: string[] = [];
  const before = (event: string, first: string): void => {
    if (!seen.includes(first)) wrong.push(`${event} before ${first}`);
  };
  for (const { name, id } of events) {
    const event = `${name} ${id}`;
    if (name === 'delete') {
      before(event, 'exit web');
      seen.length = 0;
      continue;
    }
    if (seen.includes(event) && (name === 'exit' || name === 'start')) wrong.push(`${event} twice`);
    if (event === 'start web') before(event, 'create web');
    if (event === 'exec-started one') before(event, 'exec-added one');
    if (seen.includes('exit web') && name === 'exit') wrong.push(`${event} after the exit of the init`);
    seen.push(event);
  }
  return wrong;
}
