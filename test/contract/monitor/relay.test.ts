import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Session } from './fake_engine.ts';
import { ShimRig, alive, asleep, full, pause, ttrpc, until } from './harness.ts';
import type { Client } from './harness.ts';

const REQUEST = 1;
const RESPONSE = 2;
const DATA = 3;
const REMOTE_OPEN = 2;

let rig: ShimRig;
let session: Session;
let socket: string;
let pid: number;
beforeEach(async () => {
  rig = new ShimRig();
  await rig.engine.listen();
  ({ session, socket, pid } = await rig.monitor());
});
afterEach(() => rig.dispose());

const opened = (from: Session, count: number) =>
  until('streams', () => from.all('streamOpen').length >= count);
const reply = (to: Session, conn: number, frame: Buffer) => to.send({ streamData: { conn, data: frame } });
async function nextSession(after: number): Promise<Session> {
  return until('a new session', () => rig.engine.sessions[after]);
}
async function dialled(): Promise<{ client: Client; conn: number }> {
  const before = session.all('streamOpen').length;
  const client = await rig.dial(socket);
  client.send(ttrpc(1, REQUEST, 'first'));
  await opened(session, before + 1);
  return { client, conn: session.all('streamOpen').at(-1)?.conn ?? 0 };
}

describe('ttrpc', () => {
  it('is relayed frame by frame, however it is cut', async () => {
    const frames = [
      ttrpc(1, REQUEST, 'a'),
      ttrpc(3, REQUEST, Buffer.alloc(70_000, 7)),
      ttrpc(5, REQUEST, ''),
    ];
    const client = await rig.dial(socket);
    const bytes = Buffer.concat(frames);
    for (let at = 0; at < bytes.length; at += at < 40 ? 1 : 9973) {
      client.send(bytes.subarray(at, at < 40 ? at + 1 : at + 9973));
      await pause(1);
    }
    await until('three frames', () => session.all('streamData').length === 3);
    expect(session.all('streamOpen')).toMatchObject([{ conn: 1, protocol: 0 }]);
    expect(session.all('streamData').map((part) => Buffer.from(part.data ?? []))).toEqual(frames);
  });

  it('keeps connections apart and answers each', async () => {
    const one = await dialled();
    const two = await dialled();
    expect(one.conn).not.toBe(two.conn);
    reply(session, two.conn, ttrpc(1, RESPONSE, 'for two'));
    reply(session, one.conn, ttrpc(1, RESPONSE, 'for one'));
    await until('answers', () => one.client.received.length === 17 && two.client.received.length === 17);
    expect(one.client.received).toEqual(ttrpc(1, RESPONSE, 'for one'));
    expect(two.client.received).toEqual(ttrpc(1, RESPONSE, 'for two'));
    one.client.socket.destroy();
    await until('close', () => session.all('streamClose').length === 1);
    expect(session.all('streamClose')).toMatchObject([{ conn: one.conn }]);
  });

  it('carries the largest frame; refuses a larger one and goes on', async () => {
    const { client, conn } = await dialled();
    const largest = ttrpc(3, REQUEST, Buffer.alloc(4 << 20, 1));
    client.send(largest);
    await until('the frame', () => session.all('streamData').length === 2);
    expect(Buffer.compare(Buffer.from(session.all('streamData')[1]?.data ?? []), largest)).toBe(0);
    client.send(ttrpc(5, REQUEST, Buffer.alloc((4 << 20) + 1, 1)));
    client.send(ttrpc(7, REQUEST, 'next'));
    await until('the next frame', () => session.all('streamData').length === 3);
    expect(Buffer.from(session.all('streamData')[2]?.data ?? [])).toEqual(ttrpc(7, REQUEST, 'next'));
    await until('a refusal', () => client.received.length > 10);
    // Response.status{code: 8} on stream 5
    expect(client.received.readUInt32BE(4)).toBe(5);
    expect([...client.received.subarray(8, 14)]).toEqual([
      RESPONSE,
      0,
      10,
      client.received.length - 12,
      8,
      8,
    ]);
    reply(session, conn, ttrpc(7, RESPONSE, 'x'));
    await until('an answer', () => client.received.subarray(-11).equals(ttrpc(7, RESPONSE, 'x')));
  });

  it('drops garbage and goes on', async () => {
    const client = await rig.dial(socket);
    client.send(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
    await until('the end', () => client.closed);
    const odd = await rig.dial(socket);
    odd.send(ttrpc(1, 9, Buffer.alloc(0)));
    const oversized = ttrpc(1, 9, Buffer.alloc(0));
    oversized.writeUInt32BE((4 << 20) + 1, 0);
    odd.send(oversized);
    await until('the end', () => odd.closed);
    const { client: good, conn } = await dialled();
    reply(session, conn, ttrpc(1, RESPONSE, 'ok'));
    await until('an answer', () => good.received.length > 0);
  });

  it('writes a megabyte to a client that reads late', async () => {
    const { client, conn } = await dialled();
    client.socket.pause();
    const answer = ttrpc(1, RESPONSE, Buffer.alloc(1 << 20, 9));
    reply(session, conn, answer);
    await pause(100);
    client.socket.resume();
    await until('all of it', () => client.received.length === answer.length);
    expect(Buffer.compare(client.received, answer)).toBe(0);
  });

  it('is dropped when it does not read 16 MiB of answers', async () => {
    const { client, conn } = await dialled();
    const other = await dialled();
    client.socket.pause();
    for (let i = 0; i < 18; i++) reply(session, conn, ttrpc(1, RESPONSE, Buffer.alloc(1 << 20)));
    await until('the end', () => session.all('streamClose').some((stream) => stream.conn === conn));
    client.socket.resume();
    await until('the end', () => client.closed);
    expect(client.received.length).toBeLessThan(18 << 20);
    reply(session, other.conn, ttrpc(1, RESPONSE, 'ok'));
    await until('an answer', () => other.client.received.length > 0);
  });

  it('is not read from while 32 MiB of calls are unanswered', async () => {
    const { client, conn } = await dialled();
    for (let i = 1; i <= 40; i++) client.send(ttrpc(1 + 2 * i, REQUEST, Buffer.alloc(1 << 20)));
    const calls = () => session.all('streamData').length - 1;
    await until('as many as there may be', () => calls() >= 32, 120_000);
    await until('the monitor to sleep', asleep(pid));
    expect(calls()).toBeLessThan(36);
    for (let i = 1; i <= 20; i++) reply(session, conn, ttrpc(1 + 2 * i, RESPONSE, 'x'));
    await until('the others', () => calls() === 40, 120_000);
  });

  it('is not read from while the engine does not read either', async () => {
    const { client } = await dialled();
    session.socket.pause();
    for (let i = 1; i <= 20; i++) client.send(ttrpc(1 + 2 * i, REQUEST, Buffer.alloc(1 << 20)));
    await until('the monitor to sleep', asleep(pid));
    expect(client.socket.writableLength).toBeGreaterThan(4 << 20);
    // Nor is one that comes meanwhile.
    const late = await rig.dial(socket);
    late.send(ttrpc(1, REQUEST, Buffer.alloc(1 << 20)));
    await until('the monitor to sleep', asleep(pid));
    expect(late.socket.writableLength).toBeGreaterThan(0);
    session.socket.resume();
    await until('all of it', () => session.all('streamData').length === 22, 120_000);
  });

  it('closes when the engine says so, after what was said before', async () => {
    const { client, conn } = await dialled();
    const answer = ttrpc(1, RESPONSE, Buffer.alloc(300_000, 3));
    reply(session, conn, answer);
    session.send({ streamClose: { conn } });
    await until('the end', () => client.closed);
    expect(client.received.length).toBe(answer.length);
    expect(session.all('streamClose')).toEqual([]);
  });
});

describe('HTTP/2', () => {
  it('is relayed as bytes and ends with its engine', async () => {
    const client = await rig.dial(socket);
    client.send(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'));
    await until('bytes', () => session.data(1).length === 24);
    expect(session.all('streamOpen')).toMatchObject([{ conn: 1, protocol: 1 }]);
    reply(session, 1, Buffer.from('any bytes'));
    await until('bytes back', () => client.received.toString() === 'any bytes');
    await rig.engine.crash(true);
    await until('the end', () => client.closed);
    expect(await nextSession(1)).toBeDefined();
  });
});

describe('an engine that dies', () => {
  it('is replaced: what it did not answer is asked again, in order, and nothing else', async () => {
    const { client, conn } = await dialled();
    client.send(Buffer.concat([ttrpc(3, REQUEST, 'second'), ttrpc(5, REQUEST, 'third')]));
    await until('three requests', () => session.all('streamData').length === 3);
    reply(session, conn, ttrpc(3, RESPONSE, 'answered'));
    await until('an answer', () => client.received.length > 0);
    await rig.engine.crash(true);
    const second = await nextSession(1);
    await until('replay', () => second.all('streamData').length === 2);
    expect(second.all('streamOpen')).toMatchObject([{ conn, protocol: 0 }]);
    expect(second.data(conn)).toEqual(
      Buffer.concat([ttrpc(1, REQUEST, 'first'), ttrpc(5, REQUEST, 'third')]),
    );
    reply(second, conn, ttrpc(1, RESPONSE, 'late'));
    await until('the answer', () => client.received.length === 18 + 14);
    expect(client.closed).toBe(false);
  });

  it('misses nothing that is asked while it is away', async () => {
    const { client, conn } = await dialled();
    reply(session, conn, ttrpc(1, RESPONSE, 'x'));
    await until('an answer', () => client.received.length > 0);
    await rig.engine.crash(false);
    const late = await rig.dial(socket);
    client.send(ttrpc(3, REQUEST, 'while away'));
    late.send(ttrpc(1, REQUEST, 'new connection'));
    await pause(150);
    await rig.engine.listen();
    const second = await nextSession(1);
    await until('both', () => second.all('streamData').length === 2);
    expect(second.data(conn)).toEqual(ttrpc(3, REQUEST, 'while away'));
    expect(second.data(2)).toEqual(ttrpc(1, REQUEST, 'new connection'));
  });

  it('leaves streaming calls answered "unavailable", since they cannot be asked again', async () => {
    const client = await rig.dial(socket);
    client.send(ttrpc(1, REQUEST, 'stream', REMOTE_OPEN));
    client.send(ttrpc(1, DATA, 'part'));
    await until('both', () => session.all('streamData').length === 2);
    await rig.engine.crash(true);
    const second = await nextSession(1);
    await until('the answer', () => client.received.length > 10);
    expect(client.received.readUInt32BE(4)).toBe(1);
    expect(client.received[8]).toBe(RESPONSE);
    // Response.status{code: 14}
    expect([...client.received.subarray(10, 14)]).toEqual([10, client.received.length - 12, 8, 14]);
    await pause(30);
    expect(second.all('streamData')).toEqual([]);
  });

  it('ten times in a row changes nothing', async () => {
    const { client, conn } = await dialled();
    for (let round = 1; round <= 10; round++) {
      await rig.engine.crash(true);
      const next = await nextSession(round);
      await until('replay', () => next.all('streamData').length === 1);
    }
    reply(rig.engine.latest, conn, ttrpc(1, RESPONSE, 'done'));
    await until('the answer', () => client.received.length === 14);
  });

  it('or sends garbage is given up for the next', async () => {
    session.socket.write(Buffer.from([0, 0, 0, 2, 0xff, 0xff]));
    const second = await nextSession(1);
    second.socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff]));
    const third = await nextSession(2);
    third.send({ streamData: { conn: 77, data: Buffer.from('nobody') } });
    third.send({ signal: { request: 5, key: 'nobody', signal: 15 } });
    await until('a reply', () => third.all('reply').length === 1);
    expect(third.all('reply')).toMatchObject([{ request: 5, errno: 3 }]);
  });
});

describe('the monitor', () => {
  it('ends at Shutdown and takes its socket along', async () => {
    session.send({ shutdown: {} });
    await until('its end', () => !alive(pid));
    await expect(rig.dial(socket)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('ends at SIGTERM when it has no processes', async () => {
    process.kill(pid, 'SIGTERM');
    await until('its end', () => !alive(pid));
  });

  it('leaves when it has no engine and nothing to keep, and only then', async () => {
    const kept = await rig.monitor('kept');
    await rig.dial(kept.socket);
    await rig.engine.crash(false);
    await until('its end', () => !alive(pid), 120_000);
    await expect(rig.dial(socket)).rejects.toMatchObject({ code: 'ENOENT' });
    await pause(500);
    expect(alive(kept.pid)).toBe(true);
  });

  it('has connections wait for which it has no descriptors, and goes on with them', async () => {
    const other = await rig.monitor('other', { openFiles: [40, 40] });
    const clients = await Promise.all(Array.from({ length: 50 }, () => rig.dial(other.socket)));
    for (const client of clients) client.send(ttrpc(1, REQUEST, 'first'));
    const served = () => other.session.all('streamOpen').map((stream) => stream.conn ?? 0);
    await until('it to be at its limit', full(other.pid, 40));
    await until('it to serve', () => served().length >= 20);
    await until('it to sleep', asleep(other.pid));
    const before = served().length;
    expect(before).toBeLessThan(40);
    clients[0]?.socket.destroy();
    await until('one of the others', () => served().length === before + 1);
    for (const client of clients.slice(1, 30)) client.socket.destroy();
    const last = await rig.dial(other.socket);
    last.send(ttrpc(1, REQUEST, 'last'));
    const answered = new Set<number>();
    await until('an answer to each that is left', () => {
      for (const conn of served().filter((id) => !answered.has(id))) {
        answered.add(conn);
        reply(other.session, conn, ttrpc(1, RESPONSE, 'answer'));
      }
      return [...clients.slice(30), last].every((client) => client.received.length > 0);
    });
  });

  it('is small', () => {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const dirty = Number(/Private_Dirty:\s+(\d+)/.exec(rollup)?.[1]);
    expect(dirty).toBeGreaterThan(0);
    expect(dirty).toBeLessThanOrEqual(128);
  });

  it('goes back to its size after megabytes', async () => {
    const { client, conn } = await dialled();
    for (let i = 0; i < 5; i++) client.send(ttrpc(3 + 2 * i, REQUEST, Buffer.alloc(2 << 20)));
    await until('frames', () => session.all('streamData').length === 6, 120_000);
    for (let i = -1; i < 5; i++) reply(session, conn, ttrpc(3 + 2 * i, RESPONSE, Buffer.alloc(1 << 20)));
    await until('answers', () => client.received.length === 6 * ((1 << 20) + 10), 120_000);
    await pause(1300);
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    expect(Number(/Private_Dirty:\s+(\d+)/.exec(rollup)?.[1])).toBeLessThanOrEqual(160);
  });
});

/** ttrpc.Request{service, method, payload, timeout_nano} */
function call(service: string, method: string, payload: Buffer): Buffer {
  const field = (tag: number, value: Buffer) =>
    Buffer.concat([Buffer.from([(tag << 3) | 2, value.length]), value]);
  const parts = [field(1, Buffer.from(service)), field(2, Buffer.from(method)), field(3, payload)];
  return Buffer.concat([...parts, Buffer.from([4 << 3, 1])]);
}

describe('answers that the engine left', () => {
  const TASK = 'containerd.task.v2.Task';
  const request = Buffer.from('\n\u0003web');
  const response = Buffer.from('\n\u0003web(\u0002');
  const leave = (of: Buffer, answer: Buffer) =>
    session.send({ leftAnswer: { request: of, response: answer } });
  /** Response{2: payload} */
  const answered = (stream: number, payload: Buffer) =>
    ttrpc(stream, RESPONSE, Buffer.concat([Buffer.from([(2 << 3) | 2, payload.length]), payload]));

  it('are given by the monitor, under both names of the service, until they change or are taken back', async () => {
    const { client, conn } = await dialled();
    leave(request, response);
    reply(session, conn, ttrpc(1, RESPONSE, 'first answered'));
    await until('the relay', () => client.received.length > 0);
    client.received = Buffer.alloc(0);
    client.send(ttrpc(3, REQUEST, call(TASK, 'State', request)));
    client.send(ttrpc(5, REQUEST, call('containerd.task.v3.Task', 'State', request)));
    const both = Buffer.concat([answered(3, response), answered(5, response)]);
    await until('two answers', () => client.received.length === both.length);
    expect(client.received).toEqual(both);
    client.received = Buffer.alloc(0);
    const other = Buffer.from('\n\u0003web(\u0004');
    leave(request, other);
    reply(session, conn, ttrpc(1, RESPONSE, 'x'));
    await until('the relay', () => client.received.length > 0);
    client.send(ttrpc(7, REQUEST, call(TASK, 'State', request)));
    await until('the new answer', () => client.received.includes(answered(7, other)));
    expect(session.all('streamData')).toHaveLength(1);
    leave(request, Buffer.alloc(0));
    client.received = Buffer.alloc(0);
    reply(session, conn, ttrpc(1, RESPONSE, 'x'));
    await until('the relay', () => client.received.length > 0);
    const asked = ttrpc(9, REQUEST, call(TASK, 'State', request));
    client.send(asked);
    await until('the question', () => session.all('streamData').length === 2);
    expect(Buffer.from(session.all('streamData')[1]?.data ?? [])).toEqual(asked);
  });

  it.each([
    ['another process', call(TASK, 'State', Buffer.from('\n\u0003wet'))],
    ['another method', call(TASK, 'Wait', request)],
    ['another service', call('containerd.runtime.sandbox.v1.Sandbox', 'State', request)],
    ['what is no request', Buffer.from([0x0a, 0xff, 0xff])],
  ])('are not given for %s', async (_name, payload) => {
    const { client } = await dialled();
    leave(request, response);
    const asked = ttrpc(3, REQUEST, payload);
    client.send(asked);
    await until('the question', () => session.all('streamData').length === 2);
    expect(Buffer.from(session.all('streamData')[1]?.data ?? [])).toEqual(asked);
    expect(client.received).toHaveLength(0);
  });

  it('are given to Connect apart from State, whose request has the same bytes', async () => {
    const { client, conn } = await dialled();
    const connected = Buffer.from('\u0008\u0007\u0010\u0009');
    leave(request, response);
    session.send({ leftAnswer: { request, response: connected, method: 'Connect' } });
    session.send({ leftAnswer: { request, response: Buffer.from('no'), method: 'Delete' } });
    reply(session, conn, ttrpc(1, RESPONSE, 'x'));
    await until('the relay', () => client.received.length > 0);
    client.received = Buffer.alloc(0);
    client.send(ttrpc(3, REQUEST, call(TASK, 'Connect', request)));
    client.send(ttrpc(5, REQUEST, call(TASK, 'State', request)));
    const both = Buffer.concat([answered(3, connected), answered(5, response)]);
    await until('two answers', () => client.received.length === both.length);
    expect(client.received).toEqual(both);
    const asked = ttrpc(7, REQUEST, call(TASK, 'Delete', request));
    client.send(asked);
    await until('the question', () => session.all('streamData').length === 2);
    expect(Buffer.from(session.all('streamData')[1]?.data ?? [])).toEqual(asked);
  });

  it('are dropped with the engine, and the next one is asked', async () => {
    const { client, conn } = await dialled();
    leave(request, response);
    reply(session, conn, ttrpc(1, RESPONSE, 'x'));
    await until('the relay', () => client.received.length > 0);
    session.socket.destroy();
    const asked = ttrpc(3, REQUEST, call(TASK, 'State', request));
    client.send(asked);
    const next = await nextSession(1);
    await until('the question', () => next.all('streamData').length === 1);
    expect(Buffer.from(next.all('streamData')[0]?.data ?? [])).toEqual(asked);
  });
});
