/** The monitor and a guest's agent: connecting, processes, streams, calls, and guests that misbehave. */
import { readFileSync, readdirSync, readlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import { CREDIT, DATA, EOF, RESET, WINDOW, frame, preamble } from '../agent/mux.ts';
import { FakeAgent, controlFrame } from './fake_agent.ts';
import type { FromMonitor, Session } from './fake_engine.ts';
import { Fifos } from './fifos.ts';
import { ShimRig, execPlan, messageFor, pause, until } from './harness.ts';

const { AgentHello } = bulkhead.agent.v1;
const { ENOENT, ESRCH, EBUSY, EEXIST, EMSGSIZE, ECONNRESET, EISCONN, ENOTCONN, ETIMEDOUT } = {
  ENOENT: 2,
  ESRCH: 3,
  EBUSY: 16,
  EEXIST: 17,
  EMSGSIZE: 90,
  ECONNRESET: 104,
  EISCONN: 106,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
};
const PLAN = Buffer.from('a plan, read by the agent only');
const SIGKILLED = 9;
/** A control message of the guest's may be of 8 MiB; so may what the engine gets of it, with a little around it. */
const JUST_TOO_LONG = Buffer.alloc((8 << 20) - 100);

let rig: ShimRig;
let fifos: Fifos;
let session: Session;
let pid: number;
let agent: FakeAgent;
let request = 100;
beforeEach(async () => {
  rig = new ShimRig();
  fifos = new Fifos(rig.dir);
  await rig.engine.listen();
  ({ session, pid } = await rig.monitor());
  agent = new FakeAgent(join(rig.dir, 'agent.sock'));
});
afterEach(async () => {
  await agent.close();
  // The monitor leaves when asked, once it has seen that its guests are gone.
  await pause(20);
  fifos.dispose();
  await rig.dispose();
});

type Answered = 'launched' | 'launchFailed' | 'started' | 'exited';
const answer = <K extends Answered>(kind: K, key: string) =>
  until(`${kind} of ${key}`, () => messageFor(session, kind, key));
async function ask<K extends 'reply' | 'guestReply'>(
  kind: K,
  message: (request: number) => Parameters<Session['send']>[0],
): Promise<NonNullable<FromMonitor[K]>> {
  const id = ++request;
  session.send(message(id));
  const found = await until(kind, () =>
    (session.all(kind) as { request?: number | null }[]).find((one) => one.request === id),
  );
  return found;
}
const connect = (guest = 'vm', options: Partial<bulkhead.executor.v1.IGuestConnect> = {}) =>
  ask('guestReply', (request) => ({
    guestConnect: { request, guest, socketPath: agent.path, deadlineMs: 60_000, ...options },
  }));
const call = (bytes: string, deadlineMs = 60_000) =>
  ask('guestReply', (request) => ({
    guestCall: { request, guest: 'vm', call: Buffer.from(bytes), deadlineMs },
  }));
const signal = (key: string, signum: number) =>
  ask('reply', (request) => ({ signal: { request, key, signal: signum } }));
function send(key: string, stdio = {}, guest = 'vm', more = {}): void {
  session.send({ launch: { request: ++request, key, plan: PLAN, stdio, guest, ...more } });
}
async function connected(): Promise<void> {
  await agent.listen();
  expect((await connect()).errno ?? 0).toBe(0);
  await agent.take('hello');
}
/** Launches a process that runs; what the agent was asked. */
async function runs(key: string, stdio = {}, pausedAt = ''): Promise<bulkhead.agent.v1.IGuestLaunch> {
  send(key, stdio);
  const launch = await agent.take('launch');
  agent.send({ launched: { request: launch.request ?? 0, key, pid: 77, pausedAt } });
  await answer('launched', key);
  return launch;
}
const closed = () => until('the end of the channel', () => session.all('guestClosed')[0]);
const rssKb = (field: string): number =>
  Number(
    new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1],
  );

describe('connecting', () => {
  it('waits for the socket and answers with the hello of the agent', async () => {
    const connecting = connect();
    await pause(100);
    await agent.listen();
    const { errno, bytes } = await connecting;
    expect(errno ?? 0).toBe(0);
    expect(AgentHello.decode(bytes ?? new Uint8Array())).toMatchObject({ version: 'fake', kernel: '6.12' });
    expect((await agent.take('hello')).protocol).toBe(1);
  });

  it('finds its session behind what an earlier one left', async () => {
    agent.greet = (own) => [
      Buffer.from('\xff\xffrubbish', 'latin1'),
      frame(7, DATA, Buffer.alloc(60000)).subarray(0, 50000),
      preamble(),
      controlFrame({ hello: { protocol: 1, version: 'stale' } }),
      own.subarray(0, 20),
      own,
      controlFrame({ hello: { protocol: 1, version: 'fresh' } }),
    ];
    await agent.listen();
    const { errno, bytes } = await connect();
    expect(errno ?? 0).toBe(0);
    expect(AgentHello.decode(bytes ?? new Uint8Array()).version).toBe('fresh');
  });

  it('says what it waited for in vain', async () => {
    expect(await connect('vm', { deadlineMs: 60 })).toMatchObject({ errno: ETIMEDOUT, what: 'connect' });
    agent.greet = () => [];
    await agent.listen();
    expect(await connect('vm', { deadlineMs: 1000 })).toMatchObject({ errno: ETIMEDOUT, what: 'handshake' });
    agent.greet = (own) => [own, controlFrame({ hello: { protocol: 2 } })];
    expect(await connect()).toMatchObject({ errno: ECONNRESET, what: 'handshake' });
    agent.greet = (own) => [own, controlFrame({ event: {} })];
    expect(await connect()).toMatchObject({ errno: ECONNRESET, what: 'handshake' });
    agent.greet = (own) => [own, controlFrame({ hello: { protocol: 1, version: JUST_TOO_LONG.toString() } })];
    expect(await connect()).toMatchObject({ errno: ECONNRESET, what: 'handshake' });
    const long = join(rig.dir, 'x'.repeat(120));
    expect(await connect('vm', { socketPath: long })).toMatchObject({ errno: 36, what: 'connect' });
  });

  it('waits for an agent behind vsock as well, and says that it is in vain', async () => {
    // 97: a kernel that has no vsock at all.
    const nobody = await connect('vm', { socketPath: 'vsock://4294967290:1024', deadlineMs: 100 });
    expect(nobody).toMatchObject({ what: 'connect' });
    expect([ETIMEDOUT, 97]).toContain(nobody.errno);
    expect(await connect('vm', { socketPath: 'vsock://7', deadlineMs: 100 })).toMatchObject({
      errno: ETIMEDOUT,
      what: 'connect',
    });
  });

  it('ends with the hypervisor', async () => {
    session.send({ launch: { request: ++request, key: 'vm', plan: execPlan('sleep 0.1'), stdio: {} } });
    await answer('launched', 'vm');
    const began = Date.now();
    expect(await connect('guest', { diesWith: 'vm', deadlineMs: 60_000 })).toMatchObject({
      errno: ECONNRESET,
      what: 'connect',
    });
    expect(Date.now() - began).toBeLessThan(50_000);
  });

  it('is done once for a name', async () => {
    await connected();
    expect(await connect()).toMatchObject({ errno: EISCONN });
    agent.hangUp();
    expect(await closed()).toMatchObject({ guest: 'vm', reason: 'closed by the other end' });
    expect((await connect()).errno ?? 0).toBe(0);
  });

  it('nothing can be asked of a guest that is not there', async () => {
    send('web');
    expect(await answer('launchFailed', 'web')).toMatchObject({ op: 'guest', errno: ENOTCONN, path: 'vm' });
    expect(await call('x')).toMatchObject({ errno: ENOTCONN, what: 'channel' });
  });
});

describe('processes', () => {
  beforeEach(connected);

  it('live the life of any process', async () => {
    const stdout = fifos.make('out');
    const stdin = fifos.make('in');
    const out = fifos.reader(stdout);
    send('web', { stdin, stdout, stdinAtGate: true }, 'vm', { diesWith: 'pause' });
    const launch = await agent.take('launch');
    expect(launch).toMatchObject({ key: 'web', diesWith: 'pause', terminal: false, stdin: 1, stdout: 2 });
    expect(launch.stderr ?? 0).toBe(0);
    expect(Buffer.from(launch.plan ?? [])).toEqual(PLAN);
    agent.send({ launchWarning: { key: 'web', warning: { index: 3, path: '/sys/x', errno: ENOENT } } });
    agent.send({ launched: { request: launch.request, key: 'web', pid: 12, pausedAt: 'start' } });
    expect(await answer('launched', 'web')).toMatchObject({ request, pid: 12, pausedAt: 'start' });
    expect(session.all('launchWarning')[0]).toMatchObject({
      key: 'web',
      warning: { index: 3, errno: ENOENT },
    });
    // Nobody reads stdin before the gate.
    expect(() => fifos.writer(stdin)).toThrow('ENXIO');
    session.send({ continue: { request: ++request, key: 'web' } });
    expect((await agent.take('continue')).key).toBe('web');
    agent.send({ started: { request: 1, key: 'web', pid: 12 } });
    expect(await answer('started', 'web')).toMatchObject({ request, pid: 12 });
    writeSync(fifos.writer(stdin), 'typed');
    await until('input', () => agent.input(1) === 'typed');
    agent.data(2, 'said');
    await out.until('output', (text) => text === 'said');

    const killing = signal('web', 15);
    const asked = await agent.take('signal');
    expect(asked).toMatchObject({ key: 'web', signal: 15 });
    agent.send({ reply: { request: asked.request ?? 0 } });
    expect((await killing).errno ?? 0).toBe(0);
    agent.eof(2);
    agent.send({ exited: { key: 'web', pid: 12, waitStatus: 15, exitedAtNs: 1 } });
    const exited = await answer('exited', 'web');
    expect(exited).toMatchObject({ pid: 12, waitStatus: 15 });
    expect(Math.abs(Number(exited.exitedAtNs) / 1e6 - Date.now())).toBeLessThan(60_000);
    expect((await signal('web', 9)).errno).toBe(ESRCH);
    await out.toEnd();
    expect((await ask('reply', (request) => ({ forget: { request, key: 'web' } }))).errno ?? 0).toBe(0);
    expect((await agent.take('forget')).key).toBe('web');
    expect((await signal('web', 9)).errno).toBe(ESRCH);
  });

  it('a launch that fails leaves its key and its fifos free', async () => {
    const stdout = fifos.make('out');
    for (const failure of [
      { step: { index: 2, action: 21, path: '/proc', errno: ENOENT, detail: 'x' } },
      { op: 'init died', waitStatus: 9 },
    ]) {
      session.received.length = 0;
      send('web', { stdout });
      const launch = await agent.take('launch');
      agent.send({ launchFailed: { request: launch.request, key: 'web', ...failure } });
      expect(await answer('launchFailed', 'web')).toMatchObject({ request, ...failure });
      expect(() => fifos.writer(stdout)).toThrow('ENXIO');
    }
    send('web', { stdout: join(rig.dir, 'absent') });
    await until('refusal', () => session.all('launchFailed').length === 2);
    expect(session.all('launchFailed')[1]).toMatchObject({
      op: 'open stdio',
      errno: ENOENT,
      path: join(rig.dir, 'absent'),
    });
    expect(agent.received).toEqual([]);
  });

  it('keys are unique across host and guests', async () => {
    await runs('web');
    send('web');
    expect(await answer('launchFailed', 'web')).toMatchObject({ op: 'duplicate key', errno: EEXIST });
    session.received.length = 0;
    session.send({ launch: { request: ++request, key: 'web', plan: execPlan('true'), stdio: {} } });
    expect(await answer('launchFailed', 'web')).toMatchObject({ op: 'duplicate key', errno: EEXIST });
    session.send({ launch: { request: ++request, key: 'host', plan: execPlan('sleep 5'), stdio: {} } });
    await answer('launched', 'host');
    send('host');
    expect(await answer('launchFailed', 'host')).toMatchObject({ op: 'duplicate key', errno: EEXIST });
    await signal('host', 9);
    expect((await ask('reply', (request) => ({ forget: { request, key: 'web' } }))).errno).toBe(EBUSY);
  });

  it('a shutdown waits for them', async () => {
    await runs('web');
    session.send({ shutdown: {} });
    await pause(100);
    expect(session.closed).toBe(false);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    await answer('exited', 'web');
    session.send({ shutdown: {} });
    await until('the monitor to leave', () => session.closed);
  });

  it('a new engine is told of them, and of what it missed', async () => {
    const { stdout } = await runs('web', { stdout: fifos.make('out') });
    send('slow');
    await agent.take('launch');
    const old = { request: ++request, guest: 'vm', call: Buffer.from('x'), deadlineMs: 60_000 };
    session.send({ guestCall: old });
    const unanswered = await agent.take('call');
    await rig.engine.crash(false);
    await pause(50);
    agent.send({ event: { event: Buffer.from('missed') } });
    agent.data(stdout ?? 0, 'more');
    await pause(50);
    await rig.engine.listen();
    session = await until('hello again', () => rig.engine.sessions[1]);
    expect(session.hello.guests).toEqual(['vm']);
    expect(session.hello.processes).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ key: 'web', guest: 'vm', pid: 77, running: true }),
        expect.objectContaining({ key: 'slow', guest: 'vm' }),
      ]),
    );
    const event = await until('event', () => session.all('guestEvent')[0]);
    expect(Buffer.from(event.event ?? []).toString()).toBe('missed');
    // The requests of the old engine are nobody's.
    agent.send({ call: { request: unanswered.request ?? 0 } });
    agent.send({ launched: { request: 1, key: 'slow', pid: 78, pausedAt: 'start' } });
    expect((await answer('launched', 'slow')).request ?? 0).toBe(0);
    session.send({ continue: { request: ++request, key: 'web' } });
    expect(await answer('started', 'web')).toMatchObject({ request });
    expect(session.all('guestReply')).toEqual([]);
  });
});

describe('what a new engine has missed', () => {
  beforeEach(connected);

  it('is kept up to 64 KiB, and the end of a guest in any case', async () => {
    await rig.engine.crash(false);
    // The small ones leave no room for anything else.
    for (const size of [1024, 1]) {
      const event = controlFrame({ event: { event: Buffer.alloc(size, 'e') } });
      agent.raw(Buffer.concat(Array.from({ length: 200 }, () => event)));
    }
    agent.hangUp();
    await until('the connection to be closed', () => agent.closed);
    await pause(50);
    await rig.engine.listen();
    session = await until('hello again', () => rig.engine.sessions[1]);
    expect((await closed()).guest).toBe('vm');
    const kept = session.all('guestEvent').reduce((sum, { event }) => sum + (event?.length ?? 0), 0);
    expect(kept).toBeGreaterThan(32 << 10);
    expect(kept).toBeLessThan(64 << 10);
  });
});

describe('streams', () => {
  beforeEach(connected);

  it('hold output back from a reader that does not read, and nothing else', async () => {
    const paths = { stdout: fifos.make('out'), stderr: fifos.make('err') };
    const out = fifos.reader(paths.stdout);
    const err = fifos.reader(paths.stderr);
    const { stdout = 0, stderr = 0 } = await runs('web', paths);
    for (let sent = 0; sent < WINDOW; sent += 65536) agent.data(stdout ?? 0, Buffer.alloc(65536, 'x'));
    agent.data(stderr ?? 0, 'still here');
    await err.until('the other stream', (text) => text === 'still here');
    // What the fifo took is given back, and no more.
    await pause(50);
    expect(agent.credits(stdout ?? 0)).toBe(65536);
    await out.until('all of it', (text) => text.length === WINDOW);
    await until('credit for all of it', () => agent.credits(stdout ?? 0) === WINDOW);
  });

  it('hold input back from an agent that gives no credit', async () => {
    const stdin = fifos.make('in');
    const launch = await runs('web', { stdin });
    const client = fifos.writer(stdin);
    const chunk = Buffer.alloc(16384, 'i');
    let written = 0;
    const fill = (): boolean => {
      try {
        for (;;) written += writeSync(client, chunk);
      } catch {
        return agent.input(launch.stdin ?? 0).length === WINDOW && written >= WINDOW + 65536;
      }
    };
    await until('the window to be used up', fill);
    await pause(50);
    expect(agent.input(launch.stdin ?? 0).length).toBe(WINDOW);
    agent.credit(launch.stdin ?? 0, 100_000);
    await until('the rest', () => agent.input(launch.stdin ?? 0).length === written);
  });

  it('end: stdin after CloseStdin, whose client may still be writing', async () => {
    const stdin = fifos.make('in');
    const launch = await runs('web', { stdin });
    const client = fifos.writer(stdin);
    writeSync(client, 'a');
    await until('input', () => agent.input(launch.stdin ?? 0) === 'a');
    fifos.close(client);
    await pause(30);
    expect(agent.has(launch.stdin ?? 0, EOF)).toBe(false);
    const again = fifos.writer(stdin);
    expect((await ask('reply', (request) => ({ closeStdin: { request, key: 'web' } }))).errno ?? 0).toBe(0);
    writeSync(again, 'b');
    await until('input', () => agent.input(launch.stdin ?? 0) === 'ab');
    fifos.close(again);
    await until('the end', () => agent.has(launch.stdin ?? 0, EOF));
  });

  it.each([
    ['and is closed', true],
    ['and is not', false],
  ])('stdin has its reader from the start gate on %s before: nothing of it stays', async (_, early) => {
    const stdin = fifos.make('in');
    const held = () =>
      readdirSync(`/proc/${pid}/fd`).filter((fd) => {
        try {
          return readlinkSync(`/proc/${pid}/fd/${fd}`) === stdin;
        } catch {
          return false;
        }
      }).length;
    const launch = await runs('web', { stdin, stdinAtGate: true }, 'start');
    expect(held()).toBe(1);
    if (early) await ask('reply', (request) => ({ closeStdin: { request, key: 'web' } }));
    session.send({ continue: { request: ++request, key: 'web' } });
    await agent.take('continue');
    agent.send({ started: { key: 'web', pid: 77 } });
    await answer('started', 'web');
    if (early) {
      await until('the end', () => agent.has(launch.stdin ?? 0, EOF));
    } else {
      const client = fifos.writer(stdin);
      agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
      await answer('exited', 'web');
      expect(() => writeSync(client, 'x')).toThrow('EPIPE');
    }
    await until('it to be let go', () => held() === 0);
  });

  it('a guest that does not read stdin any more breaks the pipe', async () => {
    const stdin = fifos.make('in');
    const launch = await runs('web', { stdin });
    const client = fifos.writer(stdin);
    agent.reset(launch.stdin ?? 0);
    await until('EPIPE', () => {
      try {
        writeSync(client, 'x');
        return false;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code === 'EPIPE';
      }
    });
  });

  it('a terminal is bytes both ways, and resizing is asked of the agent', async () => {
    const paths = { stdin: fifos.make('in'), stdout: fifos.make('out') };
    const out = fifos.reader(paths.stdout);
    const launch = await runs('web', { ...paths, terminal: true });
    expect(launch).toMatchObject({ terminal: true, stdin: 1, stdout: 2 });
    expect(launch.stderr ?? 0).toBe(0);
    const resizing = ask('reply', (request) => ({ resize: { request, key: 'web', width: 80, height: 24 } }));
    const asked = await agent.take('resize');
    expect(asked).toMatchObject({ key: 'web', width: 80, height: 24 });
    agent.send({ reply: { request: asked.request ?? 0, errno: 0 } });
    expect((await resizing).errno ?? 0).toBe(0);
    writeSync(fifos.writer(paths.stdin), '\x03');
    await until('input', () => agent.input(1) === '\x03');
    agent.data(2, '\x1b[2J');
    await out.until('output', (text) => text === '\x1b[2J');
    await ask('reply', (request) => ({ closeStdin: { request, key: 'web' } }));
    await pause(30);
    expect(agent.has(1, EOF)).toBe(false);
  });

  it('plain files take output too', async () => {
    const stdout = join(rig.dir, 'log');
    const launch = await runs('web', { stdout, append: true });
    agent.data(launch.stdout ?? 0, 'one\n');
    agent.data(launch.stdout ?? 0, 'two\n');
    await until('lines', () => readFileSync(stdout, 'utf8') === 'one\ntwo\n');
  });

  it('an exit is told after the output that came before it', async () => {
    const stdout = fifos.make('out');
    const out = fifos.reader(stdout);
    const launch = await runs('web', { stdout });
    for (let sent = 0; sent < 196608; sent += 65536) agent.data(launch.stdout ?? 0, Buffer.alloc(65536, 'x'));
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 256 } });
    agent.data(launch.stdout ?? 0, '');
    await pause(100);
    expect(messageFor(session, 'exited', 'web')).toBeUndefined();
    await out.until('all of it', (text) => text.length === 196608);
    expect((await answer('exited', 'web')).waitStatus).toBe(256);
    // Something that it left behind goes on writing.
    agent.data(launch.stdout ?? 0, 'daemon');
    await out.until('the daemon', (text) => text.endsWith('daemon'));
  });

  it.each([
    ['its stream ends', true, (stdout: string) => fifos.reader(stdout), undefined],
    ['descendants hold it', false, (stdout: string) => fifos.reader(stdout), undefined],
    ['its reader comes later', true, () => undefined, (stdout: string) => fifos.reader(stdout)],
  ])('an exit is told when the output has been read: %s', async (_, ends, before, after) => {
    const stdout = fifos.make('out');
    const early = before(stdout);
    const launch = await runs('web', { stdout });
    agent.data(launch.stdout ?? 0, 'kept');
    if (ends) agent.eof(launch.stdout ?? 0);
    else agent.data(launch.stdout ?? 0, '');
    const begun = Date.now();
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 256 } });
    await pause(100);
    const told = messageFor(session, 'exited', 'web');
    // It is told after a second in any case.
    if (Date.now() - begun < 1000) expect(told).toBeUndefined();
    const reader = early ?? after?.(stdout);
    await reader?.until('it', (text) => text === 'kept');
    expect((await answer('exited', 'web')).outputWaits ?? false).toBe(false);
    expect(session.all('exited')).toHaveLength(1);
  });

  it('an exit waits no longer than a second for a reader that has stopped', async () => {
    const stdout = fifos.make('out');
    fifos.reader(stdout);
    const launch = await runs('web', { stdout });
    for (let sent = 0; sent < 131072; sent += 65536) agent.data(launch.stdout ?? 0, Buffer.alloc(65536, 'x'));
    agent.eof(launch.stdout ?? 0);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    const began = Date.now();
    await answer('exited', 'web');
    expect(Date.now() - began).toBeGreaterThan(800);
    expect(Date.now() - began).toBeLessThan(60_000);
  });

  it('output of a forgotten process is for its reader still, or ends', async () => {
    const stdout = fifos.make('out');
    const out = fifos.reader(stdout);
    const launch = await runs('web', { stdout });
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    agent.data(launch.stdout ?? 0, '');
    await answer('exited', 'web');
    await ask('reply', (request) => ({ forget: { request, key: 'web' } }));
    agent.data(launch.stdout ?? 0, 'late');
    await out.until('output', (text) => text === 'late');
    agent.eof(launch.stdout ?? 0);
    await out.toEnd();
    send('web');
    await agent.take('launch');
  });
});

describe('output of a process that ended before anybody opened its fifo', () => {
  beforeEach(connected);
  const forget = (): Promise<number> =>
    ask('reply', (request) => ({ forget: { request, key: 'web' } })).then(({ errno }) => errno ?? 0);

  it.each([
    ['all of it in the fifo', 4],
    ['more than a fifo holds', 131_072],
  ])('waits for a first reader, and so does Forget: %s', async (_, bytes) => {
    const stdout = fifos.make('out');
    const launch = await runs('web', { stdout });
    for (let left = bytes; left > 0; left -= 65_536)
      agent.data(launch.stdout ?? 0, Buffer.alloc(Math.min(left, 65_536), 'x'));
    agent.eof(launch.stdout ?? 0);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    const forgotten = forget();
    expect(await Promise.race([forgotten, pause(100)])).toBeUndefined();
    const late = fifos.reader(stdout);
    await late.until('all of it', (text) => text.length === bytes);
    expect(await forgotten).toBe(0);
    await late.toEnd();
    send('web');
    await agent.take('launch');
  });

  it('waits when the stream ends after the process', async () => {
    const stdout = fifos.make('out');
    const launch = await runs('web', { stdout });
    agent.data(launch.stdout ?? 0, Buffer.alloc(4, 'x'));
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    agent.eof(launch.stdout ?? 0);
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    const forgotten = forget();
    const late = fifos.reader(stdout);
    await late.until('all of it', (text) => text.length === 4);
    expect(await forgotten).toBe(0);
  });

  it('is not waited for when a reader was there and left, nor for what descendants may still write', async () => {
    const [stdout, stderr] = [fifos.make('out'), fifos.make('err')];
    const reader = fifos.reader(stdout);
    const launch = await runs('web', { stdout, stderr });
    reader.close();
    agent.data(launch.stdout ?? 0, Buffer.alloc(4, 'x'));
    agent.eof(launch.stdout ?? 0);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    agent.data(launch.stderr ?? 0, '');
    expect((await answer('exited', 'web')).outputWaits ?? false).toBe(false);
    expect(await forget()).toBe(0);
  });

  it.each([
    ['all of it in the fifo', 4, true],
    ['more than a fifo holds', 131_072, true],
    ['from a process whose descendants still hold its output', 4, false],
  ])('is waited for when a reader is there that has not read yet: %s', async (_, bytes, ends) => {
    const stdout = fifos.make('out');
    const reader = fifos.reader(stdout);
    const launch = await runs('web', { stdout });
    for (let left = bytes; left > 0; left -= 65_536)
      agent.data(launch.stdout ?? 0, Buffer.alloc(Math.min(left, 65_536), 'x'));
    if (ends) agent.eof(launch.stdout ?? 0);
    else agent.data(launch.stdout ?? 0, '');
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    const forgotten = forget();
    expect(await Promise.race([forgotten, pause(100)])).toBeUndefined();
    await reader.until('all of it', (text) => text.length === bytes);
    expect(await forgotten).toBe(0);
  });

  it('is not waited for when its reader leaves with something unread', async () => {
    const stdout = fifos.make('out');
    const reader = fifos.reader(stdout);
    const launch = await runs('web', { stdout });
    agent.data(launch.stdout ?? 0, Buffer.alloc(4, 'x'));
    agent.eof(launch.stdout ?? 0);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    const forgotten = forget();
    expect(await Promise.race([forgotten, pause(50)])).toBeUndefined();
    reader.close();
    expect(await forgotten).toBe(0);
  });

  it('is forgotten by a new engine that asks again', async () => {
    const stdout = fifos.make('out');
    const launch = await runs('web', { stdout });
    agent.data(launch.stdout ?? 0, Buffer.alloc(4, 'x'));
    agent.eof(launch.stdout ?? 0);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    await answer('exited', 'web');
    session.send({ forget: { request: ++request, key: 'web' } });
    await rig.engine.crash(true);
    session = await until('hello again', () => rig.engine.sessions[1]);
    const forgotten = forget();
    const late = fifos.reader(stdout);
    await late.until('all of it', (text) => text.length === 4);
    expect(await forgotten).toBe(0);
  });
});

describe('calls and events', () => {
  beforeEach(connected);

  it('pass unread', async () => {
    const asking = call('question');
    const { request, call: bytes } = await agent.take('call');
    expect(Buffer.from(bytes ?? []).toString()).toBe('question');
    agent.send({ call: { request: request ?? 0, reply: Buffer.from('answer') } });
    const answered = await asking;
    expect(answered.errno ?? 0).toBe(0);
    expect(Buffer.from(answered.bytes ?? []).toString()).toBe('answer');
    agent.send({ event: { event: Buffer.from('news') } });
    const event = await until('event', () => session.all('guestEvent')[0]);
    expect(event.guest).toBe('vm');
    expect(Buffer.from(event.event ?? []).toString()).toBe('news');
  });

  it('an answer that does not fit into a message to the engine is an error', async () => {
    const asking = call('question');
    const { request } = await agent.take('call');
    agent.send({ call: { request: request ?? 0, reply: JUST_TOO_LONG } });
    expect(await asking).toMatchObject({ errno: EMSGSIZE, what: 'call' });
    expect(session.closed).toBe(false);
  });

  it('refusals come with what the agent said', async () => {
    const asking = call('question');
    const { request } = await agent.take('call');
    agent.send({ call: { request: request ?? 0, errno: ENOENT, reply: Buffer.from('why') } });
    const refused = await asking;
    expect(refused.errno).toBe(ENOENT);
    expect(refused.what ?? '').toBe('');
    expect(Buffer.from(refused.bytes ?? []).toString()).toBe('why');
  });

  it('have a deadline, and a late answer is nobody’s', async () => {
    const late = await call('question', 60);
    expect(late).toMatchObject({ errno: ETIMEDOUT, what: 'call' });
    const { request } = await agent.take('call');
    agent.send({ call: { request: request ?? 0 } });
    const next = call('again');
    const again = await agent.take('call');
    agent.send({ call: { request: again.request ?? 0, reply: Buffer.from('fresh') } });
    expect(Buffer.from((await next).bytes ?? []).toString()).toBe('fresh');
  });

  it('are not hoarded for an agent that answers none', async () => {
    for (let i = 0; i < 1024; i++) {
      session.send({
        guestCall: { request: ++request, guest: 'vm', call: Buffer.from('x'), deadlineMs: 60_000 },
      });
    }
    expect(await call('x')).toMatchObject({ errno: EBUSY });
    agent.hangUp();
    await closed();
    expect(session.all('guestReply').filter(({ errno }) => errno === ECONNRESET)).toHaveLength(1024);
  });

  it('a flood of events waits for an engine that does not read', async () => {
    session.socket.pause();
    const event = controlFrame({ event: { event: Buffer.alloc(65536, 'e') } });
    for (let i = 0; i < 400; i++) agent.raw(event);
    await pause(300);
    expect(rssKb('Rss')).toBeLessThan(8192);
    session.socket.resume();
    await until('all events', () => session.all('guestEvent').length === 400);
  });
});

describe('what a guest tells unasked', () => {
  beforeEach(connected);

  const event = (i: number) => controlFrame({ event: { event: Buffer.from(`event ${i}`) } });
  const warning = () => controlFrame({ launchWarning: { key: 'web', warning: { path: '/x' } } });
  it.each([
    ['events', event, () => session.all('guestEvent').map((one) => Buffer.from(one.event ?? []).toString())],
    ['warnings', warning, () => session.all('launchWarning')],
  ])(
    '%s: no more than 512 at once and 256 a second; the others wait, and nothing else',
    async (_what, one, told) => {
      await runs('web');
      // Time in which it says next to nothing is not saved up.
      agent.raw(one(0));
      await pause(1000);
      const begun = Date.now();
      agent.raw(Buffer.concat(Array.from({ length: 899 }, (_, i) => one(i + 1))));
      await until('the first', () => told().length >= 512);
      expect(
        (await ask('reply', (id) => ({ signal: { request: id, key: 'nobody', signal: 9 } }))).errno,
      ).toBe(ESRCH);
      await until('all', () => told().length === 900);
      expect(Date.now() - begun).toBeGreaterThan(1200);
      const asking = call('alive?');
      agent.send({ call: { request: (await agent.take('call')).request ?? 0 } });
      expect((await asking).errno ?? 0).toBe(0);
      if (one === event) expect(told()).toEqual(Array.from({ length: 900 }, (_, i) => `event ${i}`));
    },
  );

  it('is heard to the end of a guest that hangs up', async () => {
    const flood = Buffer.concat(Array.from({ length: 520 }, (_, i) => event(i)));
    agent.raw(flood);
    await until('the first', () => session.all('guestEvent').length >= 512);
    agent.hangUp();
    expect((await closed()).reason).toBe('closed by the other end');
    expect(session.all('guestEvent')).toHaveLength(520);
  });
});

describe('a guest that ends or misbehaves', () => {
  beforeEach(connected);

  const garbage: [string, () => void, string][] = [
    ['hangs up', () => agent.hangUp(), 'closed by the other end'],
    ['sends no frame', () => agent.raw(Buffer.alloc(64, 0x7f)), 'a frame of no known kind'],
    [
      'sends an endless message',
      () => agent.raw(frame(0, DATA).fill(0x40, 0, 1)),
      'a control message over 8 MiB',
    ],
    [
      'sends no message',
      () => agent.raw(frame(0, DATA, Buffer.from([0x0a, 0xff]))),
      'a message that is none',
    ],
    [
      'tells what does not fit into a message to the engine',
      () => agent.send({ event: { event: JUST_TOO_LONG } }),
      'an endless event',
    ],
    ['says hello twice', () => agent.send({ hello: { protocol: 1 } }), 'a second hello'],
    ['begins anew', () => agent.raw(preamble()), 'a second start of the session'],
    [
      'overruns a window',
      () => {
        for (let i = 0; i < 20; i++) agent.data(1, Buffer.alloc(65536));
      },
      "more data than the stream's window",
    ],
  ];
  it.each(garbage)('that %s is one error, and its processes are dead', async (_name, misbehave, reason) => {
    const stdout = fifos.make('out');
    const out = fifos.reader(stdout);
    const { stdout: stream } = await runs('web', { stdout });
    expect(stream).toBe(1);
    agent.data(1, 'last words');
    await out.until('last words', (text) => text === 'last words');
    send('half');
    await agent.take('launch');
    send('gated');
    await agent.take('launch');
    agent.send({ launched: { request: 1, key: 'gated', pid: 5, pausedAt: 'start' } });
    await answer('launched', 'gated');
    const asking = call('question');
    const killing = signal('web', 15);
    await agent.take('call');
    misbehave();
    expect(await closed()).toEqual(expect.objectContaining({ guest: 'vm', reason }));
    expect(await answer('exited', 'web')).toMatchObject({ pid: 77, waitStatus: SIGKILLED });
    expect(await answer('exited', 'gated')).toMatchObject({ waitStatus: SIGKILLED });
    expect(await answer('launchFailed', 'half')).toMatchObject({ op: 'guest', errno: ECONNRESET });
    expect(await asking).toMatchObject({ errno: ECONNRESET, what: 'channel' });
    expect((await killing).errno).toBe(ESRCH);
    expect(session.received.at(-1)?.guestClosed).toBeTruthy();
    await until('the connection to be closed', () => agent.closed);
    await out.toEnd();
    for (const key of ['web', 'gated']) {
      expect((await ask('reply', (request) => ({ forget: { request, key } }))).errno ?? 0).toBe(0);
    }
    // The name is free, and the monitor as good as new.
    expect((await connect()).errno ?? 0).toBe(0);
    await runs('web');
  });

  it('messages that no state expects change nothing', async () => {
    await runs('web');
    for (const key of ['web', 'nobody']) {
      agent.send({ started: { request: 9, key, pid: 1 } });
      agent.send({ launched: { request: 9, key, pid: 1, pausedAt: 'start' } });
      agent.send({ launchFailed: { request: 9, key, op: 'x' } });
      agent.send({ reply: { request: 999, errno: 5 } });
      agent.send({ call: { request: 999, errno: 5 } });
    }
    agent.data(4711, 'x');
    agent.credit(4711, 5);
    const asking = call('alive?');
    const { request } = await agent.take('call');
    agent.send({ call: { request: request ?? 0 } });
    expect((await asking).errno ?? 0).toBe(0);
    expect(session.all('started')).toEqual([]);
    expect(session.all('launchFailed')).toEqual([]);
    expect(session.all('launched')).toHaveLength(1);
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 0 } });
    agent.send({ exited: { key: 'web', pid: 77, waitStatus: 9 } });
    await answer('exited', 'web');
    await pause(30);
    expect(session.all('exited')).toHaveLength(1);
  });

  it('a reader of everything is a reader of nothing: it is given up, and the memory with it', async () => {
    agent.pause();
    const large = Buffer.alloc(7 << 20, 'p');
    for (let i = 0; i < 8; i++) {
      session.send({ guestCall: { request: ++request, guest: 'vm', call: large, deadlineMs: 60_000 } });
    }
    expect((await until('the end', () => session.all('guestClosed')[0], 120_000)).reason).toBe(
      'the other end does not read',
    );
    await until('the memory back', () => rssKb('Private_Dirty') < 2048);
  });

  it('an idle channel costs next to nothing', async () => {
    const paths = { stdin: fifos.make('in'), stdout: fifos.make('out'), stderr: fifos.make('err') };
    await runs('web', paths);
    fifos.reader(paths.stdout);
    await pause(1200);
    expect(rssKb('Private_Dirty')).toBeLessThan(1024);
    expect(agent.has(1, RESET) || agent.has(1, CREDIT)).toBe(false);
  });
});
