import type { Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, type RuntimeError } from '../../../base/errors.ts';
import type { Spec } from '../../../oci/types.ts';
import type { GuestLaunch } from '../pod_agent.ts';
import { connectAgent } from './connect.ts';
import { agentWords } from './rpc.ts';
import { AgentServer, KataRig, open } from './testing/rig.ts';
import { ScriptedAgent } from './testing/scripted_agent.ts';

const spec: Spec = {
  ociVersion: '1.2.0',
  process: { user: { uid: 0, gid: 0 }, args: ['sleep'], cwd: '/' },
  linux: {},
};
const container: GuestLaunch = {
  id: 'web',
  spec,
  root: '/r',
  seccomp: () => undefined,
  options: {},
  stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
};
const process = { user: { uid: 0, gid: 0 }, args: ['true'], cwd: '/' };
const execution = {
  ...container,
  execId: 'e',
  process,
  pid: 0,
  options: undefined,
};

const rejection = async (promise: Promise<unknown>): Promise<RuntimeError> =>
  (await promise.then(
    () => expect.unreachable('it resolved'),
    (error: unknown) => error,
  )) as RuntimeError;

const FAULT =
  'the disk is gone\n\nCaused by:\n    0: read failed\n    1: EIO: I/O error\n\nStack backtrace:\n   0: f\n';
const WORDS = 'the disk is gone: read failed: EIO: I/O error';

describe('a method that fails is one sentence with the words of the agent', () => {
  let rig: KataRig;
  beforeEach(async () => {
    rig = await KataRig.start();
  });
  afterEach(async () => {
    await rig[Symbol.asyncDispose]();
  });

  const setUp = (): Promise<void> => rig.pod.setUp('web', { hostname: 'h', share: true, grown: true });
  const network = (): Promise<void> =>
    rig.pod.configureNetwork('web', {
      interfaces: [{ name: 'eth0', mac: Buffer.from([2, 0, 0, 0, 0, 1]), mtu: 1500 }],
      routes: [{ family: 2, device: 'eth0', gateway: Buffer.from([10, 0, 0, 1]), type: 1, table: 254 }],
      neighbours: [
        { device: 'eth0', address: Buffer.from([10, 0, 0, 1]), mac: Buffer.from([2, 0, 0, 0, 0, 2]) },
      ],
    });
  const made = async (run: () => Promise<unknown>): Promise<void> => {
    await rig.pod.launch(container);
    await run();
  };
  const init = (): ReturnType<KataRig['holder']['process']> => rig.holder.process('web');

  it.each<[method: string, op: string, run: () => Promise<unknown>]>([
    ['CreateSandbox', 'create web', setUp],
    ['SetGuestDateTime', 'create web', setUp],
    ['ReseedRandomDev', 'create web', setUp],
    ['OnlineCPUMem', 'create web', setUp],
    ['UpdateInterface', 'create web', network],
    ['ListInterfaces', 'create web', network],
    ['UpdateRoutes', 'create web', network],
    ['AddARPNeighbors', 'create web', network],
    ['CreateContainer', 'create web', () => rig.pod.launch(container)],
    ['StartContainer', 'start web', () => made(() => init().proceed())],
    ['ExecProcess', 'exec web/e', () => made(() => rig.pod.exec({ ...execution, gated: false }))],
    ['SignalProcess', 'kill web', () => made(() => init().signal(15))],
    ['TtyWinResize', 'resize web', () => made(() => init().resize(80, 24))],
    ['PauseContainer', 'pause web', () => made(() => rig.pod.container('web').freeze())],
    ['ResumeContainer', 'resume web', () => made(() => rig.pod.container('web').thaw())],
    ['UpdateContainer', 'update web', () => made(() => rig.pod.container('web').update({}))],
    ['StatsContainer', 'stats web', () => made(() => rig.pod.container('web').stats('v2'))],
    ['RemoveContainer', 'delete web', () => made(() => rig.pod.container('web').remove([]))],
  ])('%s', async (method, who, run) => {
    rig.agent.failures.set(method, { code: ErrorCode.Internal, message: FAULT });
    expect(await rejection(run())).toMatchObject({
      code: ErrorCode.Internal,
      message: `${who}: guest ${method}: ${WORDS}`,
    });
  });

  it('and a container that could not be made is taken away, with what was opened for it', async () => {
    rig.agent.failures.set('CreateContainer', { code: ErrorCode.Internal, message: 'no' });
    await rejection(rig.pod.launch(container));
    expect(rig.agent.asked('RemoveContainer')).toHaveLength(1);
    expect(rig.holder.held.size).toBe(0);
    rig.agent.failures.clear();
    expect(await rig.pod.launch(container)).toEqual({ pid: 77, pausedAt: 'start' });
  });

  it('a stream that does not exist fails before the guest is asked', async () => {
    const stdio = { ...container.stdio, stdout: join(rig.server.dir, 'none') };
    expect(await rejection(rig.pod.launch({ ...container, stdio }))).toMatchObject({ code: 'ENOENT' });
    expect(rig.agent.asked('CreateContainer')).toEqual([]);
  });

  it('an exit that the agent does not know is told as 255', async () => {
    rig.agent.failures.set('WaitProcess', { code: ErrorCode.Internal, message: 'reaper failed' });
    await rig.pod.launch(container);
    await init().signal(9);
    expect((await rig.holder.exit('web')).waitStatus).toBe(255 << 8);
    expect(rig.warnings.join()).toContain('reaper failed');
  });

  it('an agent without news of memory limits is used all the same', async () => {
    const other = await KataRig.start();
    try {
      other.agent.failures.set('GetOOMEvent', { code: ErrorCode.Unimplemented, message: 'unknown method' });
      await other.restart().connect(other.socket);
      expect(await other.pod.launch(container)).toEqual({ pid: 77, pausedAt: 'start' });
      const lost = new Promise<string>((resolve) => other.pod.onLost(resolve));
      other.server.hangUp();
      await rejection(other.pod.container('web').freeze());
      expect(await lost).toBe('its agent hung up');
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });

  it('a terminal that is not there is no loss of the agent', async () => {
    await rig.pod.launch(container);
    const error = await rejection(init().resize(80, 24));
    expect(error.message).toBe('resize web: guest TtyWinResize: no tty');
    expect(rig.pod.isConnected).toBe(true);
  });

  it('a filter for an agent without seccomp is refused', async () => {
    rig.agent.seccomp = false;
    await rig.restart().connect(rig.socket);
    const linux = { seccomp: { defaultAction: 'SCMP_ACT_ALLOW' } };
    expect((await rejection(rig.pod.launch({ ...container, spec: { ...spec, linux } }))).message).toContain(
      'the agent of this guest image was built without seccomp',
    );
  });

  it('when the agent hangs up, its processes have ended and the machine is given up', async () => {
    const lost = new Promise<string>((resolve) => rig.pod.onLost(resolve));
    await rig.pod.launch(container);
    await init().proceed();
    rig.server.hangUp();
    expect(await lost).toBe('its agent hung up');
    expect((await rig.holder.exit('web')).waitStatus).toBe(9);
    expect(rig.pod.isConnected).toBe(false);
    expect(await rejection(rig.pod.container('web').freeze())).toMatchObject({
      code: ErrorCode.Unavailable,
      message: 'pause web: virtual machine: there is no connection to its agent any more',
    });
  });

  it.each([
    ['empty', Buffer.alloc(0), 'no interface'],
    ['garbage', Buffer.from('ffffffffffffffffff', 'hex'), 'answer:'],
    ['truncated', Buffer.from('0aff', 'hex'), 'answer:'],
  ])('an answer that is %s', async (what, raw, words) => {
    rig.agent.raw.set('ListInterfaces', raw);
    const error = await rejection(network());
    expect(error.code).toBe(ErrorCode.Internal);
    expect(error.message).toContain(
      what === 'empty' ? 'guest interface eth0' : `guest ListInterfaces: ${words}`,
    );
    expect(error.message).not.toContain('\n');
  });

  it('more output than was asked for ends the stream', async () => {
    rig.agent.raw.set(
      'ReadStdout',
      Buffer.concat([Buffer.from('0a81800c', 'hex'), Buffer.alloc(196_609, 'x')]),
    );
    await rig.pod.launch(container);
    await init().signal(9);
    await rig.holder.exit('web');
    expect(rig.agent.asked('ReadStdout')).toHaveLength(1);
  });

  it('an agent that takes more input than it was given gets none any more', async () => {
    const path = join(rig.server.dir, 'in');
    const { writeFileSync } = await import('node:fs');
    writeFileSync(path, 'input');
    rig.agent.raw.set('WriteStdin', Buffer.from('0864', 'hex'));
    await rig.pod.launch({ ...container, stdio: { ...container.stdio, stdin: path } });
    await init().proceed();
    await init().signal(9);
    await rig.holder.exit('web');
    expect(rig.agent.asked('WriteStdin').length).toBeLessThanOrEqual(1);
    expect(rig.agent.asked('CloseStdin')).toEqual([]);
  });
});

describe('connecting', () => {
  const never = new AbortController().signal;
  const attempt = (
    server: AgentServer,
    { deadlineMs = 300, hybrid = false, signal = never } = {},
  ): ReturnType<typeof connectAgent> =>
    connectAgent({
      id: 'web',
      socket: {
        path: server.path,
        ...(hybrid ? { greeting: { send: 'CONNECT 1024\n', expect: 'OK ' } } : {}),
      },
      deadlineMs,
      open,
      signal,
    });
  const late = 'create web: virtual machine: its agent did not answer within 0.3 s';

  const hybrid =
    (agent: ScriptedAgent, refusals: number) =>
    (socket: Socket): void => {
      socket.once('data', (line) => {
        expect(line.toString()).toBe('CONNECT 1024\n');
        // Nobody in the guest listens yet: the hypervisor hangs up.
        if (refusals-- > 0) return void socket.destroy();
        socket.write('OK 1073741824\n');
        agent.serve(socket);
      });
    };

  it('greets a hybrid vsock, and tries again until somebody listens', async () => {
    await using server = await new AgentServer(hybrid(new ScriptedAgent(), 3)).listen();
    const rpc = await attempt(server, { hybrid: true, deadlineMs: 5000 });
    expect((await rpc.call('Version', {}, { op: 'create', id: 'web' })).agent).toBe('4.1.0');
    rpc.close();
  });

  it('waits for a socket that is not there yet', async () => {
    const agent = new ScriptedAgent();
    await using server = new AgentServer((socket) => agent.serve(socket));
    const connecting = attempt(server, { deadlineMs: 5000 });
    await server.listen();
    (await connecting).close();
  });

  it.each<[string, (socket: Socket) => void, boolean]>([
    ['says nothing', () => {}, false],
    ['hangs up', (socket) => socket.destroy(), false],
    ['sends noise', (socket) => void socket.write(Buffer.alloc(100_000, 0xff)), false],
    ['sends half a header', (socket) => void socket.write(Buffer.from([0, 0, 0])), false],
    [
      'answers another stream',
      (socket) => void socket.write(Buffer.from('0000000000000063020000', 'hex')),
      false,
    ],
    ['announces 4 GiB', (socket) => void socket.write(Buffer.from('ffffffff000000010200', 'hex')), false],
    ['does not greet', () => {}, true],
    ['greets without an end', (socket) => void socket.write('O'.repeat(1000)), true],
    ['refuses the greeting', (socket) => void socket.write('NO\n'), true],
  ])('to one that %s ends at the deadline, in one sentence', async (what, serve, greeted) => {
    await using server = await new AgentServer(serve).listen();
    const error = await rejection(attempt(server, { hybrid: greeted }));
    if (what === 'announces 4 GiB') expect(error.message).toContain('response of 4294967295 bytes');
    else expect(error.message).toBe(late);
  });

  it('to one that does not serve ends at the deadline', async () => {
    const agent = new ScriptedAgent();
    agent.raw.set('Check', Buffer.from('0802', 'hex'));
    await using server = await new AgentServer((socket) => agent.serve(socket)).listen();
    expect((await rejection(attempt(server))).message).toBe(late);
  });

  it('ends when the machine does', async () => {
    const ended = new AbortController();
    await using server = await new AgentServer(() => ended.abort()).listen();
    const error = await rejection(attempt(server, { deadlineMs: 60_000, signal: ended.signal }));
    expect(error.message).toBe('create web: virtual machine: the machine has ended');
  });
});

it.each([
  ['Invalid container id', 'Invalid container id'],
  [FAULT, WORDS],
  ['', 'refused without a reason'],
  ['Stack backtrace:\n 0: x', 'refused without a reason'],
  ['a\u0000b\u001b[31m', 'a?b?[31m'],
  ['x'.repeat(1000), `${'x'.repeat(300)}…`],
])('of what an agent says (%j) the sentence remains', (said, words) => {
  expect(agentWords(said)).toBe(words);
});
