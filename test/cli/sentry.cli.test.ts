import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually, run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, program } from './lib/cli.ts';

/** Pids of processes by that name in the cgroups of a container. */
const inContainer = async (id: string, name: string): Promise<number[]> => {
  const found = await run('sh', ['-c', `grep -lx ${name} /proc/[0-9]*/comm 2>/dev/null`]);
  return [...found.stdout.matchAll(/^\/proc\/(\d+)\//gm)]
    .map(([, pid]) => Number(pid))
    .filter((pid) => readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(id));
};

describe.skipIf(isRunc)('the sentry wall on the command line', () => {
  const cli = new Cli();
  const sentry = ['--wall', 'sentry'];
  beforeAll(() => cli.prepare());
  afterAll(() => cli.destroy());

  const start = async (...args: string[]): Promise<string> => cli.detached(args, sentry);

  it('is chosen by a flag before or after the verb, or by an annotation', async () => {
    cli.configure((config) => (config.process.args = ['cat', '/proc/self/uid_map']));
    const mapped = /^\s+0\s+[1-9]\d{9}\s+65536$/m;
    expect((await cli.run([...sentry, 'run', cli.id()])).stdout).toMatch(mapped);
    expect((await cli.run(['run', ...sentry, cli.id()])).stdout).toMatch(mapped);
    cli.configure((config) => (config.annotations = { 'io.bulkhead.wall': 'sentry' }));
    expect((await cli.run(['run', cli.id()])).stdout).toMatch(mapped);
    expect((await cli.run(['run', '--wall', 'namespace', cli.id()])).stdout).not.toMatch(mapped);
    cli.configure((config) => (config.annotations = { 'io.bulkhead.wall': 'brick' }));
    const unknown = await cli.run(['run', cli.id()]);
    expect([unknown.code, unknown.stderr]).toEqual([
      1,
      expect.stringContaining('annotation io.bulkhead.wall: \\"brick\\" is none of namespace, sentry'),
    ]);
    cli.configure((config) => delete config.annotations);
    expect((await cli.run(['run', '--wall', 'brick', cli.id()])).stderr).toContain(
      'flag --wall: \\"brick\\" is none of',
    );
    expect(cli.leftovers()).toEqual([]);
  });

  it('prints the plan with its filter and its supervisor', async () => {
    const plan = await cli.ok('plan', ...sentry);
    expect(plan).toMatch(/seccomp/i);
    expect(await cli.ok('plan')).not.toBe(plan);
  });

  it('ends the container when its supervisor is killed, also long after create has ended', async () => {
    const id = await start('sleep', '1000');
    const [supervisor = 0] = await inContainer(id, 'bulkhead-sentry');
    expect(await inContainer(id, 'bulkhead-guard')).toHaveLength(1);
    process.kill(supervisor, 'SIGKILL');
    await eventually('the container to stop', async () => (await cli.status(id)) === 'stopped');
    await cli.ok('delete', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('leaves neither supervisor nor guard behind a container that ends by itself', async () => {
    const id = await start('sleep', '0.2');
    await eventually('the container to stop', async () => (await cli.status(id)) === 'stopped');
    await eventually('both to end', async () => {
      const left = await Promise.all(
        ['bulkhead-sentry', 'bulkhead-guard'].map((name) => inContainer(id, name)),
      );
      return left.flat().length === 0;
    });
    await cli.ok('delete', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('counts what the supervisor decides, and the distinct refusals', async () => {
    const id = await start('sh', '-c', 'uname >/dev/null; mount -t tmpfs x /tmp 2>/dev/null; sleep 1000');
    await cli.ok('exec', id, 'uname');
    const [counted] = await eventually('three calls', async () => {
      const all = JSON.parse(await cli.ok('sentry', 'stats', '--format', 'json', id));
      return (
        all[0].refusals.length > 0 &&
        all[0].calls.find((row: Row) => row.call === 'uname')?.answered >= 2 &&
        all
      );
    });
    interface Row {
      call: string;
      answered: number;
      refused: number;
    }
    expect(counted).toMatchObject({ namespace: 'cli', id, moreRefusals: 0 });
    expect(counted.calls.find((row: Row) => row.call === 'mount').refused).toBeGreaterThan(0);
    expect(counted.refusals).toContainEqual({
      call: 'mount() = -1 EPERM',
      count: expect.any(Number),
      last: expect.stringMatching(/^\d{4}-/),
    });
    expect(await cli.ok('sentry', 'stats', id)).toMatch(/^CALL +ANSWERED +FAILED +REFUSED +GONE\n/);
    const metrics = await cli.ok('sentry', 'stats', '--format', 'prometheus');
    expect(metrics).toMatch(
      new RegExp(
        `^bulkhead_sentry_calls_total\\{namespace="cli",id="${id}",call="uname",decision="answered"\\} \\d+$`,
        'm',
      ),
    );
    await cli.ok('delete', '--force', id);
    const late = await cli.run(['sentry', 'stats', id]);
    expect([late.code, late.stderr]).toEqual([
      1,
      expect.stringContaining(`sentry stats ${id}: no container behind the sentry wall has this id`),
    ]);
  });

  it('streams decisions while they are made, and ends with the container', async () => {
    const id = await start(
      'sh',
      '-c',
      'while :; do uname >/dev/null; mount -t tmpfs x /tmp 2>/dev/null; sleep 0.05; done',
    );
    const trace = spawn(program, ['--root', cli.root, 'sentry', 'trace', id]);
    let text = '';
    trace.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    const ended = new Promise((resolve) => trace.once('close', resolve));
    await eventually('both calls', () => text.includes(' uname(') && text.includes(' mount('));
    const line =
      /^\d\d:\d\d:\d\d\.\d{6} [1-9]\d* (?:uname\(0x[0-9a-f]+\) = 0 <answered>|mount\((?:\w+, ){4}\w+\) = -1 EPERM <refused>)$/;
    const lines = text.split('\n').slice(0, -1);
    expect(lines.filter((one) => /(?:uname|mount)/.test(one) && !line.test(one))).toEqual([]);
    await cli.ok('delete', '--force', id);
    expect(await ended).toBe(0);
    expect(cli.leftovers()).toEqual([]);
  });

  it('reports by annotation: nothing, or also what programs have a fall-back for', async () => {
    const refusals = async (report: string): Promise<string[]> => {
      cli.configure((config) => (config.annotations = { 'io.bulkhead.sentry.report': report }));
      const id = await start(
        'sh',
        '-c',
        'mount -t tmpfs x /tmp 2>/dev/null; ls -l / >/dev/null; echo done; sleep 1000',
      );
      await eventually('the work', () => cli.output(id).includes('done'));
      const [{ refusals: found }] = JSON.parse(await cli.ok('sentry', 'stats', '-f', 'json', id));
      await cli.ok('delete', '--force', id);
      return found.map(({ call }: { call: string }) => call);
    };
    expect(await refusals('none')).toEqual([]);
    expect(await refusals('unusual')).toEqual(['mount() = -1 EPERM']);
    expect(await refusals('all')).toContain('mount() = -1 EPERM');
    cli.configure((config) => (config.annotations = { 'io.bulkhead.sentry.report': 'some' }));
    const bad = await cli.run(['--wall', 'sentry', 'run', cli.id()]);
    expect(bad.stderr).toContain(
      'annotation io.bulkhead.sentry.report: \\"some\\" is not none, unusual or all',
    );
    cli.configure((config) => delete config.annotations);
  });

  it.each([
    ['uname', /^uname \(63, identity\)\n {2}brokered: .*view \(uname\)\n/],
    ['63', /^uname \(63/],
    ['bpf', /^bpf \(321, host\)\n {2}refused: EPERM\n.*\n {2}counted unless/],
    ['statx', / {2}refused: ENOSYS\n.*\n {2}counted only with/],
    ['read', / {2}direct: the host's kernel runs it\n/],
    ['socket', / {4}direct if argument 1 is 1 and argument 2 & 0xf is 1, 2, 5\n/],
    ['600', /^600\n {2}refused: ENOSYS\n/],
  ])('explains %s', async (name, text) => {
    expect(await cli.ok('sentry', 'explain', name)).toMatch(text);
  });

  it.each([
    [
      ['sentry', 'explain', 'moun'],
      /sentry explain: \\?"moun\\?": x86-64 has no such system call; did you mean mount/,
    ],
    [['sentry', 'explain'], /explain needs the name or number/],
    [['sentry', 'trace', 'nobody'], /sentry trace nobody: no container behind the sentry wall has this id/],
    [['sentry', 'dance'], /no such action: dance/],
    [['sentry', 'stats', '-f', 'xml'], /unknown format/],
  ])('fails in one sentence: %j', async (words, text) => {
    const result = await cli.run(words);
    expect([result.code, result.stderr]).toEqual([1, expect.stringMatching(text)]);
  });
});
