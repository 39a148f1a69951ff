/** The real monitor and the real agent, with a unix socket for the virtio port between them. */
import { createHash } from 'node:crypto';
import { readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { bulkhead } from '../../../src/gen/bulkhead.js';
import type { FromMonitor, Session } from '../monitor/fake_engine.ts';
import { Fifos } from '../monitor/fifos.ts';
import { ShimRig, execPlan, messageFor, until } from '../monitor/harness.ts';
import { AgentRig } from './harness.ts';

const SIGKILL = 9;
const ESRCH = 3;

let rig: ShimRig;
let guest: AgentRig;
let fifos: Fifos;
let session: Session;
let request = 0;
beforeEach(async () => {
  rig = new ShimRig();
  guest = new AgentRig();
  fifos = new Fifos(rig.dir);
  await rig.engine.listen();
  ({ session } = await rig.monitor());
  const connecting = ask('guestReply', (request) => ({
    guestConnect: { request, guest: 'vm', socketPath: guest.socketPath, deadlineMs: 60_000 },
  }));
  guest.start();
  expect((await connecting).errno ?? 0).toBe(0);
});
afterEach(async () => {
  await guest.dispose();
  await until('the channel to be gone', () => session.closed || session.all('guestClosed').length > 0);
  fifos.dispose();
  await rig.dispose();
});

type Answered = 'launched' | 'launchFailed' | 'started' | 'exited';
const answer = <K extends Answered>(kind: K, key: string) =>
  until(`${kind} of ${key}`, () => messageFor(session, kind, key), 120_000);
async function ask<K extends 'reply' | 'guestReply'>(
  kind: K,
  message: (request: number) => Parameters<Session['send']>[0],
): Promise<NonNullable<FromMonitor[K]>> {
  const id = ++request;
  session.send(message(id));
  const found = await until(kind, () => session.all(kind).find((one) => one.request === id));
  return found;
}
function launch(key: string, plan: Uint8Array, stdio: bulkhead.executor.v1.IStdio = {}, diesWith = ''): void {
  session.send({ launch: { request: ++request, key, plan, stdio, guest: 'vm', diesWith } });
}
const signal = async (key: string, signum: number): Promise<number> =>
  (await ask('reply', (request) => ({ signal: { request, key, signal: signum } }))).errno ?? 0;
const terminal = [{ terminal: {} }];

describe('a process in a guest', () => {
  it('runs, writes and ends, in that order', async () => {
    const paths = { stdout: fifos.make('out'), stderr: fifos.make('err') };
    const out = fifos.reader(paths.stdout);
    const err = fifos.reader(paths.stderr);
    launch('web', execPlan('echo out; echo err >&2; exit 7'), paths);
    expect((await answer('launched', 'web')).pid).toBeGreaterThan(1);
    expect((await answer('exited', 'web')).waitStatus).toBe(7 << 8);
    // All of it is in the fifos by now.
    expect(out.poll()).toBe('out\n');
    expect(err.poll()).toBe('err\n');
    await out.toEnd();
  });

  it('sends megabytes without losing one, and more than one at a time', async () => {
    const size = 24 << 20;
    const script = `exec 9>&1; dd if=/dev/urandom bs=64k count=${size >> 16} 2>/dev/null | tee /dev/fd/9 | sha256sum >&2`;
    const keys = ['a', 'b'];
    const readers = keys.map((key) => {
      const paths = { stdout: fifos.make(`${key}-out`), stderr: fifos.make(`${key}-err`) };
      const out = fifos.reader(paths.stdout);
      const err = fifos.reader(paths.stderr);
      launch(key, execPlan(script), paths);
      return { out, err, hash: createHash('sha256'), size: 0 };
    });
    const chunk = Buffer.alloc(1 << 20);
    await until(
      'all bytes',
      () => {
        for (const reader of readers) {
          for (let got = 1; got > 0;) {
            got = readNow(reader.out.fd, chunk);
            reader.hash.update(chunk.subarray(0, got));
            reader.size += got;
          }
        }
        return readers.every((reader) => reader.size === size);
      },
      30_000,
    );
    for (const { err, hash } of readers) {
      await err.until('the sum', (text) => text.includes('-'));
      expect(err.text.split(' ')[0]).toBe(hash.digest('hex'));
    }
    for (const key of keys) expect((await answer('exited', key)).waitStatus).toBe(0);
  });

  it('reads its input to the end', async () => {
    const paths = { stdin: fifos.make('in'), stdout: fifos.make('out') };
    const out = fifos.reader(paths.stdout);
    launch('web', execPlan('wc -c'), paths);
    await answer('launched', 'web');
    const client = fifos.writer(paths.stdin);
    const chunk = Buffer.alloc(32768);
    for (let sent = 0; sent < 1 << 20;) {
      await until('room', () => {
        try {
          sent += writeSync(client, chunk);
          return true;
        } catch {
          return false;
        }
      });
    }
    await ask('reply', (request) => ({ closeStdin: { request, key: 'web' } }));
    fifos.close(client);
    await out.until('the count', (text) => text === `${1 << 20}\n`);
    expect((await answer('exited', 'web')).waitStatus).toBe(0);
  });

  it('has a terminal, which has a size', async () => {
    const paths = { stdin: fifos.make('in'), stdout: fifos.make('out') };
    const out = fifos.reader(paths.stdout);
    launch('web', execPlan('read line; stty size; echo "got $line"', terminal), { ...paths, terminal: true });
    await answer('launched', 'web');
    const resized = await ask('reply', (request) => ({
      resize: { request, key: 'web', width: 132, height: 43 },
    }));
    expect(resized.errno ?? 0).toBe(0);
    writeSync(fifos.writer(paths.stdin), 'hello\n');
    // The pty does not turn line feeds into anything.
    await out.until('the size', (text) => text === 'hello\n43 132\ngot hello\n');
    expect((await answer('exited', 'web')).waitStatus).toBe(0);
  });

  it('is signalled, and dies with another', async () => {
    launch('guard', execPlan('exec sleep 100'));
    await answer('launched', 'guard');
    launch('ward', execPlan('exec sleep 100'), {}, 'guard');
    await answer('launched', 'ward');
    expect(await signal('guard', SIGKILL)).toBe(0);
    expect((await answer('exited', 'guard')).waitStatus).toBe(SIGKILL);
    expect((await answer('exited', 'ward')).waitStatus).toBe(SIGKILL);
    expect(await signal('ward', SIGKILL)).toBe(ESRCH);
  });

  it('that cannot be executed is one failure', async () => {
    launch('web', Buffer.from('no plan'));
    expect(await answer('launchFailed', 'web')).toMatchObject({ key: 'web' });
    launch('web', execPlan('true'));
    expect((await answer('exited', 'web')).waitStatus).toBe(0);
  });

  it('that leaves a writer behind has exited all the same', async () => {
    const stdout = fifos.make('out');
    const out = fifos.reader(stdout);
    const go = join(rig.dir, 'go');
    launch('web', execPlan(`echo one; (until [ -e ${go} ]; do sleep 0.02; done; echo two) & exit 0`), {
      stdout,
    });
    await answer('exited', 'web');
    expect(out.poll()).toBe('one\n');
    writeFileSync(go, '');
    await out.until('the other', (text) => text === 'one\ntwo\n');
    await out.toEnd();
  });

  it('is dead when its guest is', async () => {
    const stdout = fifos.make('out');
    const out = fifos.reader(stdout);
    launch('web', execPlan('echo alive; exec sleep 100'), { stdout });
    await out.until('a word', (text) => text === 'alive\n');
    await guest.dispose();
    expect((await answer('exited', 'web')).waitStatus).toBe(SIGKILL);
    await out.toEnd();
  });
});

/** Bytes that are there now. */
function readNow(fd: number, chunk: Buffer): number {
  try {
    return readSync(fd, chunk);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
    throw error;
  }
}
