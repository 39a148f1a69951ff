import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually, run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, program, type Config, hasHostsIds } from './lib/cli.ts';

const cli = new Cli();
let id = '';
beforeAll(async () => {
  await cli.prepare();
  cli.configure((config) => {
    config.linux.resources.memory = { limit: 64 << 20 };
    config.linux.resources.pids = { limit: 30 };
  });
  id = await cli.detached(['sleep', '1000']);
});
afterAll(() => cli.destroy());

/** The container's directory of a v1 controller, by /proc/PID/cgroup as the host has it. */
const directory = async (controller: string): Promise<string> => {
  const { pid } = await cli.state(id);
  const line = readFileSync(`/proc/${pid}/cgroup`, 'utf8')
    .split('\n')
    .find((text) => text.split(':')[1]?.split(',').includes(controller));
  return `/sys/fs/cgroup/${controller}${line?.split(':')[2]}`;
};

const value = async (controller: string, file: string): Promise<string> =>
  readFileSync(join(await directory(controller), file), 'utf8').trim();

// The files are v1's.
const isV1 = existsSync('/sys/fs/cgroup/memory/memory.limit_in_bytes');

describe.runIf(isV1)('update (cgroup v1 or hybrid)', () => {
  it.each([
    ['--memory', '32M', 'memory', 'memory.limit_in_bytes', String(32 << 20)],
    ['--memory', String(48 << 20), 'memory', 'memory.limit_in_bytes', String(48 << 20)],
    ['--memory-reservation', '16m', 'memory', 'memory.soft_limit_in_bytes', String(16 << 20)],
    ['--pids-limit', '20', 'pids', 'pids.max', '20'],
    ['--cpu-share', '333', 'cpu', 'cpu.shares', '333'],
    ['--cpu-quota', '40000', 'cpu', 'cpu.cfs_quota_us', '40000'],
    ['--cpuset-cpus', '0', 'cpuset', 'cpuset.cpus', '0'],
  ])('%s %s', async (flag, argument, controller, file, expected) => {
    await cli.ok('update', flag, argument, id);
    expect(await value(controller, file)).toBe(expected);
  });

  it('takes resources from a file and from standard input', async () => {
    const path = join(cli.dir, 'resources.json');
    writeFileSync(path, JSON.stringify({ memory: { limit: 40 << 20 }, pids: { limit: 25 } }));
    await cli.ok('update', '--resources', path, id);
    expect([await value('memory', 'memory.limit_in_bytes'), await value('pids', 'pids.max')]).toEqual([
      String(40 << 20),
      '25',
    ]);
    const piped = await cli.run(['update', '-r', '-', id], {
      stdin: JSON.stringify({ cpu: { shares: 555 } }),
    });
    expect(piped).toMatchObject({ code: 0, stderr: '' });
    expect(await value('cpu', 'cpu.shares')).toBe('555');
  });

  it.each([
    ['a size that is none', ['--memory', 'much'], /much/],
    ['a file that is not there', ['--resources', '/no/such'], /no such file/],
    ['a processor that is not there', ['--cpuset-cpus', '9999'], /cpuset\.cpus/],
  ])('fails for %s', async (_what, words, says) => {
    const result = await cli.run(['update', ...words, id]);
    expect([result.code, result.stderr]).toEqual([1, expect.stringMatching(says)]);
  });
});

describe('events', () => {
  it('prints statistics once', async () => {
    const event = JSON.parse(await cli.ok('events', '--stats', id));
    expect(event).toMatchObject({ type: 'stats', id });
    const { cpu, memory, pids, blkio } = event.data;
    expect(cpu.usage.total).toBeGreaterThan(0);
    // The sentry's supervisor, its watchdog and its guard are in the container's cgroup.
    expect(pids).toEqual({ current: hasHostsIds ? 1 : 4, limit: expect.any(Number) });
    expect(memory.usage.usage).toBeGreaterThan(0);
    expect(memory.usage.limit).toBeLessThanOrEqual(64 << 20);
    expect(blkio).toBeTypeOf('object');
  });

  it('prints them again and again until the container ends', async () => {
    const short = await cli.detached(['sleep', '100']);
    const out = join(cli.dir, 'events.out');
    const line = `exec ${program} --root ${cli.root} events --interval 100ms ${short} >${out}`;
    const following = run('sh', ['-c', line], { timeout: 20_000 });
    const lines = (): string[] => (existsSync(out) ? readFileSync(out, 'utf8').trim().split('\n') : []);
    await eventually('three events', () => lines().length >= 3);
    await cli.ok('delete', '-f', short);
    expect(await following).toMatchObject({ code: 0, stderr: '' });
    const all: Config[] = lines().map((text) => JSON.parse(text));
    expect(all.every((event) => event.type === 'stats' && event.id === short)).toBe(true);
  });

  it('tells of kills by the memory limit', async () => {
    cli.configure((config) => (config.linux.resources.memory = { limit: 16 << 20, swap: 16 << 20 }));
    // The init stays: its children are those that grow, one after the other, for a kill before the first look is not told.
    const greedy = await cli.detached(['sh', '-c', 'while :; do sleep 1; (tail /dev/zero); done']);
    const out = join(cli.dir, 'oom.out');
    const line = `exec ${program} --root ${cli.root} events --interval 30s ${greedy} >${out}`;
    const following = run('sh', ['-c', line], { timeout: 20_000 });
    const event = await eventually(
      'the kill',
      () => (existsSync(out) && readFileSync(out, 'utf8').split('\n')[0]) || false,
    );
    expect(JSON.parse(event)).toEqual({ type: 'oom', id: greedy });
    await cli.ok('delete', '-f', greedy);
    await following;
  });

  it.each([
    ['a container that is not there', ['events', '--stats', 'nobody'], /does not exist/],
    ['a time that is none', ['events', '--interval', 'soon', '$ID'], /soon|duration/],
  ])('fails for %s', async (_what, words, says) => {
    const result = await cli.run(words.map((word) => (word === '$ID' ? id : word)));
    expect(result.code).toBe(1);
    expect(result.stdout + result.stderr).toMatch(says);
  });
});

describe.runIf(isV1)('exec --cgroup (cgroup v1 or hybrid)', () => {
  it('runs in a cgroup below the container’s', async () => {
    const base = await directory('pids');
    mkdirSync(join(base, 'below'));
    try {
      const all = await cli.ok('exec', '--cgroup', 'pids:below', id, 'cat', '/proc/self/cgroup');
      expect(/^\d+:pids:(.*)$/m.exec(all)?.[1]).toMatch(/\/below$/);
      expect(/^\d+:memory:(.*)$/m.exec(all)?.[1]).not.toMatch(/\/below$/);
    } finally {
      await eventually('an empty cgroup', () => {
        rmdirSync(join(base, 'below'));
        return true;
      });
    }
  });

  it.each([
    ['that is not there', 'pids:nosuch', isRunc ? /nosuch/ : /nosuch: no such directory/],
    ['of the host', 'pids:../..', /sub cgroup path/],
    ['of a controller that is none', 'gravity:below', /gravity/],
  ])('fails for one %s', async (_what, spec, says) => {
    const result = await cli.run(['exec', '--cgroup', spec, id, 'true']);
    expect([result.code, result.stderr]).toEqual([255, expect.stringMatching(says)]);
  });
});
