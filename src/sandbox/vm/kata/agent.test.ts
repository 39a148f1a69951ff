import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { constants, openSync, readFileSync, writeFileSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrorCode, type RuntimeError } from '../../../base/errors.ts';
import type { Spec } from '../../../oci/types.ts';
import type { StdioPaths } from '../../executor.ts';
import type { GuestExec, GuestLaunch } from '../pod_agent.ts';
import { imageVolume, type Volume } from '../storage.ts';
import { KataRig } from './testing/rig.ts';

const spec = (args: string[], more: Partial<Spec> = {}): Spec => ({
  ociVersion: '1.2.0',
  process: { user: { uid: 0, gid: 0 }, args, cwd: '/', env: ['A=b'] },
  root: { path: 'rootfs' },
  linux: { namespaces: [{ type: 'mount' }, { type: 'pid' }] },
  ...more,
});

let rig: KataRig;
beforeEach(async () => {
  rig = await KataRig.start();
});
afterEach(async () => {
  await rig[Symbol.asyncDispose]();
});

/** Fifos in the rig's directory, and what comes out of the outputs. */
function fifos(
  name: string,
  { stdin = false, terminal = false } = {},
): {
  stdio: StdioPaths;
  output: (stream: 'stdout' | 'stderr') => Promise<string>;
  input: string;
} {
  const path = (stream: string): string => join(rig.server.dir, `${name}.${stream}`);
  const made = ['stdout', ...(terminal ? [] : ['stderr']), ...(stdin ? ['stdin'] : [])];
  execFileSync('mkfifo', made.map(path));
  const read = new Map(
    made
      .filter((stream) => stream !== 'stdin')
      .map((stream) => {
        const reading = readAll(path(stream));
        return [stream, reading];
      }),
  );
  return {
    stdio: {
      stdin: stdin ? path('stdin') : '',
      stdout: path('stdout'),
      stderr: terminal ? '' : path('stderr'),
      terminal,
    },
    output: (stream) => read.get(stream) ?? Promise.resolve(''),
    input: path('stdin'),
  };
}

const noStdio: StdioPaths = { stdin: '', stdout: '', stderr: '', terminal: false };

const launch = (
  id: string,
  args: string[],
  more: Partial<GuestLaunch> = {},
): ReturnType<KataRig['pod']['launch']> =>
  rig.pod.launch({
    id,
    spec: spec(args),
    root: `/run/kata-containers/shared/containers/c1/rootfs`,
    seccomp: () => undefined,
    options: {},
    stdio: noStdio,
    ...more,
  });

const exec = (
  id: string,
  execId: string,
  args: string[],
  more: Partial<GuestExec> = {},
): ReturnType<KataRig['pod']['exec']> =>
  rig.pod.exec({
    id,
    execId,
    process: { user: { uid: 0, gid: 0 }, args, cwd: '/' },
    spec: spec(args),
    pid: 0,
    seccomp: () => undefined,
    options: undefined,
    stdio: noStdio,
    gated: false,
    ...more,
  });

/** Opening waits for nobody: a thread of libuv's that waits for the other end is missing elsewhere. */
function readAll(path: string): Promise<string> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const chunks: Buffer[] = [];
  return new Promise((resolve) => {
    new Socket({ fd, readable: true, writable: false })
      .on('data', (chunk) => chunks.push(chunk))
      .on('close', () => resolve(Buffer.concat(chunks).toString()));
  });
}

/** As a client that then goes. */
async function send(path: string, text: string): Promise<void> {
  const fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  const client = new Socket({ fd, readable: false, writable: true });
  client.end(text);
  await once(client, 'close');
}

const rejection = async (promise: Promise<unknown>): Promise<RuntimeError> =>
  (await promise.then(
    () => expect.unreachable('it resolved'),
    (error: unknown) => error,
  )) as RuntimeError;

const exited = (code: number): number => code << 8;

describe('a sandbox', () => {
  it('is made with the shared directory, the time and new random numbers', async () => {
    await rig.pod.setUp('web', { hostname: 'web', share: true, grown: true });
    expect(rig.agent.asked('CreateSandbox')).toMatchObject([
      {
        hostname: 'web',
        sandboxId: 'pod-pod',
        storages: [
          {
            driver: 'virtio-fs',
            source: 'kataShared',
            fstype: 'virtiofs',
            mountPoint: '/run/kata-containers/shared/containers',
          },
        ],
      },
    ]);
    const [time] = rig.agent.asked('SetGuestDateTime');
    expect(Math.abs(Number(time?.['seconds']) - Date.now() / 1000)).toBeLessThan(60);
    expect((rig.agent.asked('ReseedRandomDev')[0]?.['data'] as Uint8Array).length).toBe(256);
    expect(rig.agent.asked('OnlineCPUMem')).toMatchObject([{ wait: true }]);
  });

  it('has no storage when there is no shared directory', async () => {
    await rig.pod.setUp('web', { hostname: 'web', share: false, grown: false });
    expect(rig.agent.asked('CreateSandbox')).toMatchObject([{ storages: [] }]);
    expect(rig.agent.asked('OnlineCPUMem')).toEqual([]);
  });

  it('knows how it is reached by the next engine', () => {
    expect(JSON.parse(Buffer.from(rig.record.agentSocket ?? []).toString())).toEqual(rig.socket);
  });
});

describe('a container', () => {
  it('waits at its start, prints, and exits', async () => {
    const { stdio, output } = fifos('web');
    expect(await launch('web', ['echo', 'hello'], { stdio })).toEqual({ pid: 77, pausedAt: 'start' });
    expect(rig.agent.asked('StartContainer')).toEqual([]);
    expect(await rig.holder.process('web').proceed()).toEqual({ pid: 77, pausedAt: '' });
    expect(await output('stdout')).toBe('hello\n');
    expect(await output('stderr')).toBe('');
    expect(await rig.holder.exit('web')).toMatchObject({ key: 'web', pid: 77, waitStatus: exited(0) });
    await rig.holder.process('web').forget();
  });

  it('keeps its streams apart, and its exit code', async () => {
    const { stdio, output } = fifos('web');
    await launch('web', ['complain', 'no'], { stdio });
    await rig.holder.process('web').proceed();
    expect([await output('stdout'), await output('stderr')]).toEqual(['', 'no\n']);
    expect((await rig.holder.exit('web')).waitStatus).toBe(exited(2));
  });

  it('brings all of a long output, in order, also to a reader who comes late', async () => {
    const path = join(rig.server.dir, 'late');
    execFileSync('mkfifo', [path]);
    await launch('web', ['yes', '50000'], { stdio: { ...noStdio, stdout: path } });
    await rig.holder.process('web').proceed();
    await rig.holder.exit('web');
    const file = await openFile(path, constants.O_RDONLY | constants.O_NONBLOCK);
    let length = 0;
    for (let end = false; !end;) {
      const { bytesRead } = await file.read(Buffer.alloc(65536), 0, 65536);
      end = bytesRead === 0;
      length += bytesRead;
    }
    await file.close();
    expect(length).toBe(50_000);
    await rig.holder.process('web').forget();
  });

  it('brings more than a fifo holds to a reader who reads', async () => {
    const { stdio, output } = fifos('web');
    await launch('web', ['yes', '1000000'], { stdio });
    await rig.holder.process('web').proceed();
    expect((await output('stdout')).length).toBe(1_000_000);
  });

  it('appends to a file', async () => {
    const path = join(rig.server.dir, 'log');
    writeFileSync(path, 'before\n');
    await launch('web', ['echo', 'after'], {
      stdio: { stdin: '', stdout: path, stderr: path, terminal: false, append: true },
    });
    await rig.holder.process('web').proceed();
    await rig.holder.exit('web');
    expect(readFileSync(path, 'utf8')).toBe('before\nafter\n');
  });

  it('reads its input until the client closes it', async () => {
    const { stdio, output, input } = fifos('cat', { stdin: true });
    await launch('cat', ['cat'], { stdio });
    await rig.holder.process('cat').proceed();
    await send(input, 'one\ntwo\n');
    await rig.holder.process('cat').closeStdin();
    expect(await output('stdout')).toBe('one\ntwo\n');
    expect((await rig.holder.exit('cat')).waitStatus).toBe(exited(0));
  });

  it('reads its input from a file', async () => {
    const path = join(rig.server.dir, 'in');
    writeFileSync(path, 'from a file');
    const { stdio, output } = fifos('cat');
    await launch('cat', ['cat'], { stdio: { ...stdio, stdin: path } });
    await rig.holder.process('cat').proceed();
    expect(await output('stdout')).toBe('from a file');
  });

  it('sees the end of an input that it was not given', async () => {
    await launch('cat', ['cat']);
    await rig.holder.process('cat').proceed();
    expect((await rig.holder.exit('cat')).waitStatus).toBe(exited(0));
  });

  it('has a terminal of the size that is set, and is asked for one stream', async () => {
    const { stdio, output } = fifos('tty', { terminal: true });
    await launch('tty', ['size'], {
      stdio,
      spec: spec(['size'], {
        process: { user: { uid: 0, gid: 0 }, args: ['size'], cwd: '/', terminal: true },
      }),
    });
    await rig.holder.process('tty').proceed();
    await rig.holder.process('tty').resize(132, 43);
    expect(await output('stdout')).toBe('132x43\n');
    await rig.holder.exit('tty');
    expect(rig.agent.asked('TtyWinResize')).toMatchObject([{ row: 43, column: 132 }]);
    expect(rig.agent.asked('ReadStderr')).toEqual([]);
    // Closing a terminal's input would close the terminal.
    expect(rig.agent.asked('CloseStdin')).toEqual([]);
  });

  it('is killed, also before its start', async () => {
    await launch('web', ['sleep']);
    await rig.holder.process('web').signal(9);
    expect((await rig.holder.exit('web')).waitStatus).toBe(exited(137));
    expect(rig.agent.asked('SignalProcess')).toMatchObject([
      { containerId: 'web', execId: 'web', signal: 9 },
    ]);
    expect(await rejection(rig.holder.process('web').signal(9))).toMatchObject({ code: 'ESRCH' });
  });

  it('cannot be forgotten while it runs', async () => {
    await launch('web', ['sleep']);
    expect(await rejection(rig.holder.process('web').forget())).toMatchObject({ code: 'EBUSY' });
    await rig.pod.container('web').kill();
    expect(rig.agent.asked('SignalProcess')).toMatchObject([{ containerId: 'web', execId: '', signal: 9 }]);
    await rig.holder.exit('web');
    await rig.holder.process('web').forget();
  });

  it('is paused, resumed, limited and removed', async () => {
    await launch('web', ['sleep']);
    const container = rig.pod.container('web');
    await container.freeze();
    await container.thaw();
    await container.update({ memory: { limit: 64 << 20 }, cpu: { shares: 512, cpus: '0-3' } });
    expect(rig.agent.asked('UpdateContainer')).toMatchObject([
      { resources: { memory: { limit: 64 << 20 }, cpu: { shares: 512, cpus: '' } } },
    ]);
    expect(await container.pids()).toEqual([77]);
    await container.kill();
    expect((await rig.holder.exit('web')).waitStatus).toBe(exited(137));
    await container.remove([]);
    expect(rig.agent.containers.size).toBe(0);
    expect(await rejection(container.thaw())).toMatchObject({
      message: 'resume web: guest ResumeContainer: Invalid container id',
    });
  });

  it.each([
    ['v2', 'io.containerd.cgroups.v2.Metrics'],
    ['v1', 'io.containerd.cgroups.v1.Metrics'],
  ] as const)('tells of what it uses in terms of %s', async (mode, typeUrl) => {
    await launch('web', ['sleep']);
    const stats = await rig.pod.container('web').stats(mode);
    expect(stats.typeUrl).toBe(typeUrl);
    expect(stats.value?.length).toBeGreaterThan(20);
  });

  it('tells when its memory limit has killed', async () => {
    const heard: string[] = [];
    const told = new Promise<void>((resolve) => {
      rig.pod.container('web').watchOom(() => resolve(void heard.push('web')));
    });
    const stop = rig.pod.container('other').watchOom(() => heard.push('other'));
    stop();
    rig.agent.killByMemory('other');
    rig.agent.killByMemory('web');
    await told;
    expect(heard).toEqual(['web']);
  });
});

describe('an exec', () => {
  it('runs, with its output', async () => {
    await launch('web', ['sleep']);
    const { stdio, output } = fifos('e');
    expect(await exec('web', 'e', ['echo', 'hi'], { stdio })).toEqual({ pid: 77, pausedAt: '' });
    expect(await output('stdout')).toBe('hi\n');
    expect(await rig.holder.exit('web/e')).toMatchObject({ waitStatus: exited(0) });
    expect(rig.holder.exits).toHaveLength(1);
  });

  it('is asked for when its gate opens, and not before', async () => {
    await launch('web', ['sleep']);
    expect(await exec('web', 'e', ['exit', '7'], { gated: true })).toEqual({ pid: 77, pausedAt: 'start' });
    expect(rig.agent.asked('ExecProcess')).toEqual([]);
    expect(await rejection(rig.holder.process('web/e').signal(9))).toMatchObject({ code: 'ESRCH' });
    await rig.holder.process('web/e').proceed();
    expect((await rig.holder.exit('web/e')).waitStatus).toBe(exited(7));
  });

  it('that was never started is forgotten without the agent', async () => {
    await launch('web', ['sleep']);
    await exec('web', 'e', ['true'], { gated: true });
    await rig.holder.process('web/e').forget();
    expect(rig.agent.asked('ExecProcess')).toEqual([]);
  });
});

describe('disks', () => {
  const volume = (identity: string, options: string[] = []): Volume => {
    const image = { kind: 'file' as const, size: 4 << 20, identity, inUse: false };
    const found = imageVolume('c', 'mount /d', { type: 'ext4', source: '/img', options }, () => image);
    if (found === undefined) throw new Error('no volume');
    return found;
  };

  it('are named by their place on the PCI bus, and mounted with the container', async () => {
    const disk = volume('a', ['ro']);
    const noted: string[] = [];
    expect(await rig.pod.volumes.attach('web', disk, (device) => noted.push(device))).toBe(disk.device);
    expect(noted).toEqual([disk.device]);
    await rig.pod.mountShm('web', 64 << 20);
    await launch('web', ['sleep']);
    expect(rig.agent.asked('CreateContainer')).toMatchObject([
      {
        storages: [
          {
            driver: 'blk',
            source: '04.1/00.0',
            fstype: 'ext4',
            options: ['ro'],
            mountPoint: disk.target,
            shared: true,
          },
          { driver: 'ephemeral', source: 'shm', mountPoint: '/run/kata-containers/sandbox/shm' },
        ],
      },
    ]);
  });

  it('that could not be plugged are plugged for the next', async () => {
    rig.refusal = new Error('all ports are taken');
    await expect(rig.pod.volumes.attach('web', volume('a'), () => {})).rejects.toThrow('all ports are taken');
    rig.refusal = undefined;
    await rig.pod.volumes.attach('web', volume('a'), () => {});
    expect(rig.plugged).toHaveLength(1);
    expect(rig.pod.volumes.take('web')).toHaveLength(1);
  });

  it('are plugged once for all containers of the pod, also by the next engine', async () => {
    await rig.pod.volumes.attach('web', volume('a'), () => {});
    await rig.restart().volumes.attach('db', volume('a'), () => {});
    expect(rig.plugged).toHaveLength(1);
    expect((await rejection(rig.pod.volumes.attach('x', volume('a', ['dax']), () => {}))).code).toBe(
      ErrorCode.Unimplemented,
    );
  });

  it('that the pod has read-only already cannot be had writable', async () => {
    await rig.pod.volumes.attach('web', volume('a', ['ro']), () => {});
    expect((await rejection(rig.pod.volumes.attach('db', volume('a'), () => {}))).message).toBe(
      'create db: volume /img: the pod has it already, but read-only; give all its mounts in the pod the same options',
    );
  });

  it('are unmounted before the machine ends', async () => {
    const disk = volume('a');
    await rig.pod.volumes.attach('web', disk, () => {});
    await launch('web', ['sleep']);
    await rig.pod.volumes.flush('web', [disk.device]);
    expect(rig.agent.calls.slice(-3).map(({ method }) => method)).toContain('DestroySandbox');
    expect(rig.agent.asked('RemoveContainer')).toHaveLength(1);
  });
});

describe('another engine', () => {
  it('takes processes up again', async () => {
    await launch('cat', ['cat']);
    const { stdio, output } = fifos('cat', { stdin: true });
    rig.restart().resume();
    expect(await rig.pod.recall([{ containerId: 'cat', execId: '', stdio }])).toEqual([
      { key: 'cat', pid: 77, running: false },
    ]);
    await rig.holder.process('cat').proceed();
    await send(stdio.stdin, 'again\n');
    await rig.holder.process('cat').closeStdin();
    expect(await output('stdout')).toBe('again\n');
  });

  it('goes on with the input of one that runs', async () => {
    await launch('cat', ['cat'], { stdio: fifos('first', { stdin: true }).stdio });
    await rig.holder.process('cat').proceed();
    const { stdio, output } = fifos('second', { stdin: true });
    rig.restart().resume();
    expect(await rig.pod.recall([{ containerId: 'cat', execId: '', stdio }])).toEqual([
      { key: 'cat', pid: 77, running: true },
    ]);
    await send(stdio.stdin, 'more');
    await rig.holder.process('cat').closeStdin();
    expect(await output('stdout')).toBe('more');
  });

  it('takes up execs that were started, and none that was not', async () => {
    await launch('web', ['sleep']);
    await exec('web', 'runs', ['sleep']);
    await exec('web', 'waits', ['sleep'], { gated: true });
    rig.restart().resume();
    const processes = ['', 'runs', 'waits'].map((execId) => ({ containerId: 'web', execId, stdio: noStdio }));
    expect((await rig.pod.recall(processes)).map(({ key, running }) => [key, running])).toEqual([
      ['web', false],
      ['web/runs', true],
    ]);
    await rig.holder.process('web/runs').signal(9);
    await expect
      .poll(() => rig.holder.exits.filter(({ waitStatus }) => waitStatus === exited(137)))
      .toHaveLength(1);
    await rig.holder.process('web/runs').forget();
    expect(rig.record.started).toEqual([]);
  });

  it('finds none when the machine is gone', async () => {
    const lost = new Promise<string>((resolve) => rig.restart().onLost(resolve));
    rig.record.agentSocket = Buffer.from('{"path":"/nonexistent"}');
    rig.pod.resume();
    expect(await rig.pod.recall([{ containerId: 'web', execId: '', stdio: noStdio }])).toEqual([]);
    expect(await lost).toContain('the machine has ended');
  });
});
