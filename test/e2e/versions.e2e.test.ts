import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd, type StartOptions } from './lib/containerd.ts';
import { run } from './lib/exec.ts';
import { isBulkhead, prefix } from './lib/paths.ts';

/** The same container through every containerd and both protocols. */
const daemons: readonly (readonly [string, StartOptions])[] = [
  ['containerd 1.6 over ttrpc', { version: '1.6' }],
  ['containerd 1.7 over ttrpc', { version: '1.7' }],
  // Only 1.7 can speak gRPC to a shim (2.x drops an idle connection), and runc's shim cannot at all.
  ...(isBulkhead
    ? [
        [
          'containerd 1.7 over gRPC',
          { version: '1.7', bulkheadConfig: '[engine]\nprotocol = "grpc"\n' },
        ] as const,
      ]
    : []),
  ['containerd 2 over ttrpc', { version: '2' }],
];

describe.each(daemons)('%s', (name, options) => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start(options);
  });
  afterAll(() => containerd?.stop());

  it('runs attached, with stdin, and passes the exit code on', async () => {
    const result = await containerd.run('one', ['sh', '-c', 'cat; echo err >&2; exit 12'], { stdin: 'in\n' });
    expect(result).toMatchObject({ code: 12, stdout: 'in\n', stderr: 'err\n' });
  });

  it('gives a terminal', async () => {
    const result = await containerd.run('tty', ['sh', '-c', 'test -t 0 && tty; exit 2'], { tty: true });
    expect(result.code).toBe(2);
    expect(result.stdout).toContain('/dev/pts/0');
  });

  it('starts, enters, pauses, measures, kills and deletes', async () => {
    const events = await containerd.events();
    await containerd.detached('two', ['sleep', '1000']);
    expect(await containerd.exec('two', 'x', ['sh', '-c', 'echo inside; exit 8'])).toMatchObject({
      code: 8,
      stdout: 'inside\n',
    });
    expect((await containerd.ctr(['task', 'pause', 'two'])).code).toBe(0);
    expect(await containerd.status('two')).toBe('PAUSED');
    expect((await containerd.ctr(['task', 'resume', 'two'])).code).toBe(0);
    expect((await containerd.ctr(['task', 'metrics', 'two'])).stdout).toMatch(/memory\.usage/);
    expect((await containerd.ctr(['task', 'ps', 'two'])).stdout.trim().split('\n')).toHaveLength(2);
    await containerd.remove('two');
    await events.wait('/tasks/delete', 'two');
    const own = events
      .topics('two')
      .filter((topic) => ['/tasks/create', '/tasks/start', '/tasks/delete'].includes(topic));
    expect(own).toEqual(['/tasks/create', '/tasks/start', '/tasks/delete']);
  });

  it('runs eight at once', async () => {
    const all = await Promise.all(
      Array.from({ length: 8 }, (_, n) => containerd.run(`many-${n}`, ['sh', '-c', `echo ${n}; exit ${n}`])),
    );
    expect(all.map(({ code, stdout }) => [code, stdout])).toEqual(all.map((_, n) => [n, `${n}\n`]));
  });

  it('survives a restart of the daemon', async () => {
    await containerd.detached('survivor', ['sleep', '1000']);
    await containerd.kill('SIGKILL');
    await containerd.launch();
    expect(await containerd.status('survivor')).toBe('RUNNING');
    expect((await containerd.exec('survivor', 'y', ['echo', 'here'])).stdout).toBe('here\n');
    await containerd.remove('survivor');
  });

  if (isBulkhead) {
    it('used the protocol it says', async () => {
      await containerd.detached('protocol', ['sleep', '1000']);
      // A second `start` of the same task only repeats what containerd was told by the first.
      const state = join(containerd.dir, 'state/io.containerd.runtime.v2.task');
      const said = await run(
        join(prefix, 'bin/containerd-shim-bulkhead-v2'),
        ['-namespace', containerd.namespace, '-address', containerd.address, '-id', 'protocol', 'start'],
        { cwd: join(state, containerd.namespace, 'protocol'), env: containerd.env },
      );
      const address = 'unix:///run/containerd/s/';
      expect(said.stdout).toContain(name.includes('gRPC') ? '"protocol":"grpc"' : address);
      await containerd.remove('protocol');
    });
  }

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
