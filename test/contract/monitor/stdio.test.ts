import { readFileSync, readlinkSync, readdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CLONE_NEWNS, CLONE_NEWPID } from '../../../src/base/constants.ts';
import type { bulkhead } from '../../../src/gen/bulkhead.js';
import type { Session } from './fake_engine.ts';
import { Fifos } from './fifos.ts';
import type { FifoReader } from './fifos.ts';
import { ShimRig, childrenOf, execPlan, messageFor, pause, until } from './harness.ts';

const EBUSY = 16;
const GATE: bulkhead.plan.v1.IStep = { gate: { point: 'start' } };
const CLONE: bulkhead.plan.v1.IStep = { clone: { namespaces: CLONE_NEWPID | CLONE_NEWNS } };

let rig: ShimRig;
let session: Session;
let pid: number;
let request = 100;
let fifos: Fifos;
beforeEach(async () => {
  rig = new ShimRig();
  fifos = new Fifos(rig.dir);
  await rig.engine.listen();
  ({ session, pid } = await rig.monitor());
});
afterEach(async () => {
  fifos.dispose();
  await rig.dispose();
});

const fifo = (name: string): string => fifos.make(name);
const writer = (path: string): number => fifos.writer(path);
const closeWriter = (fd: number): void => fifos.close(fd);
/** The end of file that the launched process leaves. */
async function toEnd(reader: FifoReader): Promise<void> {
  await answer('launched', 'web');
  await reader.toEnd();
}
function launch(key: string, plan: Uint8Array, stdio = {}): void {
  session.send({ launch: { request: ++request, key, plan, stdio } });
}
const answer = <K extends 'launched' | 'launchFailed' | 'started' | 'exited'>(kind: K, key: string) =>
  until(`${kind} of ${key}`, () => messageFor(session, kind, key));
async function reply(message: (request: number) => Parameters<Session['send']>[0]): Promise<number> {
  const id = ++request;
  session.send(message(id));
  return (await until('a reply', () => session.all('reply').find((one) => one.request === id))).errno ?? 0;
}
/** Which paths the monitor has open. */
const monitorHolds = (path: string): number =>
  readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`) === path;
    } catch {
      return false;
    }
  }).length;

describe('without a terminal', () => {
  it('the process has the fifos themselves; the reader sees the end', async () => {
    const paths = { stdout: fifo('out'), stderr: fifo('err') };
    const out = fifos.reader(paths.stdout);
    const err = fifos.reader(paths.stderr);
    launch('web', execPlan('readlink /proc/self/fd/1; readlink /proc/self/fd/0 >&2'), paths);
    await toEnd(out);
    await toEnd(err);
    expect(out.text).toBe(`${paths.stdout}\n`);
    expect(err.text).toBe('/dev/null\n');
    expect((await answer('exited', 'web')).waitStatus).toBe(0);
  });

  it('one path may serve both streams', async () => {
    const path = fifo('both');
    const both = fifos.reader(path);
    launch('web', execPlan('echo out; echo err >&2'), { stdout: path, stderr: path });
    await toEnd(both);
    expect(both.text).toBe('out\nerr\n');
  });

  it('a reader that comes after the exit gets everything and the end', async () => {
    const stdout = fifo('out');
    launch('web', execPlan('echo early'), { stdout });
    await answer('exited', 'web');
    await pause(60);
    const late = fifos.reader(stdout);
    await toEnd(late);
    expect(late.text).toBe('early\n');
    await until('the keeper to go', () => monitorHolds(stdout) === 0);
  });

  it('Forget waits for a first reader: a client that is told of the delete may give up reading', async () => {
    const stdout = fifo('out');
    launch('web', execPlan('echo kept'), { stdout });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    expect(monitorHolds(stdout)).toBeGreaterThan(0);
    const forgotten = reply((id) => ({ forget: { request: id, key: 'web' } }));
    expect(await Promise.race([forgotten, pause(100)])).toBeUndefined();
    const late = fifos.reader(stdout);
    await toEnd(late);
    expect(late.text).toBe('kept\n');
    expect(await forgotten).toBe(0);
    expect(monitorHolds(stdout)).toBe(0);
  });

  it.each([
    ['is there', (stdout: string) => fifos.reader(stdout), undefined],
    ['comes later', () => undefined, (stdout: string) => fifos.reader(stdout)],
  ])('an exit is told when the output has been read: its reader %s', async (_which, before, after) => {
    const stdout = fifo('out');
    const early = before(stdout);
    const begun = Date.now();
    launch('web', execPlan('echo kept'), { stdout });
    await answer('launched', 'web');
    await until('its end', () => childrenOf(pid).length === 0);
    await pause(100);
    const told = messageFor(session, 'exited', 'web');
    // It is told after a second in any case.
    if (Date.now() - begun < 1000) expect(told).toBeUndefined();
    const reader = early ?? after?.(stdout);
    await toEnd(reader as FifoReader);
    await answer('exited', 'web');
    expect(reader?.text).toBe('kept\n');
    expect(session.all('exited')).toHaveLength(1);
  });

  it('an exit whose output nobody reads is told once, also when the process is forgotten', async () => {
    const stdout = fifo('out');
    const reader = fifos.reader(stdout);
    launch('web', execPlan('echo lost'), { stdout });
    await answer('launched', 'web');
    await until('its end', () => childrenOf(pid).length === 0);
    const forgotten = reply((id) => ({ forget: { request: id, key: 'web' } }));
    reader.close();
    expect(await forgotten).toBe(0);
    await answer('exited', 'web');
    await pause(50);
    expect(session.all('exited')).toHaveLength(1);
  });

  it('Forget does not wait for a reader that was there and left', async () => {
    const stdout = fifo('out');
    const reader = fifos.reader(stdout);
    launch('web', execPlan('read line; echo lost', []), { stdin: fifo('in'), stdout });
    await answer('launched', 'web');
    reader.close();
    session.send({ closeStdin: { request: ++request, key: 'web' } });
    expect((await answer('exited', 'web')).outputWaits).toBe(false);
    expect(monitorHolds(stdout)).toBeGreaterThan(0);
    expect(await reply((id) => ({ forget: { request: id, key: 'web' } }))).toBe(0);
    expect(monitorHolds(stdout)).toBe(0);
  });

  it.each([
    ['waits at its gate', []],
    ['is on its way there', [{ writeFile: { path: 'hang', data: new Uint8Array([0]) } }]],
  ])(
    'a launch that %s when the engine dies is asked for again: its reader sees no end between',
    async (_where, steps) => {
      const paths = { stdout: fifo('out'), stderr: fifo('err') };
      const out = fifos.reader(paths.stdout);
      // Opening a fifo that nobody reads does not return.
      for (const step of steps) step.writeFile.path = fifo('hang');
      launch('web', execPlan('echo first', [CLONE, ...steps, GATE]), paths);
      await until('the process', () => childrenOf(pid).length > 0);
      if (steps.length === 0) await answer('launched', 'web');
      await until('the fifo to be held', () => monitorHolds(paths.stdout) > 0);
      await rig.engine.crash(true);
      session = await until('a new session', () => rig.engine.sessions[1]);
      await until('the launch to be forgotten', async () => {
        await reply((id) => ({ signal: { request: id, key: 'web', signal: 9 } }));
        return (await reply((id) => ({ forget: { request: id, key: 'web' } }))) !== EBUSY;
      });
      out.ended = false;
      out.poll();
      launch('web', execPlan('echo second', [CLONE, GATE]), paths);
      await answer('launched', 'web');
      out.poll();
      expect(out.ended).toBe(false);
      session.send({ continue: { request: ++request, key: 'web' } });
      await out.toEnd();
      expect(out.text).toBe('second\n');
      await until('its exit', () => session.all('exited').some(({ waitStatus }) => (waitStatus ?? 0) === 0));
      await until('the fifos to be let go', () => monitorHolds(paths.stdout) === 0);
    },
  );

  it('a launch that was never let through ends its reader when nobody asks for it again', async () => {
    const stdout = fifo('out');
    const out = fifos.reader(stdout);
    launch('web', execPlan('exit 0', [CLONE, GATE]), { stdout });
    await answer('launched', 'web');
    await rig.engine.crash(true);
    session = await until('a new session', () => rig.engine.sessions[1]);
    await reply((id) => ({ signal: { request: id, key: 'web', signal: 9 } }));
    await answer('exited', 'web');
    await out.toEnd();
    expect(await reply((id) => ({ forget: { request: id, key: 'web' } }))).toBe(0);
  });

  it('Forget waits for no reader of a fifo that has been removed', async () => {
    const stdout = fifo('out');
    launch('web', execPlan('echo lost'), { stdout });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    rmSync(stdout);
    expect(await reply((id) => ({ forget: { request: id, key: 'web' } }))).toBe(0);
  });

  it('Forget waits for a reader that is there and has read nothing yet', async () => {
    const stdout = fifo('out');
    const reader = fifos.reader(stdout);
    launch('web', execPlan('echo kept'), { stdout });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    const forgotten = reply((id) => ({ forget: { request: id, key: 'web' } }));
    expect(await Promise.race([forgotten, pause(100)])).toBeUndefined();
    await toEnd(reader);
    expect(reader.text).toBe('kept\n');
    expect(await forgotten).toBe(0);
    expect(monitorHolds(stdout)).toBe(0);
  });

  it('Forget does not wait for a reader that leaves with something unread', async () => {
    const stdout = fifo('out');
    const reader = fifos.reader(stdout);
    launch('web', execPlan('echo lost'), { stdout });
    expect((await answer('exited', 'web')).outputWaits).toBe(true);
    const forgotten = reply((id) => ({ forget: { request: id, key: 'web' } }));
    expect(await Promise.race([forgotten, pause(50)])).toBeUndefined();
    reader.close();
    expect(await forgotten).toBe(0);
  });

  it('a reader may go and come back: no SIGPIPE, nothing lost', async () => {
    const stdout = fifo('out');
    const first = fifos.reader(stdout);
    launch('web', execPlan('echo one; sleep 0.15; echo two; sleep 0.15; echo three'), { stdout });
    await first.until('the first line', (text) => text === 'one\n');
    first.close();
    await pause(200);
    const second = fifos.reader(stdout);
    await toEnd(second);
    expect(second.text).toBe('two\nthree\n');
    expect((await answer('exited', 'web')).waitStatus).toBe(0);
  });

  it('a client of stdin may go and come back; only CloseStdin is the end', async () => {
    const paths = { stdin: fifo('in'), stdout: fifo('out') };
    const out = fifos.reader(paths.stdout);
    launch('web', execPlan('cat; echo end'), paths);
    await answer('launched', 'web');
    for (const word of ['one', 'two']) {
      const client = writer(paths.stdin);
      writeSync(client, `${word}\n`);
      closeWriter(client);
      await out.until(word, (text) => text.endsWith(`${word}\n`));
    }
    await pause(50);
    expect(out.text).toBe('one\ntwo\n');
    expect(await reply((id) => ({ closeStdin: { request: id, key: 'web' } }))).toBe(0);
    await toEnd(out);
    expect(out.text).toBe('one\ntwo\nend\n');
  });

  it('a stdin that nobody ever opens blocks nothing', async () => {
    const paths = { stdin: fifo('in'), stdout: fifo('out') };
    const out = fifos.reader(paths.stdout);
    launch('web', execPlan('echo ready; cat'), paths);
    await out.until('its word', (text) => text === 'ready\n');
    expect(await reply((id) => ({ resize: { request: id, key: 'web', width: 80, height: 24 } }))).toBe(0);
    await reply((id) => ({ closeStdin: { request: id, key: 'web' } }));
    await answer('exited', 'web');
  });

  it('stdin may get its reader with the start gate: a client cannot write before', async () => {
    const paths = { stdin: fifo('in'), stdout: fifo('out') };
    const out = fifos.reader(paths.stdout);
    launch('web', execPlan('cat; echo end', [{ gate: { point: 'start' } }]), { ...paths, stdinAtGate: true });
    await answer('launched', 'web');
    expect(() => writer(paths.stdin)).toThrow('ENXIO');
    session.send({ continue: { request: ++request, key: 'web' } });
    await answer('started', 'web');
    const client = writer(paths.stdin);
    writeSync(client, 'late\n');
    closeWriter(client);
    await out.until('it', (text) => text === 'late\n');
    await pause(30);
    expect(out.text).toBe('late\n');
    expect(await reply((id) => ({ closeStdin: { request: id, key: 'web' } }))).toBe(0);
    await toEnd(out);
    expect(out.text).toBe('late\nend\n');
  });

  it('closed before its reader came, stdin is at its end', async () => {
    const paths = { stdin: fifo('in'), stdout: fifo('out') };
    const out = fifos.reader(paths.stdout);
    launch('web', execPlan('cat; echo end', [{ gate: { point: 'start' } }]), { ...paths, stdinAtGate: true });
    await answer('launched', 'web');
    expect(await reply((id) => ({ closeStdin: { request: id, key: 'web' } }))).toBe(0);
    session.send({ continue: { request: ++request, key: 'web' } });
    await toEnd(out);
    expect(out.text).toBe('end\n');
  });

  it('plain files are appended to', async () => {
    const path = join(rig.dir, 'log.txt');
    for (const word of ['one', 'two']) {
      launch(word, execPlan(`echo ${word}`), { stdout: path, stderr: path, append: true });
      await answer('exited', word);
    }
    expect(readFileSync(path, 'utf8')).toBe('one\ntwo\n');
  });

  it('only its own descriptors reach the process', async () => {
    const stdout = fifo('out');
    const out = fifos.reader(stdout);
    launch('web', execPlan('ls /proc/self/fd'), { stdout });
    await toEnd(out);
    // 3 is the directory that ls itself has open.
    expect(out.text.trim().split('\n')).toEqual(['0', '1', '2', '3']);
  });

  it('ten megabytes arrive whole', async () => {
    const stdout = fifo('out');
    const out = fifos.reader(stdout);
    launch('web', execPlan('head -c 10485760 /dev/zero'), { stdout });
    await toEnd(out);
    expect(out.text.length).toBe(10 << 20);
  });
});

describe('with a terminal', () => {
  const TTY: bulkhead.plan.v1.IStep = { terminal: { width: 100, height: 30 } };
  interface Terminal {
    out: FifoReader;
    paths: { stdin: string; stdout: string };
  }
  async function untyped(script: string, filled = 0): Promise<Terminal> {
    const paths = { stdin: fifo('in'), stdout: fifo('out') };
    const out = fifos.reader(paths.stdout);
    if (filled > 0) {
      const before = writer(paths.stdout);
      expect(writeSync(before, Buffer.alloc(filled, '-'))).toBe(filled);
      closeWriter(before);
    }
    launch('web', execPlan(script, [{ enterRoot: { path: '/' } }, TTY]), { ...paths, terminal: true });
    const failed = () => messageFor(session, 'launchFailed', 'web');
    await until('launch', () => messageFor(session, 'launched', 'web') ?? failed());
    expect(failed()).toBeUndefined();
    return { out, paths };
  }
  /** Of a process that still runs when somebody begins to type. */
  async function terminal(script: string): Promise<Terminal & { stdin: number }> {
    const { out, paths } = await untyped(script);
    return { out, stdin: writer(paths.stdin), paths };
  }

  it('copies both ways, echoes, and ends', async () => {
    const { out, stdin } = await terminal('tty; read line; echo "got $line"; exit 6');
    await out.until('tty', (text) => text.includes('/dev/pts/'));
    writeSync(stdin, 'hello\n');
    await toEnd(out);
    expect(out.text).toContain('hello\n');
    expect(out.text).toContain('got hello\n');
    expect((await answer('exited', 'web')).waitStatus).toBe(6 << 8);
  });

  it('has the size it was given, and later another', async () => {
    const { out, stdin } = await terminal('stty size; read x; stty size');
    await out.until('a size', (text) => text.includes('30 100'));
    expect(await reply((id) => ({ resize: { request: id, key: 'web', width: 132, height: 50 } }))).toBe(0);
    writeSync(stdin, '\n');
    await toEnd(out);
    expect(out.text).toContain('50 132');
    await answer('exited', 'web');
    expect(await reply((id) => ({ resize: { request: id, key: 'web', width: 1, height: 1 } }))).toBe(3);
  });

  it('delivers everything that was written before the exit', async () => {
    const { out } = await untyped('seq 1 20000');
    await toEnd(out);
    const lines = out.text.trimEnd().split('\n');
    expect(lines.length).toBe(20000);
    expect(lines.at(-1)).toBe('20000');
  });

  it('delivers what had no room in the fifo when the terminal ended, and then its process', async () => {
    // All that a fifo holds: how much more fits would depend on the pieces in which it was written.
    const full = 65_536;
    // Nothing has the terminal open when the process ends.
    const script = `trap '' HUP; printf 'late'; exec 0<&- 1>&- 2>&-; sleep 0.2`;
    const { out } = await untyped(script, full);
    await until('its end', () => childrenOf(pid).length === 0);
    await toEnd(out);
    expect(out.text).toBe(`${'-'.repeat(full)}late`);
    await answer('exited', 'web');
  });

  it('is not hung up on when the process closes it, which may open it again', async () => {
    const script =
      'tty=$(tty); echo one; exec 0<&- 1>&- 2>&-; sleep 0.2; echo two > $tty; sleep 0.2; exec > $tty; echo three; exit 9';
    const { out } = await untyped(script);
    await toEnd(out);
    expect(out.text).toBe('one\ntwo\nthree\n');
    expect((await answer('exited', 'web')).waitStatus).toBe(9 << 8);
  });

  it('is gone and forgotten when its output has been read, also if somebody still has it open', async () => {
    const begun = Date.now();
    const { out } = await untyped("trap '' HUP; echo kept; sleep 600 & exit 5");
    const shell = (await answer('launched', 'web')).pid;
    await until('its end', () => !childrenOf(pid).includes(shell ?? 0));
    await pause(100);
    const told = messageFor(session, 'exited', 'web');
    // It is told after a second in any case.
    if (Date.now() - begun < 1000) expect(told).toBeUndefined();
    const forgotten = answer('exited', 'web').then(() =>
      reply((id) => ({ forget: { request: id, key: 'web' } })),
    );
    await out.until('its output', (text) => text === 'kept\n');
    expect((await answer('exited', 'web')).waitStatus).toBe(5 << 8);
    expect(await forgotten).toBe(0);
    for (const child of childrenOf(pid)) process.kill(child, 'SIGKILL');
    await toEnd(out);
    expect(out.text).toBe('kept\n');
  });

  it('lives on without a reader, and stops at a full fifo only', async () => {
    const { out, stdin, paths } = await terminal('while read line; do echo "got $line"; done');
    writeSync(stdin, 'one\n');
    await out.until('the first', (text) => text.includes('got one'));
    out.close();
    writeSync(stdin, 'two\n');
    await pause(50);
    const second = fifos.reader(paths.stdout);
    await second.until('the second', (text) => text.includes('got two'));
    await reply((id) => ({ signal: { request: id, key: 'web', signal: 9 } }));
    await toEnd(second);
  });

  it('takes no end of input from CloseStdin', async () => {
    const { out, stdin } = await terminal('read line; echo "got $line"; sleep 0.2; echo still');
    writeSync(stdin, 'x\n');
    closeWriter(stdin);
    await reply((id) => ({ closeStdin: { request: id, key: 'web' } }));
    await toEnd(out);
    expect(out.text).toContain('got x');
    expect(out.text).toContain('still');
  });

  it('a late reader gets what was written', async () => {
    const stdout = fifo('out');
    launch('web', execPlan('echo early', [{ enterRoot: { path: '/' } }, TTY]), { stdout, terminal: true });
    await answer('exited', 'web');
    await pause(60);
    const late = fifos.reader(stdout);
    await toEnd(late);
    expect(late.text).toBe('early\n');
  });
});
