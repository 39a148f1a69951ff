import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { eventually, run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, hasHostsIds } from './lib/cli.ts';

const cli = new Cli();
beforeAll(() => cli.prepare());
afterEach(() => cli.clean());
afterAll(() => cli.destroy());

const create = (args: string[], flags: string[] = []): Promise<string> => cli.created(args, flags);

describe('lifecycle', () => {
  it('goes from created over running to stopped, and away', async () => {
    const pidFile = join(cli.dir, 'pid');
    const id = await create(['sh', '-c', 'exec sleep 100'], ['--pid-file', pidFile]);
    const created = await cli.state(id);
    expect(created).toMatchObject({
      id,
      status: 'created',
      bundle: cli.bundle,
      rootfs: join(cli.bundle, 'rootfs'),
    });
    expect(created.ociVersion).toMatch(/^1\./);
    expect(Date.parse(created.created)).toBeGreaterThan(Date.now() - 60_000);
    expect(readFileSync(pidFile, 'utf8')).toBe(String(created.pid));

    expect(await cli.ok('start', id)).toBe('');
    expect(await cli.state(id)).toMatchObject({ status: 'running', pid: created.pid });
    expect(readFileSync(`/proc/${created.pid}/cmdline`, 'utf8')).toContain('sleep');

    await cli.ok('kill', id, 'KILL');
    await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
    expect((await cli.state(id)).pid).toBe(0);
    await cli.ok('delete', id);
    const gone = await cli.run(['state', id]);
    expect(gone.code).toBe(1);
    expect(gone.stderr).toContain('does not exist');
    expect(cli.leftovers()).toEqual([]);
  });

  it('refuses a second container of the same id and leaves the first alone', async () => {
    const id = await create(['sleep', '100']);
    const again = await cli.run(['create', id], { stdin: '' });
    expect(again.code).toBe(1);
    expect(again.stderr).toMatch(/exists/);
    expect(await cli.status(id)).toBe('created');
    await cli.ok('start', id);
    expect(await cli.status(id)).toBe('running');
    await cli.ok('delete', '-f', id);
  });

  it('starts once, however many try', async () => {
    const id = await create(['sleep', '100']);
    const starts = await Promise.all(Array.from({ length: 6 }, () => cli.run(['start', id])));
    expect(starts.filter(({ code }) => code === 0)).toHaveLength(1);
    expect(starts.filter(({ code }) => code === 1)).toHaveLength(5);
    expect(await cli.status(id)).toBe('running');
    await cli.ok('delete', '-f', id);
  });

  it('starts a command that ends at once', async () => {
    const id = await create(['true']);
    await cli.ok('start', id);
    await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
    await cli.ok('delete', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('refuses to delete what runs, unless forced', async () => {
    const id = await cli.detached(['sleep', '100']);
    const refused = await cli.run(['delete', id]);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('not stopped: running');
    expect(await cli.status(id)).toBe('running');
    await cli.ok('delete', '--force', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('deletes what was never started', async () => {
    const id = await create(['sleep', '100']);
    const { pid } = await cli.state(id);
    await cli.ok('delete', id);
    expect(() => readFileSync(`/proc/${pid}/cmdline`)).toThrow();
    expect(cli.leftovers()).toEqual([]);
  });

  it('finds nothing to do when a missing container is deleted by force, and fails without', async () => {
    expect((await cli.run(['delete', '--force', 'nobody'])).code).toBe(0);
    const { code, stderr } = await cli.run(['delete', 'nobody']);
    expect([code, stderr]).toEqual([1, expect.stringContaining('does not exist')]);
  });

  it('pauses and resumes', async () => {
    const id = await cli.detached(['sh', '-c', 'while :; do echo tick; sleep 0.02; done']);
    await eventually('output', () => cli.output(id).includes('tick'));
    await cli.ok('pause', id);
    expect(await cli.status(id)).toBe('paused');
    const before = cli.output(id).length;
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(cli.output(id).length).toBe(before);
    const exec = await cli.run(['exec', id, 'true']);
    expect([exec.code, exec.stderr]).toEqual([255, expect.stringContaining('paused')]);
    await cli.ok('resume', id);
    expect(await cli.status(id)).toBe('running');
    await eventually('more output', () => cli.output(id).length > before);
    await cli.ok('delete', '-f', id);
  });

  it('removes a paused container by force', async () => {
    const id = await cli.detached(['sleep', '100']);
    await cli.ok('pause', id);
    await cli.ok('delete', '-f', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('survives the command that created it, also when that is killed', async () => {
    const id = cli.id();
    cli.configure((config) => {
      config.process.args = ['sleep', '100'];
    });
    const running = cli.leaving('run', id);
    await eventually('running', async () => (await cli.run(['state', id])).stdout.includes('"running"'));
    const { pid } = await cli.state(id);
    const parent = /PPid:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    process.kill(Number(parent), 'SIGKILL');
    await running;
    expect(await cli.status(id)).toBe('running');
    await cli.ok('delete', '-f', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it.skipIf(isRunc)('creates again what was killed before it had a record (our own files)', async () => {
    const id = cli.id();
    const directory = join(cli.root, 'tasks', 'cli', id);
    mkdirSync(directory, { recursive: true });
    expect((await run('mkfifo', [join(directory, 'start.fifo')])).code).toBe(0);
    expect((await cli.leaving('create', id)).stderr).toBe('');
    await cli.ok('start', id);
    await cli.ok('delete', '-f', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('keeps ten containers apart that are made at once', async () => {
    cli.configure((config) => {
      config.process.args = ['sh', '-c', 'exit $(hostname | cut -d- -f2)'];
    });
    const runs = await Promise.all(
      Array.from({ length: 10 }, async (_, index) => {
        const bundle = cli.bundle;
        const id = cli.id(`many${index}`);
        return await cli.run(['run', '--bundle', bundle, id], {});
      }),
    );
    expect(runs.map(({ code }) => code)).toEqual(runs.map(() => runs[0]?.code));
    expect(cli.leftovers()).toEqual([]);
  });
});

describe('kill', () => {
  it.each([
    ['TERM', 15],
    ['SIGINT', 2],
    ['9', 9],
    ['usr1', 10],
    ['12', 12],
  ])('sends %s', async (name, number) => {
    const script =
      'for s in INT TERM USR1 USR2; do trap "echo got $s; exit 0" $s; done; echo ready; while :; do sleep 0.05; done';
    const id = await cli.detached(['sh', '-c', script]);
    await eventually('ready', () => cli.output(id).includes('ready'));
    await cli.ok('kill', id, name);
    await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
    const names: Record<number, string> = { 2: 'INT', 10: 'USR1', 12: 'USR2', 15: 'TERM' };
    expect(cli.output(id)).toBe(number === 9 ? 'ready\n' : `ready\ngot ${names[number]}\n`);
    await cli.ok('delete', id);
  });

  it('sends SIGTERM unless told', async () => {
    const id = await cli.detached([
      'sh',
      '-c',
      'trap "exit 3" TERM; echo ready; while :; do sleep 0.05; done',
    ]);
    await eventually('ready', () => cli.output(id).includes('ready'));
    await cli.ok('kill', id);
    await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
    await cli.ok('delete', id);
  });

  it('refuses a stopped container and a signal that is none', async () => {
    const id = await cli.detached(['true']);
    await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
    const late = await cli.run(['kill', id, 'TERM']);
    expect([late.code, late.stderr]).toEqual([1, expect.stringContaining('container not running')]);
    const unknown = await cli.run(['kill', id, 'NOSUCH']);
    expect([unknown.code, unknown.stderr]).toEqual([1, expect.stringContaining('unknown signal')]);
    await cli.ok('delete', id);
  });

  it.skipIf(!hasHostsIds)(
    'takes every process along when the container has no pid namespace of its own',
    async () => {
      cli.configure((config) => {
        config.linux.namespaces = config.linux.namespaces.filter((n: { type: string }) => n.type !== 'pid');
      });
      try {
        const id = await cli.detached(['sh', '-c', 'sleep 100 & sleep 100 & echo ready; wait']);
        await eventually('ready', () => cli.output(id).includes('ready'));
        expect(JSON.parse(await cli.ok('ps', '--format', 'json', id))).toHaveLength(3);
        await cli.ok('kill', ...(isRunc ? ['--all'] : []), id, 'KILL');
        await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
        await cli.ok('delete', id);
        expect(cli.leftovers()).toEqual([]);
      } finally {
        cli.configure((config) => config.linux.namespaces.push({ type: 'pid' }));
      }
    },
  );
});

describe('list and ps', () => {
  it('lists as a table, as JSON and by id', async () => {
    const id = await cli.detached(['sleep', '100']);
    const state = await cli.state(id);
    const [heading, ...lines] = (await cli.ok('list')).trimEnd().split('\n');
    expect(heading?.trim().split(/\s{2,}/)).toEqual(['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER']);
    const own = lines.find((line) => line.startsWith(id));
    expect(own?.trim().split(/\s{2,}/)).toEqual([
      id,
      String(state.pid),
      'running',
      cli.bundle,
      state.created,
      'root',
    ]);
    const json = JSON.parse(await cli.ok('list', '--format', 'json'));
    expect(json).toContainEqual(
      expect.objectContaining({ id, pid: state.pid, status: 'running', owner: 'root' }),
    );
    expect((await cli.ok('list', '--quiet')).split('\n')).toContain(id);
    await cli.ok('delete', '-f', id);
  });

  it('lists the processes of the container and no others', async () => {
    const id = await cli.detached(['sh', '-c', 'sleep 100 & echo ready; wait']);
    await eventually('ready', () => cli.output(id).includes('ready'));
    const pids: number[] = JSON.parse(await cli.ok('ps', '--format', 'json', id));
    expect(pids).toHaveLength(2);
    expect(pids).toContain((await cli.state(id)).pid);
    const table = (await cli.ok('ps', id)).trimEnd().split('\n');
    expect(table[0]).toMatch(/^UID\s+PID/);
    expect(
      table
        .slice(1)
        .map((line) => Number(line.split(/\s+/)[1]))
        .sort(),
    ).toEqual(pids.sort());
    const chosen = (await cli.ok('ps', id, '-o', 'pid,args', '-A')).trimEnd().split('\n');
    expect(chosen).toHaveLength(3);
    await cli.ok('delete', '-f', id);
  });
});
