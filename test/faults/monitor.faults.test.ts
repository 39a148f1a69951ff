/**
 * The same through a real monitor and the engine's own server, as containerd drives them: faults at every step of
 * create, creates that hang and are given up, and processes that die at a random moment.
 */
import { rmSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { ErrorCode, RuntimeError } from '../../src/base/errors.ts';
import { isAlive } from '../../src/base/proc.ts';
import { bindTaskService, type TaskPeer } from '../../src/engine/bind.ts';
import { EngineServer } from '../../src/engine/server.ts';
import { containerd } from '../../src/gen/containerd.js';
import { connectTtrpc, type TtrpcClient } from '../../src/rpc/index.ts';
import { Router } from '../../src/rpc/router.ts';
import { alive, childrenOf, ShimRig, until } from '../contract/monitor/harness.ts';
import type { SpecName } from './lib/bundles.ts';
import { NOWHERE, stepNamesOf, type FaultKind } from './lib/faults.ts';
import { changesSince, look, untilHung, type Watched } from './lib/host.ts';
import { Local } from './lib/local.ts';
import { randoms } from './lib/randoms.ts';

const t = containerd.task.v3;
const local = new Local();
await local.prepare();
const rig = new ShimRig();
const router = new Router<TaskPeer>();
bindTaskService(router);
const server = new EngineServer({
  session: {
    ctx: local.ctx,
    router,
    acceptGrpc: () => Promise.reject(new Error('not in this test')),
    eventsFor: () => ({ publish: () => {}, flush: () => Promise.resolve() }),
    log: silentLogger,
  },
  shim: { ctx: local.ctx, protocol: 'ttrpc', version: '0', features: () => ({ ociVersionMax: '1.3.0' }) },
  log: silentLogger,
  runInGuest: () => Promise.reject(new Error('no guests here')),
  idleTimeoutMs: 0,
  abandonedMs: 60_000,
  onIdle: () => {},
});
await server.listen({ path: `${rig.root}/engine.sock` });
afterAll(async () => {
  await server.close();
  await rig.dispose();
  local.dispose();
});

/** A pod's shim: containerd's side of it. */
class Shim {
  readonly id: string;
  client!: TtrpcClient;
  socket = '';
  pid = 0;

  constructor(id: string) {
    this.id = id;
  }

  async start(): Promise<void> {
    const started = await rig.start(this.id);
    if (started.status !== 0) throw new Error(started.stderr);
    this.socket = started.stdout.replace('unix://', '');
    this.client = await connectTtrpc(this.socket);
    const { shimPid } = await this.call('Connect', t.ConnectRequest, t.ConnectResponse, { id: this.id });
    this.pid = shimPid;
    rig.adopt(shimPid);
  }

  async call<Request, Response>(
    method: string,
    request: { encode(message: Request): { finish(): Uint8Array } },
    response: { decode(bytes: Uint8Array): Response },
    message: Request,
    timeoutMs?: number,
  ): Promise<Response> {
    const payload = request.encode(message).finish();
    return response.decode(await this.client.call('containerd.task.v2.Task', method, payload, { timeoutMs }));
  }

  create(timeoutMs?: number): Promise<containerd.task.v3.CreateTaskResponse> {
    const request = { id: this.id, bundle: local.bundle.dir };
    return this.call('Create', t.CreateTaskRequest, t.CreateTaskResponse, request, timeoutMs);
  }

  run(): Promise<containerd.task.v3.StartResponse> {
    return this.call('Start', t.StartRequest, t.StartResponse, { id: this.id });
  }

  async remove(): Promise<void> {
    const kill = { id: this.id, signal: 9, all: true };
    await this.client.call('containerd.task.v2.Task', 'Kill', t.KillRequest.encode(kill).finish());
    await this.call('Wait', t.WaitRequest, t.WaitResponse, { id: this.id });
    await this.call('Delete', t.DeleteRequest, t.DeleteResponse, { id: this.id });
  }

  /** What containerd does when a shim does not answer, or is gone. */
  async clean(): Promise<void> {
    const words = [...rig.flags(this.id), '-bundle', rig.bundle(this.id), 'delete'];
    const done = await rig.exec(words, { cwd: rig.bundle(this.id) });
    expect(done).toMatchObject({ status: 0, stderr: '' });
  }
}

const outcomeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

async function stepsOf(shim: Shim): Promise<[number, string][]> {
  await shim.create();
  await shim.remove();
  const steps = stepNamesOf(local.backend.lastPlan).map((step, index): [number, string] => [index, step]);
  return steps.slice(0, steps.findLastIndex(([, step]) => step === 'gate') + 1);
}

const cases: [SpecName, FaultKind[]][] = [
  ['plain', ['fail', 'die', 'hang']],
  ['loaded', ['fail']],
];
const shims = new Map<SpecName, Shim>();
const steps = new Map<SpecName, [number, string][]>();
for (const [name] of cases) {
  const shim = new Shim(`m-${name}`);
  shims.set(name, shim);
  local.bundle.write(local.bundle.spec(name, shim.id));
  await shim.start();
  steps.set(name, await stepsOf(shim));
}

describe.each(cases)('%s: create through a monitor', (name, kinds) => {
  const shim = shims.get(name)!;
  const watched: Watched = { directories: [...local.watched.directories], pids: [shim.pid] };
  let before: ReturnType<typeof look>;
  beforeAll(() => local.bundle.write(local.bundle.spec(name, shim.id)));
  beforeEach(() => {
    before = look(watched);
  });
  afterEach(async () => {
    local.backend.fault = undefined;
    expect(await changesSince(before, watched)).toEqual([]);
  });

  describe.each(kinds)('%s', (kind) => {
    it.each(steps.get(name)!)('before step %i, %s', async (index) => {
      local.backend.fault = { kind, index, rootfs: local.bundle.rootfs };
      const creating = outcomeOf(shim.create());
      if (kind === 'hang') {
        await untilHung();
        await shim.clean();
      }
      const error = await creating;
      expect(error).toBeInstanceOf(RuntimeError);
      const { message, code } = error as RuntimeError;
      if (kind === 'fail') expect(message).toContain(`write ${NOWHERE}: no such file or directory`);
      else if (kind === 'hang') expect(code).toBe(ErrorCode.Canceled);
      else expect(message).toMatch(/: (init died|seccomp|no_new_privs)/);
      expect(alive(shim.pid)).toBe(true);
      expect(childrenOf(shim.pid)).toEqual([]);
    });
  });

  it('is undone when the deadline of the call passes', async () => {
    local.backend.fault = { kind: 'hang', index: steps.get(name)!.length - 1, rootfs: local.bundle.rootfs };
    expect(await outcomeOf(shim.create(150))).toMatchObject({ code: ErrorCode.DeadlineExceeded });
    expect(await changesSince(before, watched)).toEqual([]);
  });

  it('works afterwards', async () => {
    await shim.create();
    expect(isAlive((await shim.run()).pid)).toBe(true);
    await shim.remove();
  });
});

describe('a monitor that is killed', () => {
  const watched: Watched = { directories: [...local.watched.directories] };
  const random = randoms(20_261);
  const delays = Array.from({ length: 30 }, (_, index) => [Math.floor(random.next().value * 60), index]);
  let before: ReturnType<typeof look>;
  beforeEach(() => {
    before = look(watched);
  });

  /** Creates and starts a container, kills its monitor after a while, and cleans up as containerd does. */
  async function interrupted(id: string, name: SpecName, delay: number | 'hung'): Promise<void> {
    const shim = new Shim(id);
    local.bundle.write(local.bundle.spec(name, id));
    await shim.start();
    const life = outcomeOf(shim.create().then(() => shim.run()));
    await (delay === 'hung' ? untilHung() : new Promise((resolve) => setTimeout(resolve, delay)));
    process.kill(shim.pid, 'SIGKILL');
    await life;
    await until('the monitor to end', () => !alive(shim.pid));
    await shim.clean();
    // containerd removes these itself: the socket of a dead shim, and the bundle.
    rmSync(shim.socket, { force: true });
    rmSync(rig.bundle(id), { recursive: true });
    expect(await changesSince(before, watched)).toEqual([]);
  }

  it.each(delays)('after %i ms (round %i) leaves nothing once containerd has cleaned up', (delay, round) =>
    interrupted(`k-${round}`, round % 3 === 0 ? 'loaded' : 'plain', delay),
  );

  it.each(steps.get('plain')!)('while step %i, %s, is preceded by one that hangs', async (index) => {
    local.backend.fault = { kind: 'hang', index, rootfs: local.bundle.rootfs };
    try {
      await interrupted(`h-${index}`, 'plain', 'hung');
    } finally {
      local.backend.fault = undefined;
    }
  });
});
