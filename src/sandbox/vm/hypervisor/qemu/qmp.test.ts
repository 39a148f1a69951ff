import { closeSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { ErrorCode } from '../../../../base/errors.ts';
import { addon } from '../../../../native/index.ts';
import { QmpRefusal, ScriptedQmp, type QmpScript } from '../testing/scripted_qmp.ts';
import { Qmp, QmpCommandError, type QmpEvent } from './qmp.ts';

const sent: { fd: number; message: string }[] = [];

const options = (deadlineMs = 2000): Parameters<typeof Qmp.connect>[1] => ({
  id: 'pod-1',
  deadlineMs,
  connect: (path) => addon().connectUnix(path),
  sendFd: (socket, fd, message) => {
    sent.push({ fd, message });
    addon().sendFdOver(socket, fd, message);
  },
});

let server: ScriptedQmp;

const connected = async (script?: QmpScript, deadlineMs?: number): Promise<Qmp> => {
  server = await ScriptedQmp.start(script);
  return Qmp.connect(server.path, options(deadlineMs));
};

afterEach(async () => {
  sent.length = 0;
  await server[Symbol.asyncDispose]();
});

describe('Qmp', () => {
  it('negotiates and answers commands by their ids', async () => {
    const qmp = await connected(({ execute, arguments: args }) => ({ execute, args }));
    const both = await Promise.all([qmp.execute('a', { n: 1 }), qmp.execute('b')]);
    expect(both).toEqual([{ execute: 'a', args: { n: 1 } }, { execute: 'b' }]);
    expect(server.requests.map(({ execute }) => execute)).toEqual(['qmp_capabilities', 'a', 'b']);
    qmp.close();
  });

  it("tells a refusal in QEMU's words, and goes on", async () => {
    const script: QmpScript = ({ execute }) =>
      execute === 'cont' ? {} : new QmpRefusal("Device 'x' not found.", 'DeviceNotFound');
    const qmp = await connected(script);
    const error: unknown = await qmp.execute('device_del', { id: 'x' }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(QmpCommandError);
    expect(error).toMatchObject({
      code: ErrorCode.NotFound,
      command: 'device_del',
      qmpClass: 'DeviceNotFound',
    });
    expect((error as Error).message).toBe("vm pod-1: qemu device_del: device 'x' not found");
    await qmp.execute('cont');
    qmp.close();
  });

  it('sends a descriptor along with its command, behind what is queued', async () => {
    const qmp = await connected();
    const read = process.stdin.fd;
    await Promise.all([
      qmp.execute('first'),
      qmp.execute('getfd', { fdname: 'n' }, { fd: read }),
      qmp.execute('last'),
    ]);
    expect(server.commands.sort()).toEqual(['first', 'getfd', 'last']);
    expect(sent).toEqual([{ fd: read, message: expect.stringContaining('"getfd"') as string }]);
    qmp.close();
  });

  it('keeps events for the first listener, in order', async () => {
    const qmp = await connected();
    server.event('STOP');
    await qmp.execute('x');
    server.event('RESUME', { a: 1 });
    await qmp.execute('y');
    const seen: QmpEvent[] = [];
    const end = qmp.onEvent((event) => seen.push(event));
    expect(seen).toEqual([
      { event: 'STOP', data: {} },
      { event: 'RESUME', data: { a: 1 } },
    ]);
    end();
    server.event('STOP');
    await qmp.execute('z');
    expect(seen).toHaveLength(2);
    qmp.close();
  });

  it('gives up a command at its deadline, and takes no harm from a late answer', async () => {
    const qmp = await connected(({ execute }) => (execute === 'slow' ? undefined : {}));
    await expect(qmp.execute('slow', {}, { deadlineMs: 30 })).rejects.toThrow(
      'vm pod-1: qemu slow: no answer within 30 ms',
    );
    server.say('{"return": {}, "id": 2}\n');
    await qmp.execute('next');
    qmp.close();
  });

  it('says that nobody listens', async () => {
    server = await ScriptedQmp.start();
    const path = `${server.path}.none`;
    await expect(Qmp.connect(path, options())).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
      message: `vm pod-1: qemu's control socket ${path}: nobody listens`,
    });
  });

  it.each([
    ['ECONNREFUSED', 'nobody listens'],
    ['ENOENT', 'nobody listens'],
    ['EACCES', 'connect: EACCES'],
  ])('says why there is no connection: %s', async (code, reason) => {
    server = await ScriptedQmp.start();
    const connect = (): never => {
      throw Object.assign(new Error(`connect: ${code}`), { code });
    };
    await expect(Qmp.connect('/q', { ...options(), connect })).rejects.toMatchObject({
      code: ErrorCode.Unavailable,
      errno: code,
      message: `vm pod-1: qemu's control socket /q: ${reason}`,
    });
  });

  it('reads an answer for whoever asks, and ends with one that is none', async () => {
    const qmp = await connected(({ execute }) => (execute === 'number' ? 7 : 'seven'));
    const number = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);
    expect(await qmp.ask(number, 'number')).toBe(7);
    expect(qmp.open).toBe(true);
    await expect(qmp.ask(number, 'text')).rejects.toMatchObject({
      code: ErrorCode.Internal,
      message: 'vm pod-1: qemu text: an answer of another kind',
    });
    expect(qmp.open).toBe(false);
  });

  it('does not wait for ever for a greeting', async () => {
    server = await ScriptedQmp.start();
    server.greeting = undefined;
    await expect(Qmp.connect(server.path, options(50))).rejects.toMatchObject({
      code: ErrorCode.DeadlineExceeded,
      message: 'vm pod-1: qemu greeting: no answer within 50 ms',
    });
  });

  const closed = "vm pod-1: qemu's control socket: ";
  it.each<[string, string | Uint8Array, string]>([
    ['what is not JSON', 'garbage\n', 'sent what is not JSON'],
    ['binary noise', new Uint8Array([0xff, 0x00, 0xfe, 0x0a]), 'sent what is not JSON'],
    ['a list', '[1]\n', 'sent JSON that is no message'],
    ['a number', '7\n', 'sent JSON that is no message'],
    ['an answer nobody asked for', '{"return": {}, "id": 99}\n', 'answered a request that was not made'],
    ['an answer without id', '{"return": {}}\n', 'answered a request that was not made'],
    ['an answer without result', '{"id": 2}\n', 'an answer without result'],
    ['a line without end', `"${'x'.repeat((4 << 20) + 10)}`, 'sent a line of more than 4 MiB'],
    ['a line that is too long', `"${'x'.repeat((4 << 20) + 10)}"\n`, 'sent a line of more than 4 MiB'],
  ])('ends the connection at %s, with one error for all', async (_what, said, reason) => {
    const qmp = await connected(() => undefined);
    const told: string[] = [];
    qmp.onClose((error) => told.push(error.message));
    const answers = [qmp.execute('one'), qmp.execute('two')].map((answer) =>
      answer.catch((error: Error) => error.message),
    );
    while (server.commands.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    server.say(said);
    const messages = (await Promise.all(answers)) as string[];
    expect(messages.every((message) => message.endsWith(reason))).toBe(true);
    expect(told).toHaveLength(1);
    expect(qmp.open).toBe(false);
    await expect(qmp.execute('three')).rejects.toThrow(told[0] ?? '');
  });

  it('tells everybody when QEMU hangs up', async () => {
    const qmp = await connected(() => undefined);
    const answer = qmp.execute('one');
    while (server.commands.length < 1) await new Promise((resolve) => setTimeout(resolve, 1));
    server.hangUp();
    await expect(answer).rejects.toThrow(closed);
    let late = '';
    qmp.onClose(({ message }) => (late = message));
    expect(late).toContain(closed);
  });

  it('ends when a descriptor cannot be sent', async () => {
    const qmp = await connected();
    const gone = addon().memfd('gone', 0);
    closeSync(gone);
    await expect(qmp.execute('getfd', {}, { fd: gone })).rejects.toThrow('a descriptor could not be sent');
  });
});
