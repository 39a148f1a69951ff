import { describe, expect, it } from 'vitest';
import { bulkhead } from '../gen/bulkhead.js';
import { GuestError, LaunchError } from '../sandbox/executor.ts';
import { MonitorExecutor } from './monitor_executor.ts';

type IToMonitor = bulkhead.executor.v1.IToMonitor;
const { ToEngine } = bulkhead.executor.v1;

/** An executor whose monitor is the test. */
class Rig {
  readonly sent: IToMonitor[] = [];
  readonly executor: MonitorExecutor;

  constructor(guests: string[] = []) {
    this.executor = new MonitorExecutor((message) => this.sent.push(message), guests);
  }
  get guests(): MonitorExecutor['guests'] {
    return this.executor.guests;
  }
  last<K extends keyof IToMonitor>(kind: K): NonNullable<IToMonitor[K]> {
    const message = this.sent.at(-1)?.[kind];
    if (message === undefined || message === null) throw new Error(`the last message is no ${kind}`);
    return message;
  }
  /** As it comes over the wire. */
  tell(message: bulkhead.executor.v1.IToEngine): boolean {
    return this.executor.handle(ToEngine.decode(ToEngine.encode(message).finish()));
  }
}

const stdio = { stdin: '', stdout: '/out', stderr: '', terminal: false };

describe('connecting', () => {
  it('resolves with the hello of the agent, and remembers the guest until its channel is gone', async () => {
    const rig = new Rig();
    const connecting = rig.guests.connect('vm', '/run/agent.sock', 900, 'pod/vm');
    const { request, ...asked } = rig.last('guestConnect');
    expect(asked).toEqual({
      guest: 'vm',
      socketPath: '/run/agent.sock',
      deadlineMs: 900,
      diesWith: 'pod/vm',
    });
    expect(rig.guests.isConnected('vm')).toBe(false);
    expect(rig.tell({ guestReply: { request: request ?? 0, bytes: Buffer.from('hello') } })).toBe(true);
    expect(Buffer.from(await connecting).toString()).toBe('hello');
    expect(rig.guests.isConnected('vm')).toBe(true);

    const closed: string[] = [];
    const stop = rig.guests.onClosed((guest, reason) => closed.push(`${guest}: ${reason}`));
    rig.tell({ guestClosed: { guest: 'vm', reason: 'a second hello' } });
    expect(rig.guests.isConnected('vm')).toBe(false);
    stop();
    rig.tell({ guestClosed: { guest: 'vm', reason: 'again' } });
    expect(closed).toEqual(['vm: a second hello']);
  });

  it('knows the guests that a former engine connected', () => {
    expect(new Rig(['vm']).guests.isConnected('vm')).toBe(true);
  });

  it('rejects with what was waited for', async () => {
    const rig = new Rig();
    const connecting = rig.guests.connect('vm', '/run/agent.sock', 900);
    rig.tell({
      guestReply: { request: rig.last('guestConnect').request ?? 0, errno: 110, what: 'handshake' },
    });
    const error: unknown = await connecting.catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(GuestError);
    expect(error).toMatchObject({ code: 'ETIMEDOUT', errno: 110, what: 'handshake' });
    expect((error as Error).message).toBe('connection timed out');
    expect(rig.guests.isConnected('vm')).toBe(false);
  });
});

describe('calls', () => {
  it('are answered in any order, apart from requests about processes', async () => {
    const rig = new Rig(['vm']);
    const first = rig.guests.call('vm', Buffer.from('1'));
    const one = rig.last('guestCall');
    expect(one).toMatchObject({ guest: 'vm', deadlineMs: 0 });
    const second = rig.guests.call('vm', Buffer.from('2'), 50);
    const two = rig.last('guestCall');
    expect(two.deadlineMs).toBe(50);
    const launching = rig.executor.launch('web', Buffer.from('plan'), stdio, {
      guest: 'vm',
      diesWith: 'pause',
    });
    expect(rig.last('launch')).toMatchObject({ key: 'web', guest: 'vm', diesWith: 'pause' });
    const numbers = [one.request, two.request, rig.last('launch').request];
    expect(new Set(numbers).size).toBe(3);
    rig.tell({ guestReply: { request: two.request ?? 0, bytes: Buffer.from('second') } });
    rig.tell({
      launched: { request: rig.last('launch').request ?? 0, key: 'web', pid: 4, pausedAt: 'start' },
    });
    rig.tell({
      guestReply: { request: one.request ?? 0, errno: 2, bytes: Buffer.from('why') },
    });
    expect(Buffer.from(await second).toString()).toBe('second');
    expect(await launching).toEqual({ pid: 4, pausedAt: 'start' });
    const error: unknown = await first.catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'ENOENT', what: '' });
    expect(Buffer.from((error as GuestError).reply).toString()).toBe('why');
  });

  it('an answer that nobody waits for is passed over', () => {
    expect(new Rig().tell({ guestReply: { request: 99, errno: 5 } })).toBe(true);
  });

  it('fail when the monitor goes', async () => {
    const rig = new Rig(['vm']);
    const calling = rig.guests.call('vm', Buffer.from('x'));
    rig.executor.close();
    const error: unknown = await calling.catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(GuestError);
    expect(error).toMatchObject({ code: 'ECONNRESET', what: 'monitor' });
    expect(rig.guests.isConnected('vm')).toBe(false);
  });
});

it('a launch in a guest that is lost fails as any launch does', async () => {
  const rig = new Rig(['vm']);
  const launching = rig.executor.launch('web', Buffer.from('plan'), stdio, { guest: 'vm' });
  rig.tell({
    launchFailed: { request: rig.last('launch').request ?? 0, key: 'web', op: 'guest', errno: 104 },
  });
  const error: unknown = await launching.catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(LaunchError);
  expect((error as LaunchError).failure).toMatchObject({ op: 'guest', errno: 104, index: undefined });
});

it('events reach those who listen, with their bytes', () => {
  const rig = new Rig(['vm']);
  const heard: string[] = [];
  const stop = rig.guests.onEvent((guest, event) => heard.push(`${guest} ${Buffer.from(event).toString()}`));
  rig.tell({ guestEvent: { guest: 'vm', event: Buffer.from('oom') } });
  stop();
  rig.tell({ guestEvent: { guest: 'vm', event: Buffer.from('oom') } });
  expect(heard).toEqual(['vm oom']);
});
