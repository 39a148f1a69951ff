import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { execPlan, until } from '../monitor/harness.ts';
import { AGENT, AgentRig, HostSession } from './harness.ts';
import { DATA, frame, preamble } from './mux.ts';

let rig: AgentRig;
beforeEach(async () => {
  rig = new AgentRig();
  rig.start();
});
afterEach(() => rig.dispose());

describe('a host that comes back', () => {
  it('finds what has happened meanwhile', async () => {
    const first = await rig.session();
    first.launch('web', execPlan('sleep 0.2; exit 5'));
    first.launch('late', execPlan('exec sleep 60'));
    await first.answer('launched', 'late');
    first.socket.destroy();
    let second = await rig.session();
    let { processes } = await second.hello();
    const web = () => processes?.find(({ key }) => key === 'web');
    while (web()?.exited !== true) {
      second.socket.destroy();
      second = await rig.session();
      ({ processes } = await second.hello());
    }
    expect(web()).toMatchObject({ exited: true, waitStatus: 5 << 8 });
    expect(processes?.find(({ key }) => key === 'late')).toMatchObject({ running: true });
    expect(await second.ask((request) => ({ signal: { request, key: 'late', signal: 9 } }))).toBe(0);
    await second.answer('exited', 'late');
  });

  it('on the same connection has streams of its own', async () => {
    const host = await rig.session();
    host.launch('cat', execPlan('exec cat'), { stdin: 1, stdout: 2 });
    await host.answer('launched', 'cat');
    host.reopen();
    await host.hello();
    // Its input has ended with its session, and so has it.
    await until('the end of cat', () =>
      host.messages.some(
        ({ exited, hello }) => exited?.key === 'cat' || hello?.processes?.some((one) => one.exited),
      ),
    );
    host.launch('echo', execPlan('echo again'), { stdout: 2 });
    await until('its output', () => host.incoming(2).eof);
    expect(host.incoming(2).text).toBe('again\n');
  });
});

describe('bytes that are no session', () => {
  it('before the first are passed over', async () => {
    const socket = await rig.dial();
    socket.write(randomBytes(100_000));
    const host = new HostSession(socket);
    await host.hello();
  });

  it.each([
    ['a frame of no kind', frame(1, 9)],
    ['a control message that is none', frame(0, DATA, Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]))],
    ['a frame that is too long', Buffer.from('7fffffff0000000100', 'hex')],
    ['a control message that is too long', Buffer.from('7fffffff0000000000', 'hex')],
    ['flow control on the control stream', frame(0, 2)],
  ])('%s ends the session; the next one works', async (_, bytes) => {
    const host = await rig.session();
    await host.hello();
    host.socket.write(bytes);
    await until('a log line', () => rig.stderr.includes('bulkhead-agent: error: channel: '));
    host.reopen();
    await host.hello();
    host.launch('web', execPlan('exit 0'));
    await host.answer('exited', 'web');
    expect(rig.alive).toBe(true);
  });

  it('of a thousand seeds never end the agent', async () => {
    const host = await rig.session();
    await host.hello();
    for (let round = 0; round < 100; round++) {
      for (let i = 0; i < 10; i++) host.socket.write(frame(i % 3, i % 4, randomBytes(i * 7)));
      const opening = preamble();
      host.socket.write(opening);
    }
    host.reopen();
    await host.hello();
    expect(rig.alive).toBe(true);
  });
});

describe('the agent', () => {
  it('reaps orphans', async () => {
    const host = await rig.session();
    host.launch('fork', execPlan('(sleep 0.05; exit 3) & (sleep 0.06 &) ; exit 0'));
    await host.answer('exited', 'fork');
    for (let children = '?'; children !== '';) {
      const { reply } = await host.call({ readFiles: { paths: ['/proc/1/task/1/children'] } });
      children = Buffer.from(reply.files?.[0]?.data ?? []).toString();
    }
  });

  it('runs fifty at once, each with its own status and output', async () => {
    const host = await rig.session();
    for (let i = 0; i < 50; i++) host.launch(`p${i}`, execPlan(`echo ${i}; exit ${i}`), { stdout: 100 + i });
    for (let i = 0; i < 50; i++) {
      expect((await host.answer('exited', `p${i}`, 120_000)).waitStatus).toBe(i << 8);
      await until('its output', () => host.incoming(100 + i).eof);
      expect(host.incoming(100 + i).text).toBe(`${i}\n`);
    }
  });

  it('leaves with one sentence when it cannot start', async () => {
    const usage = spawnSync(AGENT, ['--bad'], {
      encoding: 'utf8',
    });
    expect(usage.status).toBe(2);
    expect(usage.stderr).toMatch(/^usage: bulkhead-agent/);
    const nowhere = spawnSync(AGENT, ['--init', '/nowhere', '--connect', '/nowhere.sock'], {
      encoding: 'utf8',
    });
    expect(nowhere.status).toBe(1);
    expect(nowhere.stderr).toBe('bulkhead-agent: error: /nowhere: no such file or directory\n');
  });
});
