import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CLONE_NEWNS, CLONE_NEWPID } from '../../../src/base/constants.ts';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import type { Session } from './fake_engine.ts';
import {
  HELD_ZOMBIE,
  ShimRig,
  TRACEES,
  alive,
  asleep,
  childrenOf,
  execPlan,
  full,
  messageFor,
  pause,
  stateOf,
  until,
} from './harness.ts';

const ENOENT = 2;
const ESRCH = 3;
const EBUSY = 16;
const EEXIST = 17;
const EMFILE = 24;

let rig: ShimRig;
let session: Session;
let pid: number;
let request = 100;
beforeEach(async () => {
  rig = new ShimRig();
  await rig.engine.listen();
  ({ session, pid } = await rig.monitor());
});
afterEach(() => rig.dispose());

const GATE: bulkhead.plan.v1.IStep = { gate: { point: 'start' } };
const CLONE: bulkhead.plan.v1.IStep = { clone: { namespaces: CLONE_NEWPID | CLONE_NEWNS } };

function launch(key: string, plan: Uint8Array, stdio = {}, to = session): number {
  to.send({ launch: { request: ++request, key, plan, stdio } });
  return request;
}
const answer = <K extends 'launched' | 'launchFailed' | 'started' | 'exited'>(
  kind: K,
  key: string,
  from = session,
) => until(`${kind} of ${key}`, () => messageFor(from, kind, key));
async function replyTo(
  send: (request: number) => Parameters<Session['send']>[0],
  from = session,
): Promise<number> {
  const id = ++request;
  from.send(send(id));
  return (await until('a reply', () => from.all('reply').find((reply) => reply.request === id))).errno ?? 0;
}
/** Order of the messages about a key, by kind. */
const story = (key: string, from = session) =>
  from.received.flatMap((message) => {
    for (const kind of ['launched', 'started', 'exited', 'launchFailed'] as const)
      if (message[kind]?.key === key) return [kind];
    return [];
  });

describe('a process that must not outlive another', () => {
  it('is killed when that one ends, and others are not', async () => {
    launch('web/.guard', execPlan('exec sleep 60'));
    await answer('launched', 'web/.guard');
    launch('other', execPlan('exec sleep 60'));
    session.send({
      launch: {
        request: ++request,
        key: 'web',
        plan: execPlan('exec sleep 60', [CLONE]),
        stdio: {},
        diesWith: 'web/.guard',
      },
    });
    await answer('launched', 'web');
    await answer('launched', 'other');
    expect(await replyTo((id) => ({ signal: { request: id, key: 'web/.guard', signal: 9 } }))).toBe(0);
    expect((await answer('exited', 'web')).waitStatus).toBe(9);
    expect(story('other')).toEqual(['launched']);
  });

  it('is killed at its gate too, and refused when the other has ended', async () => {
    launch('web/.guard', execPlan('exec sleep 60'));
    await answer('launched', 'web/.guard');
    const plan = execPlan('exit 0', [CLONE, GATE]);
    session.send({
      launch: { request: ++request, key: 'web', plan, stdio: {}, diesWith: 'web/.guard' },
    });
    expect((await answer('launched', 'web')).pausedAt).toBe('start');
    expect(await replyTo((id) => ({ signal: { request: id, key: 'web/.guard', signal: 9 } }))).toBe(0);
    await answer('exited', 'web');
    session.send({
      launch: { request: ++request, key: 'late', plan, stdio: {}, diesWith: 'web/.guard' },
    });
    expect(await answer('launchFailed', 'late')).toMatchObject({ op: 'dies with', errno: ESRCH });
  });
});

describe('a launch', () => {
  it('without a gate runs at once; its exit is told after it and kept', async () => {
    const id = launch('web', execPlan('exit 7'));
    const exited = await answer('exited', 'web');
    expect(await answer('launched', 'web')).toMatchObject({ request: id, pausedAt: '' });
    expect(story('web')).toEqual(['launched', 'exited']);
    expect(exited.waitStatus).toBe(7 << 8);
    expect(exited.pid).toBe(messageFor(session, 'launched', 'web')?.pid);
    expect(Math.abs((exited.exitedAtNs ?? 0) / 1e6 - Date.now())).toBeLessThan(60_000);
  });

  it.each([
    ['one process', []],
    ['a clone in new namespaces', [CLONE]],
  ])('as %s waits at its gate, goes on when told, dies by signal', async (_name, steps) => {
    launch('web', execPlan('exec sleep 60', [...steps, GATE]));
    const launched = await answer('launched', 'web');
    expect(launched.pausedAt).toBe('start');
    expect(readFileSync(`/proc/${launched.pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[1]).toBe(
      String(pid),
    );
    session.send({ continue: { request: ++request, key: 'web' } });
    expect(await answer('started', 'web')).toMatchObject({ request, pid: launched.pid });
    await until('sleep', () => readFileSync(`/proc/${launched.pid}/comm`, 'utf8') === 'sleep\n');
    expect(await replyTo((id) => ({ signal: { request: id, key: 'web', signal: 9 } }))).toBe(0);
    expect((await answer('exited', 'web')).waitStatus).toBe(9);
    expect(await replyTo((id) => ({ signal: { request: id, key: 'web', signal: 9 } }))).toBe(ESRCH);
    expect(story('web')).toEqual(['launched', 'started', 'exited']);
  });

  it('passes through several gates', async () => {
    launch('web', execPlan('exit 0', [CLONE, { gate: { point: 'createRuntime' } }, GATE]));
    expect((await answer('launched', 'web')).pausedAt).toBe('createRuntime');
    session.send({ continue: { request: ++request, key: 'web' } });
    await until('the second gate', () => session.all('launched').length === 2);
    expect(session.all('launched')[1]).toMatchObject({ request, pausedAt: 'start' });
    session.send({ continue: { request: ++request, key: 'web' } });
    await answer('exited', 'web');
    expect(story('web')).toEqual(['launched', 'launched', 'started', 'exited']);
  });

  it('that fails names the step and leaves no key and no process', async () => {
    const missing = bulkhead.plan.v1.LaunchPlan.encode({
      version: 1,
      id: 'x',
      steps: [CLONE, { exec: { file: '/no/such', args: ['x'] } }],
    }).finish();
    for (let round = 0; round < 3; round++) {
      const id = launch('web', missing);
      const failed = await until('failure', () =>
        session.all('launchFailed').find((one) => one.request === id),
      );
      expect(failed.step).toMatchObject({ index: 1, action: 65, path: '/no/such', errno: ENOENT });
    }
    expect(childrenOf(pid)).toEqual([]);
    expect(await replyTo((id) => ({ forget: { request: id, key: 'web' } }))).toBe(ESRCH);
  });

  it('that fails after its gate answers Continue and leaves no key', async () => {
    const plan = bulkhead.plan.v1.LaunchPlan.encode({
      version: 1,
      id: 'x',
      steps: [CLONE, GATE, { exec: { file: '/no/such', args: ['x'] } }],
    }).finish();
    launch('web', plan);
    await answer('launched', 'web');
    session.send({ continue: { request: ++request, key: 'web' } });
    expect(await answer('launchFailed', 'web')).toMatchObject({ request, step: { index: 2, errno: ENOENT } });
    expect(story('web')).toEqual(['launched', 'launchFailed']);
    expect(await replyTo((id) => ({ forget: { request: id, key: 'web' } }))).toBe(ESRCH);
  });

  it('of a plan that is none fails', async () => {
    launch('web', Buffer.from([1, 2, 3]));
    const failed = await answer('launchFailed', 'web');
    expect(failed.step ?? failed.op).toBeTruthy();
  });

  it('with a key in use is refused', async () => {
    launch('web', execPlan('exec sleep 60'));
    await answer('launched', 'web');
    const id = launch('web', execPlan('exit 0'));
    expect(await answer('launchFailed', 'web')).toMatchObject({
      request: id,
      op: 'duplicate key',
      errno: EEXIST,
    });
    expect(await replyTo((one) => ({ forget: { request: one, key: 'web' } }))).toBe(EBUSY);
    await replyTo((one) => ({ signal: { request: one, key: 'web', signal: 9 } }));
    await answer('exited', 'web');
    expect(await replyTo((one) => ({ forget: { request: one, key: 'web' } }))).toBe(0);
    launch('web', execPlan('exit 3'));
    await until('a second exit', () => session.all('exited').length === 2);
  });

  it('whose fifo is missing says which', async () => {
    const stdout = join(rig.dir, 'no-fifo');
    launch('web', execPlan('exit 0'), { stdout });
    expect(await answer('launchFailed', 'web')).toMatchObject({
      op: 'open stdio',
      errno: ENOENT,
      path: stdout,
    });
    expect(existsSync(stdout)).toBe(false);
  });

  it('killed at its gate is an exit; going on is refused then', async () => {
    launch('web', execPlan('exit 0', [CLONE, GATE]));
    await answer('launched', 'web');
    await replyTo((id) => ({ signal: { request: id, key: 'web', signal: 9 } }));
    expect((await answer('exited', 'web')).waitStatus).toBe(9);
    session.send({ continue: { request: ++request, key: 'web' } });
    expect(await answer('launchFailed', 'web')).toMatchObject({ request, op: 'continue', errno: ESRCH });
    expect(await replyTo((id) => ({ forget: { request: id, key: 'web' } }))).toBe(0);
  });

  it('may leave its mount namespace behind for a moment; Forget is answered when it is gone', async () => {
    const mountNamespace = (of: number): string => readlinkSync(`/proc/${of}/ns/mnt`);
    const held = (): string[] =>
      readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
        try {
          return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
        } catch {
          return [];
        }
      });
    for (const [key, holdMounts] of [
      ['holds', true],
      ['plain', false],
    ] as const) {
      session.send({
        launch: { request: ++request, key, plan: execPlan('exit 3', [CLONE, GATE]), stdio: {}, holdMounts },
      });
      const { pid: main } = await answer('launched', key);
      const name = mountNamespace(main ?? 0);
      await until('the namespace', () => held().includes(name) === holdMounts);
      session.send({ continue: { request: ++request, key } });
      expect((await answer('exited', key)).waitStatus).toBe(3 << 8);
      expect(await replyTo((id) => ({ forget: { request: id, key } }))).toBe(0);
      expect(held()).not.toContain(name);
    }
  });

  it('killed before its first gate is a failed launch with the wait status', async () => {
    const hook = { runHook: { path: '/bin/sleep', args: ['sleep', '60'], timeoutMs: 60_000 } };
    launch('web', execPlan('exit 0', [CLONE, hook, GATE]));
    const child = await until('the hook', () => childrenOf(pid).find((one) => childrenOf(one).length > 0));
    process.kill(child, 'SIGKILL');
    expect(await answer('launchFailed', 'web')).toMatchObject({ op: 'init died', waitStatus: 9 });
    expect(story('web')).toEqual(['launchFailed']);
  });

  it('fifty at once: each has its own status', async () => {
    for (let i = 0; i < 50; i++) launch(`p${i}`, execPlan(`exit ${i}`, i % 2 === 0 ? [CLONE] : []));
    await until('all exits', () => session.all('exited').length === 50, 120_000);
    for (let i = 0; i < 50; i++) {
      expect(messageFor(session, 'exited', `p${i}`)?.waitStatus).toBe(i << 8);
      expect(story(`p${i}`)).toEqual(['launched', 'exited']);
    }
    expect(childrenOf(pid)).toEqual([]);
  });
});

describe('a process that asks its parent to trace it', () => {
  it.each(TRACEES)('and %s is let go on', async (_what, script) => {
    launch('web', execPlan(script));
    expect((await answer('exited', 'web')).waitStatus).toBe(42 << 8);
    expect(story('web')).toEqual(['launched', 'exited']);
    await until('nothing to be left', () => childrenOf(pid).length === 0);
  });
});

describe('a process whose end another holds that traces it', () => {
  it('is told of when that one has ended; nothing spins until then', async () => {
    launch('web', execPlan(HELD_ZOMBIE));
    const { pid: main } = await answer('launched', 'web');
    await until('its end', () => stateOf(main ?? 0) === 'Z');
    expect(messageFor(session, 'exited', 'web')).toBeUndefined();
    await until('the monitor to sleep', asleep(pid));
    const [tracer] = childrenOf(pid).filter((child) => child !== main);
    expect(await replyTo((id) => ({ signal: { request: id, key: 'web', signal: 9 } }))).toBe(0);
    await until('the monitor to sleep again', asleep(pid));
    process.kill(tracer ?? 0, 'SIGKILL');
    expect((await answer('exited', 'web')).waitStatus).toBe(5 << 8);
  });
});

describe('the monitor', () => {
  it('may open as many files as it is allowed to; what it launches has the limit that it was given', async () => {
    const other = await rig.monitor('other', { openFiles: [64, 1024] });
    const limitOf = (of: number | 'self') =>
      /Max open files +(\d+) +(\d+)/.exec(readFileSync(`/proc/${of}/limits`, 'utf8'))?.slice(1);
    expect(limitOf(other.pid)).toEqual(['1024', '1024']);
    // The spare is there for the first.
    for (const key of ['first', 'second']) {
      launch(key, execPlan('exec sleep 60'), {}, other.session);
      const { pid: main } = await answer('launched', key, other.session);
      expect(limitOf(main ?? 0)).toEqual(['64', '1024']);
    }
    for (let i = 0; i < 64; i++) launch(`p${i}`, execPlan('exec sleep 60'), {}, other.session);
    await until('all of them', () => other.session.all('launched').length === 66, 120_000);
    expect(other.session.all('launchFailed')).toEqual([]);
  });

  it('that has no descriptor for a process that was just made ends it', async () => {
    const other = await rig.monitor('other', { openFiles: [40, 40] });
    const hang = join(rig.dir, 'hang');
    execFileSync('mkfifo', [hang]);
    const ran = join(rig.dir, 'ran');
    const steps = [{ writeFile: { path: hang, data: Buffer.from('x') } }, CLONE];
    launch('web', execPlan(`echo yes > ${ran}; exec sleep 60`, steps), {}, other.session);
    await until('the process', () => childrenOf(other.pid).length > 0);
    while (readdirSync(`/proc/${other.pid}/fd`).length < 40) await rig.dial(other.socket);
    // Some may have been open for a moment only; then one of these has their place.
    for (let i = 0; i < 3; i++) await rig.dial(other.socket);
    await until('no descriptor to be left for long', full(other.pid, 40));
    readFileSync(hang);
    expect(await answer('launchFailed', 'web', other.session)).toMatchObject({
      errno: EMFILE,
      op: 'pidfd_open',
    });
    await until('nothing to be left', () => childrenOf(other.pid).length === 0);
  });

  it('reaps orphans without taking the status of its own processes', async () => {
    const go = join(rig.dir, 'go');
    const orphan = (status: number) => `(sh -c "until [ -e ${go} ]; do sleep 0.01; done; exit ${status}" &)`;
    launch('web', execPlan(`${orphan(5)}; ${orphan(0)}; exec sleep 60`));
    const { pid: main } = await answer('launched', 'web');
    await until('orphans', () => childrenOf(pid).length === 3);
    writeFileSync(go, '');
    await until('their end', () => childrenOf(pid).length === 1);
    expect(childrenOf(pid)).toEqual([main]);
    await replyTo((id) => ({ signal: { request: id, key: 'web', signal: 15 } }));
    expect((await answer('exited', 'web')).waitStatus).toBe(15);
  });

  it('tells a new engine everything: running, waiting, exited', async () => {
    launch('runs', execPlan('exec sleep 60'));
    launch('waits', execPlan('exit 0', [CLONE, GATE]));
    launch('exited', execPlan('exit 9'));
    const runs = await answer('launched', 'runs');
    const waits = await answer('launched', 'waits');
    const exit = await answer('exited', 'exited');
    launch('died', execPlan('exit 0', [CLONE, GATE]));
    const died = await answer('launched', 'died');
    process.kill(died.pid ?? 0, 'SIGKILL');
    await answer('exited', 'died');
    await rig.engine.crash(true);
    const second = await until('a new session', () => rig.engine.sessions[1]);
    const states = [...(second.hello.processes ?? [])].sort((a, b) =>
      (a.key ?? '').localeCompare(b.key ?? ''),
    );
    expect(states).toMatchObject([
      { key: 'died', exited: true, running: false, waitStatus: 9 },
      { key: 'exited', exited: true, running: true, waitStatus: 9 << 8, exitedAtNs: exit.exitedAtNs },
      { key: 'runs', pid: runs.pid, running: true, exited: false },
      { key: 'waits', pid: waits.pid, pausedAt: 'start', running: false, exited: false },
    ]);
    second.send({ continue: { request: ++request, key: 'waits' } });
    await answer('exited', 'waits', second);
    second.send({ continue: { request: ++request, key: 'runs' } });
    expect(await answer('started', 'runs', second)).toMatchObject({ request, pid: runs.pid });
    expect(await replyTo((id) => ({ signal: { request: id, key: 'runs', signal: 9 } }), second)).toBe(0);
    await answer('exited', 'runs', second);
  });

  it('tells a new engine that what it takes for waiting has started meanwhile', async () => {
    launch('web', execPlan('exit 6', [CLONE, GATE]));
    await answer('launched', 'web');
    // The engine that lets it through does not live to see it go on.
    session.send({ continue: { request: ++request, key: 'web' } });
    await rig.engine.crash(true);
    const second = await until('a new session', () => rig.engine.sessions[1]);
    const exit = await until('its exit', () => {
      const told = second.hello.processes?.find(({ key }) => key === 'web');
      if (told?.exited === true) return { executed: told.running, waitStatus: told.waitStatus };
      return second.all('exited').find(({ key }) => key === 'web');
    });
    expect(exit).toMatchObject({ executed: true, waitStatus: 6 << 8 });
    // The request that comes again is answered, and no answer bears the number of the first.
    second.send({ continue: { request: ++request, key: 'web' } });
    await until('the answer', () => second.all('started').some((started) => started.request === request));
    expect(second.all('started').filter((started) => started.request === request - 1)).toEqual([]);
  });

  it('keeps an exit that happens while no engine is there', async () => {
    launch('web', execPlan('sleep 0.1; exit 4'));
    const { pid: main } = await answer('launched', 'web');
    await rig.engine.crash(false);
    // Reaped, and not only a zombie.
    await until('its end', () => stateOf(main ?? 0) === undefined);
    await rig.engine.listen();
    const second = await until('a new session', () => rig.engine.sessions[1]);
    expect(second.hello.processes).toMatchObject([{ key: 'web', exited: true, waitStatus: 4 << 8 }]);
  });

  it('does not abandon what runs: SIGTERM and Shutdown are ignored then', async () => {
    launch('web', execPlan('exec sleep 60'));
    const { pid: main } = await answer('launched', 'web');
    process.kill(pid, 'SIGTERM');
    session.send({ shutdown: {} });
    await pause(100);
    expect(alive(pid)).toBe(true);
    expect(alive(main ?? 0)).toBe(true);
    await replyTo((id) => ({ signal: { request: id, key: 'web', signal: 9 } }));
    await answer('exited', 'web');
    session.send({ shutdown: {} });
    await until('its end', () => !alive(pid));
  });
});
