import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, program } from './lib/cli.ts';

const cli = new Cli();
beforeAll(() => cli.prepare());
afterAll(() => cli.destroy());

describe('spec', () => {
  it('writes a config.json once', async () => {
    const dir = join(cli.dir, 'spec');
    mkdirSync(dir);
    expect((await run(program, ['spec', '--bundle', dir])).code).toBe(0);
    const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
    expect(config).toMatchObject({
      ociVersion: expect.stringMatching(/^1\./),
      process: { terminal: true, args: ['sh'], cwd: '/' },
      root: { path: 'rootfs', readonly: true },
    });
    const again = await run(program, ['spec', '--bundle', dir]);
    expect([again.code, again.stderr]).toEqual([1, expect.stringMatching(/exists/i)]);
  });

  it('writes one for a user who is not root', async () => {
    const dir = join(cli.dir, 'rootless');
    mkdirSync(dir);
    expect((await run(program, ['spec', '--rootless'], { cwd: dir })).code).toBe(0);
    const { linux } = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
    expect(linux.namespaces).toContainEqual({ type: 'user' });
    expect(linux.uidMappings).toEqual([{ containerID: 0, hostID: 0, size: 1 }]);
    expect(linux.resources).toBeUndefined();
  });
});

describe('features', () => {
  it('prints what the runtime can do', async () => {
    const features = JSON.parse((await run(program, ['features'])).stdout);
    expect(features).toMatchObject({ ociVersionMin: '1.0.0', linux: { seccomp: { enabled: true } } });
    expect(features.hooks).toEqual(expect.arrayContaining(['prestart', 'createRuntime', 'poststop']));
    expect(features.mountOptions).toEqual(expect.arrayContaining(['ro', 'rbind', 'nosuid']));
    expect(features.linux.namespaces).toEqual(expect.arrayContaining(['pid', 'network', 'user']));
    expect(features.linux.capabilities).toContain('CAP_SYS_ADMIN');
  });
});

describe('version and help', () => {
  it.each(['--version', '-v'])('%s', async (flag) => {
    const { code, stdout } = await run(program, [flag]);
    expect(code).toBe(0);
    expect(stdout).toMatch(isRunc ? /^runc version \S+\n/ : /^bulkhead version \S+\nspec: 1\.3\.0\n$/);
  });

  it('names every command', async () => {
    for (const words of [['--help'], ['-h'], ['help'], []]) {
      const { code, stdout } = await run(program, words);
      expect(code).toBe(0);
      for (const verb of [
        'create',
        'delete',
        'exec',
        'features',
        'kill',
        'list',
        'pause',
        'ps',
        'resume',
        'run',
        'spec',
        'start',
        'state',
        'update',
        'events',
      ]) {
        expect(stdout).toMatch(new RegExp(`^\\s+${verb}\\b`, 'm'));
      }
    }
  });

  it('names every flag of a command', async () => {
    const { code, stdout } = await run(program, ['exec', '--help']);
    expect(code).toBe(0);
    for (const flag of [
      'console-socket',
      'cwd',
      'env',
      'tty',
      'user',
      'additional-gids',
      'process',
      'detach',
      'pid-file',
      'process-label',
      'apparmor',
      'no-new-privs',
      'cap',
      'preserve-fds',
      'cgroup',
      'ignore-paused',
    ]) {
      expect(stdout).toContain(`--${flag}`);
    }
  });
});

describe('logs', () => {
  const read = (path: string): string => (existsSync(path) ? readFileSync(path, 'utf8') : '');

  it('go to standard error as text', async () => {
    const { stderr } = await cli.run(['state', 'nobody']);
    expect(stderr).toMatch(/level=error msg=".*does not exist"/);
  });

  it('go to standard error as JSON', async () => {
    const { stderr } = await cli.run(['--log-format', 'json', 'state', 'nobody']);
    expect(JSON.parse(stderr)).toMatchObject({
      level: 'error',
      msg: expect.stringContaining('does not exist'),
    });
  });

  it('go to a file as JSON, and the sentence to standard error', async () => {
    const log = join(cli.dir, 'log.json');
    const { stderr } = await cli.run(['--log', log, '--log-format', 'json', 'state', 'nobody']);
    const lines = read(log)
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.at(-1)).toMatchObject({ level: 'error', msg: expect.stringContaining('does not exist') });
    expect(Date.parse(lines.at(-1).time)).toBeGreaterThan(0);
    expect(stderr).toContain('does not exist');
    expect(stderr).not.toContain('level=');
  });
});

describe('list', () => {
  it('is empty where nothing was ever made', async () => {
    const root = join(cli.dir, 'empty');
    expect((await run(program, ['--root', root, 'list', '-q'])).stdout).toBe('');
    const { code, stdout } = await run(program, ['--root', root, 'list']);
    expect([code, stdout.trim().split(/\s+/)]).toEqual([
      0,
      ['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER'],
    ]);
  });
});

describe.skipIf(isRunc)('plan (runc has none)', () => {
  it('prints the steps of a create, and makes nothing', async () => {
    const text = await cli.ok('plan', '--bundle', cli.bundle);
    expect(text).toMatch(/^plan of plan: \d+ steps\n/);
    expect(text).toContain('outer stage');
    expect(text).toContain('pivot');
    const plan = JSON.parse(await cli.ok('plan', '--json', 'web-1'));
    expect(plan).toMatchObject({ version: 1, id: 'web-1' });
    expect(plan.steps.at(-1).exec.args).toEqual(['sh']);
    expect(cli.leftovers()).toEqual([]);
  });
});
