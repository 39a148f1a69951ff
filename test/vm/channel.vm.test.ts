/** The real monitor, QEMU's virtio port and the real agent: what a container's streams go through. */
import { spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FromMonitor, Session } from '../contract/monitor/fake_engine.ts';
import { Fifos } from '../contract/monitor/fifos.ts';
import { ShimRig, execPlan, messageFor, until } from '../contract/monitor/harness.ts';
import { PlainMachine } from './plain_machine.ts';

const SIGKILL = 9;
const ETIMEDOUT = 110;
const MIB = 1 << 20;

let rig: ShimRig;
let machine: PlainMachine;
let fifos: Fifos;
let session: Session;
let request = 0;
let number = 0;
beforeAll(async () => {
  rig = new ShimRig();
  fifos = new Fifos(rig.dir);
  await rig.engine.listen();
  ({ session } = await rig.monitor());
  machine = await PlainMachine.boot();
  expect((await connect()).errno ?? 0).toBe(0);
});
afterAll(async () => {
  await machine.dispose();
  fifos.dispose();
  await rig.dispose();
});

const connect = () =>
  ask('guestReply', (request) => ({
    guestConnect: { request, guest: 'vm', socketPath: join(machine.dir, 'agent'), deadlineMs: 30_000 },
  }));
type Answered = 'launched' | 'launchFailed' | 'started' | 'exited';
const answer = <K extends Answered>(kind: K, key: string) =>
  until(`${kind} of ${key}`, () => messageFor(session, kind, key), 120_000);
async function ask<K extends 'reply' | 'guestReply'>(
  kind: K,
  message: (request: number) => Parameters<Session['send']>[0],
): Promise<NonNullable<FromMonitor[K]>> {
  const id = ++request;
  session.send(message(id));
  const found = await until(kind, () => session.all(kind).find((one) => one.request === id), 120_000);
  return found;
}
function launch(script: string, stdio = {}): string {
  const key = `p${++number}`;
  session.send({ launch: { request: ++request, key, plan: execPlan(script), stdio, guest: 'vm' } });
  return key;
}
const pair = (): { stdin: string; stdout: string } => {
  number++;
  return { stdin: fifos.make(`in${number}`), stdout: fifos.make(`out${number}`) };
};
/** Has another process read a fifo to its end; how many bytes came, and in how many seconds after the first. */
async function drain(path: string): Promise<{ bytes: number; seconds: number }> {
  const reader = spawn('dd', [`if=${path}`, 'of=/dev/null', 'bs=64k'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let report = '';
  reader.stderr.on('data', (chunk: Buffer) => (report += chunk.toString()));
  await new Promise((done) => reader.once('close', done));
  const [, bytes, seconds] = /(\d+) bytes.* copied, ([\d.e-]+) s/.exec(report) ?? [];
  return { bytes: Number(bytes), seconds: Number(seconds) };
}

describe('through the virtio port', () => {
  it('programs run, and their output comes before their exit', async () => {
    const paths = pair();
    const out = fifos.reader(paths.stdout);
    const began = performance.now();
    const key = launch('echo hello; exit 3', paths);
    expect((await answer('exited', key)).waitStatus).toBe(3 << 8);
    expect(out.poll()).toBe('hello\n');
    console.log(`echo in the guest: ${(performance.now() - began).toFixed(0)} ms`);
  });

  it('output comes fast', async () => {
    const { stdout } = pair();
    const size = 64 * MIB;
    const draining = drain(stdout);
    const key = launch(`exec dd if=/dev/zero bs=64k count=${size >> 16}`, { stdout });
    const { bytes, seconds } = await draining;
    expect(bytes).toBe(size);
    expect((await answer('exited', key)).waitStatus).toBe(0);
    const rate = bytes / 1e6 / seconds;
    console.log(`stdout of a guest: ${rate.toFixed(0)} MB/s`);
    // 50 MB/s and more on a machine that does nothing else; far less, and something polls.
    expect(rate).toBeGreaterThan(4);
  });

  it('input comes whole, to its end', async () => {
    const paths = pair();
    const out = fifos.reader(paths.stdout);
    const key = launch('exec wc -c', paths);
    await answer('launched', key);
    const client = openSync(paths.stdin, 'w');
    const size = 8 * MIB;
    const chunk = Buffer.alloc(MIB);
    // Blocking writes would block the engine of this test too, which nobody needs meanwhile.
    for (let sent = 0; sent < size;) sent += writeSync(client, chunk);
    await ask('reply', (request) => ({ closeStdin: { request, key } }));
    closeSync(client);
    await out.until('the count', (text) => text === `${size}\n`);
  });

  it('a reader that has stopped stops nobody else', async () => {
    const stuck = pair();
    fifos.reader(stuck.stdout);
    const stuckKey = launch('exec cat /dev/zero', { stdout: stuck.stdout });
    await answer('launched', stuckKey);
    const { stdout } = pair();
    const draining = drain(stdout);
    const key = launch('exec dd if=/dev/zero bs=64k count=128', { stdout });
    expect((await draining).bytes).toBe(8 * MIB);
    expect((await answer('exited', key)).waitStatus).toBe(0);
    const killed = await ask('reply', (request) => ({ signal: { request, key: stuckKey, signal: SIGKILL } }));
    expect(killed.errno ?? 0).toBe(0);
    expect((await answer('exited', stuckKey)).waitStatus).toBe(SIGKILL);
  });

  it('an engine may go and come while output flows', async () => {
    const { stdout } = pair();
    const size = 24 * MIB;
    const key = launch(`dd if=/dev/zero bs=64k count=${size >> 16}; exit 5`, { stdout });
    await answer('launched', key);
    const known = rig.engine.sessions.length;
    await rig.engine.crash(true);
    expect((await drain(stdout)).bytes).toBe(size);
    session = await until('hello again', () => rig.engine.sessions[known], 120_000);
    expect(session.hello.guests).toEqual(['vm']);
    const before = session.hello.processes?.find((process) => process.key === key);
    if (before?.exited === true) expect(before.waitStatus).toBe(5 << 8);
    else expect((await answer('exited', key)).waitStatus).toBe(5 << 8);
  });
});

describe('a machine that fails', () => {
  it('that hangs keeps nobody waiting', async () => {
    const key = launch('exec sleep 1000');
    await answer('launched', key);
    await machine.qmp.execute('stop');
    const calling = ask('guestReply', (request) => ({
      guestCall: { request, guest: 'vm', call: Buffer.alloc(0), deadlineMs: 200 },
    }));
    expect(await calling).toMatchObject({ errno: ETIMEDOUT, what: 'call' });
    const killing = ask('reply', (request) => ({ signal: { request, key, signal: SIGKILL } }));
    expect((await killing).errno).toBe(ETIMEDOUT);
    await machine.qmp.execute('cont');
    expect((await answer('exited', key)).waitStatus).toBe(SIGKILL);
  });

  it('that is killed takes its processes with it', async () => {
    const { stdout } = pair();
    const out = fifos.reader(stdout);
    const key = launch('echo last; exec sleep 1000', { stdout });
    await out.until('a word', (text) => text === 'last\n');
    await machine.dispose();
    expect((await answer('exited', key)).waitStatus).toBe(SIGKILL);
    const closed = await until('the end of the channel', () => session.all('guestClosed')[0]);
    expect(closed).toMatchObject({ guest: 'vm', reason: 'closed by the other end' });
    await out.toEnd();
  });
});
