import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CLONE_NEWNS, CLONE_NEWPID } from '../../../src/base/constants.ts';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import {
  HELD_ZOMBIE,
  TRACEES,
  asleep,
  childrenOf,
  execPlan,
  pause,
  stateOf,
  until,
} from '../monitor/harness.ts';
import { AgentRig } from './harness.ts';
import type { HostSession } from './harness.ts';

const { Call } = bulkhead.agent.v1;
const ENOENT = 2;
const ESRCH = 3;
const EBUSY = 16;
const EEXIST = 17;
const GATE: bulkhead.plan.v1.IStep = { gate: { point: 'start' } };
const CLONE: bulkhead.plan.v1.IStep = { clone: { namespaces: CLONE_NEWPID | CLONE_NEWNS } };

let rig: AgentRig;
let host: HostSession;
beforeEach(async () => {
  rig = new AgentRig();
  rig.start();
  host = await rig.session();
  await host.hello();
});
afterEach(() => rig.dispose());

/** The shell between unshare(1) and the agent has become the agent. */
const agentPid = (): number => childrenOf(rig.process?.pid ?? 0)[0] ?? 0;

describe('a session', () => {
  it('is answered with what the agent is', async () => {
    const hello = await host.hello();
    expect(hello.protocol).toBe(1);
    expect(hello.kernel).toMatch(/^\d+\.\d+/);
    expect(hello.processes).toEqual([]);
  });
});

describe('a process', () => {
  it('runs, writes and ends with its status', async () => {
    host.launch('web', execPlan('echo out; echo err >&2; exit 7'), { stdout: 1, stderr: 2 });
    expect((await host.answer('launched', 'web')).pausedAt).toBe('');
    expect((await host.answer('exited', 'web')).waitStatus).toBe(7 << 8);
    await until('the ends of its streams', () => host.incoming(1).eof && host.incoming(2).eof);
    expect(host.incoming(1).text).toBe('out\n');
    expect(host.incoming(2).text).toBe('err\n');
  });

  it('waits at its gate until it is told to go on', async () => {
    host.launch('web', execPlan('exit 3', [CLONE, GATE]));
    expect((await host.answer('launched', 'web')).pausedAt).toBe('start');
    await pause(20);
    expect(host.messages.some((message) => message.started)).toBe(false);
    host.send({ continue: { request: 50, key: 'web' } });
    expect((await host.answer('started', 'web')).request).toBe(50);
    expect((await host.answer('exited', 'web')).waitStatus).toBe(3 << 8);
  });

  it('reads its input to the end', async () => {
    host.launch('web', execPlan('wc -c'), { stdin: 5, stdout: 6 });
    await host.answer('launched', 'web');
    host.write(5, 'x'.repeat(1000));
    host.write(5, 'y'.repeat(234));
    host.end(5);
    await host.answer('exited', 'web');
    await until('its output', () => host.incoming(6).eof);
    expect(host.incoming(6).text.trim()).toBe('1234');
  });

  it('reads to the end of its input while a call waits that was made meanwhile', async () => {
    host.launch('web', execPlan('cat'), { stdin: 5, stdout: 6 });
    await host.answer('launched', 'web');
    const wait = { awaitFile: { path: '/proc/1/comm', line: 'never', timeoutMs: 600_000 } };
    host.send({ call: { request: 99, call: Call.encode(wait).finish() } });
    await until('its worker', () => childrenOf(agentPid()).length === 2);
    host.write(5, 'all');
    host.end(5);
    await host.answer('exited', 'web');
    await until('its output', () => host.incoming(6).eof);
    expect(host.incoming(6).text).toBe('all');
  });

  it('that does not read its input hears of its end all the same', async () => {
    host.launch('web', execPlan('exec sleep 0.05'), { stdin: 5 });
    await host.answer('exited', 'web');
    host.write(5, 'x');
    await until('a reset', () => host.resets.has(5));
  });

  it('gets signals, and only while it is there', async () => {
    host.launch('web', execPlan('exec sleep 60'));
    await host.answer('launched', 'web');
    expect(await host.ask((request) => ({ signal: { request, key: 'web', signal: 15 } }))).toBe(0);
    expect((await host.answer('exited', 'web')).waitStatus).toBe(15);
    expect(await host.ask((request) => ({ signal: { request, key: 'web', signal: 15 } }))).toBe(ESRCH);
    expect(await host.ask((request) => ({ signal: { request, key: 'nobody', signal: 15 } }))).toBe(ESRCH);
  });

  it('is forgotten when it has ended, not before', async () => {
    host.launch('web', execPlan('exec sleep 60'));
    await host.answer('launched', 'web');
    expect(await host.ask((request) => ({ forget: { request, key: 'web' } }))).toBe(EBUSY);
    await host.ask((request) => ({ signal: { request, key: 'web', signal: 9 } }));
    await host.answer('exited', 'web');
    expect(await host.ask((request) => ({ forget: { request, key: 'web' } }))).toBe(0);
    expect(await host.ask((request) => ({ forget: { request, key: 'web' } }))).toBe(ESRCH);
  });

  it('that must not outlive another does not', async () => {
    host.launch('pod', execPlan('exec sleep 60'));
    await host.answer('launched', 'pod');
    host.launch('web', execPlan('exec sleep 60', [CLONE]), { diesWith: 'pod' });
    await host.answer('launched', 'web');
    await host.ask((request) => ({ signal: { request, key: 'pod', signal: 9 } }));
    expect((await host.answer('exited', 'web')).waitStatus).toBe(9);
    host.launch('late', execPlan('exit 0'), { diesWith: 'pod' });
    expect(await host.answer('launchFailed', 'late')).toMatchObject({ op: 'dies with', errno: ESRCH });
  });

  it.each(TRACEES)('that asks its parent to trace it and %s is let go on', async (_what, script) => {
    host.launch('web', execPlan(script));
    expect((await host.answer('exited', 'web')).waitStatus).toBe(42 << 8);
  });

  it('whose end another holds that traces it is told of when that one has ended', async () => {
    host.launch('web', execPlan(HELD_ZOMBIE));
    await host.answer('launched', 'web');
    const agent = agentPid();
    await until('its end', () => childrenOf(agent).some((child) => stateOf(child) === 'Z'));
    await until('the agent to sleep', asleep(agent));
    expect(host.messages.some(({ exited }) => exited)).toBe(false);
    for (const child of childrenOf(agent)) if (stateOf(child) !== 'Z') process.kill(child, 'SIGKILL');
    expect((await host.answer('exited', 'web')).waitStatus).toBe(5 << 8);
  });

  it('with a terminal reads from it, writes to it and learns its size', async () => {
    const steps: bulkhead.plan.v1.IStep[] = [
      { clone: { namespaces: CLONE_NEWNS } },
      { setPropagation: { path: '/', propagation: 1, recursive: true } },
      { terminal: {} },
    ];
    host.launch('web', execPlan('stty size; read word; echo got $word; read other; stty size', steps), {
      stdin: 1,
      stdout: 2,
      terminal: true,
    });
    const launched = host.messages.find((message) => message.launchFailed);
    expect(launched).toBeUndefined();
    await host.answer('launched', 'web');
    host.write(1, 'hello\n');
    await until('an answer', () => host.incoming(2).text.includes('got hello'));
    expect(await host.ask((request) => ({ resize: { request, key: 'web', width: 132, height: 43 } }))).toBe(
      0,
    );
    host.write(1, 'on\n');
    await host.answer('exited', 'web');
    await until('the end of the terminal', () => host.incoming(2).eof);
    expect(host.incoming(2).text).toContain('43 132');
  });
});

describe('a launch that cannot be', () => {
  it('says which step failed and leaves no key', async () => {
    host.launch('web', execPlan('exit 0', [{ openFile: { slot: 1, path: '/nowhere' } }]), { stdout: 1 });
    const failed = await host.answer('launchFailed', 'web');
    expect(failed.step).toMatchObject({ path: '/nowhere', errno: ENOENT });
    host.messages.length = 0;
    host.launch('web', execPlan('exit 0'), { stdout: 2 });
    await host.answer('exited', 'web');
  });

  it('is refused when its key is taken', async () => {
    host.launch('web', execPlan('exec sleep 60'));
    await host.answer('launched', 'web');
    host.launch('web', execPlan('exit 0'));
    expect(await host.answer('launchFailed', 'web')).toMatchObject({ op: 'duplicate key', errno: EEXIST });
  });

  it('is refused when a stream is taken, or named twice', async () => {
    host.launch('web', execPlan('exec sleep 60'), { stdout: 1 });
    await host.answer('launched', 'web');
    host.launch('second', execPlan('exit 0'), { stdin: 1 });
    expect(await host.answer('launchFailed', 'second')).toMatchObject({
      op: 'open stdio',
      path: 'stream 1',
      errno: EEXIST,
    });
    host.launch('third', execPlan('exit 0'), { stdout: 4, stderr: 4 });
    expect(await host.answer('launchFailed', 'third')).toMatchObject({ op: 'open stdio', errno: EEXIST });
  });

  it('is refused when its plan is none', async () => {
    host.launch('web', Buffer.from('not a plan'));
    await host.answer('launchFailed', 'web');
    expect(rig.alive).toBe(true);
  });
});

describe('streams', () => {
  it('stop at the window, and one that stands still stops no other', async () => {
    host.incoming(1).hold = true;
    host.launch('slow', execPlan('exec cat /dev/zero'), { stdout: 1 });
    await until('a full window', () => host.incoming(1).bytes >= 256 * 1024);
    host.launch('fast', execPlan('head -c 3000000 /dev/zero'), { stdout: 2 });
    await until('the other to end', () => host.incoming(2).eof, 120_000);
    expect(host.incoming(2).bytes).toBe(3_000_000);
    expect(host.incoming(1).bytes).toBe(256 * 1024);
    host.release(1);
    await until('more', () => host.incoming(1).bytes > 300 * 1024);
  });

  it('take 16 MiB each way unchanged', async () => {
    host.launch('cat', execPlan('md5sum'), { stdin: 1, stdout: 2 });
    await host.answer('launched', 'cat');
    const block = Buffer.alloc(64 * 1024, 'abcdefg');
    let sent = 0;
    for (let i = 0; i < 256; i++) {
      await until('credit', () => sent - (host.credits.get(1) ?? 0) <= 192 * 1024);
      host.write(1, block);
      sent += block.length;
    }
    host.end(1);
    await host.answer('exited', 'cat', 120_000);
    await until('its output', () => host.incoming(2).eof);
    const { createHash } = await import('node:crypto');
    const sum = createHash('md5');
    for (let i = 0; i < 256; i++) sum.update(block);
    expect(host.incoming(2).text.slice(0, 32)).toBe(sum.digest('hex'));
  });

  it('say when an ended process has left nothing, though others hold its output', async () => {
    host.launch('web', execPlan('echo first; sleep 30 & exit 0'), { stdout: 1 });
    await host.answer('exited', 'web');
    await until('the empty frame', () => host.incoming(1).empties === 1);
    expect(host.incoming(1).text).toBe('first\n');
    expect(host.incoming(1).eof).toBe(false);
    expect(await host.ask((request) => ({ forget: { request, key: 'web' } }))).toBe(0);
  });

  it('that nobody wants any more end their writer', async () => {
    host.launch('yes', execPlan('exec yes'), { stdout: 1 });
    await until('output', () => host.incoming(1).bytes > 0);
    host.reset(1);
    expect((await host.answer('exited', 'yes')).waitStatus).toBe(13);
  });

  it('with more than their window end the session, and only that', async () => {
    host.launch('idle', execPlan('exec sleep 60'), { stdin: 1 });
    await host.answer('launched', 'idle');
    for (let i = 0; i < 12; i++) host.write(1, Buffer.alloc(64 * 1024));
    await until('a log line', () => rig.stderr.includes("more data than the stream's window"));
    host.reopen();
    expect((await host.hello()).processes).toMatchObject([{ key: 'idle', running: true }]);
  });
});
