import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually, onTerminal, run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, program } from './lib/cli.ts';

const cli = new Cli();
let id = '';
beforeAll(async () => {
  await cli.prepare();
  id = await cli.detached(['sleep', '1000']);
});
afterAll(() => cli.destroy());

describe('exec', () => {
  it.each([0, 1, 42, 255])('passes exit code %i on', async (code) => {
    expect((await cli.run(['exec', id, 'sh', '-c', `exit ${code}`])).code).toBe(code);
  });

  it('answers 128 + signal for a process that a signal ended', async () => {
    expect((await cli.run(['exec', id, 'sh', '-c', 'kill -9 $$'])).code).toBe(137);
  });

  it('connects standard input, output and error', async () => {
    const result = await cli.run(['exec', id, 'sh', '-c', 'cat; echo oops >&2'], { stdin: 'to and fro' });
    expect(result).toMatchObject({ code: 0, stdout: 'to and fro', stderr: 'oops\n' });
  });

  it('sets environment, directory, user and groups', async () => {
    const script = 'echo $A-$B; pwd; id -u; id -g; id -G';
    const flags = [
      '-e',
      'A=1',
      '-e',
      'B=2 3',
      '--cwd',
      '/tmp',
      '--user',
      '1000:1001',
      '--additional-gids',
      '2000',
      '--additional-gids',
      '2001',
    ];
    const { stdout } = await cli.run(['exec', ...flags, id, 'sh', '-c', script]);
    expect(stdout).toBe('1-2 3\n/tmp\n1000\n1001\n1001 2000 2001\n');
  });

  it('does not take the flags of the command for its own', async () => {
    expect((await cli.run(['exec', id, 'echo', '--env', '-t', '--', '-d'])).stdout).toBe('--env -t -- -d\n');
  });

  it('joins namespaces and root of the container', async () => {
    const { pid } = await cli.state(id);
    for (const name of ['pid', 'mnt', 'net', 'ipc', 'uts']) {
      const inside = (await cli.ok('exec', id, 'readlink', `/proc/1/ns/${name}`)).trim();
      const own = (await cli.ok('exec', id, 'readlink', `/proc/self/ns/${name}`)).trim();
      expect(own, name).toBe(inside);
      expect((await run('readlink', [`/proc/${pid}/ns/${name}`])).stdout.trim(), name).toBe(own);
    }
    expect(await cli.ok('exec', id, 'cat', '/etc/hostname')).toBe('image\n');
  });

  it('adds capabilities', async () => {
    const effective = async (flags: string[]): Promise<bigint> => {
      const status = await cli.ok('exec', ...flags, id, 'cat', '/proc/self/status');
      return BigInt(`0x${/CapEff:\s*(\w+)/.exec(status)?.[1]}`);
    };
    const sysPtrace = 1n << 19n;
    const plain = await effective([]);
    expect(plain & sysPtrace).toBe(0n);
    expect(await effective(['--cap', 'CAP_SYS_PTRACE'])).toBe(plain | sysPtrace);
  });

  it('takes a process from a file', async () => {
    const path = join(cli.dir, 'process.json');
    const process = {
      args: ['sh', '-c', 'echo $X; pwd; id -u'],
      cwd: '/etc',
      env: ['PATH=/bin', 'X=y'],
      user: { uid: 7, gid: 7 },
    };
    writeFileSync(path, JSON.stringify(process));
    expect((await cli.run(['exec', '--process', path, id])).stdout).toBe('y\n/etc\n7\n');
  });

  it('leaves a detached process alone and writes its pid', async () => {
    const pidFile = join(cli.dir, 'exec.pid');
    const result = await cli.leaving('exec', id, ['--detach', '--pid-file', pidFile], ['sleep', '123']);
    expect(result.code).toBe(0);
    const pid = Number(readFileSync(pidFile, 'utf8'));
    await eventually('sleep', () => readFileSync(`/proc/${pid}/cmdline`, 'utf8') === 'sleep\x00123\x00');
    expect(JSON.parse(await cli.ok('ps', '-f', 'json', id))).toContain(pid);
    process.kill(pid, 'SIGKILL');
  });

  it('forwards signals', async () => {
    const script = 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.05; done';
    const pidFile = join(cli.dir, 'forward.pid');
    const line = `exec ${program} --root ${cli.root} exec --pid-file ${pidFile} ${id} sh -c '${script}' & echo $!; wait $!`;
    const outFile = join(cli.dir, 'forward.out');
    const running = run('sh', ['-c', `{ ${line}; } >${outFile}`]);
    const text = await eventually('ready', () => {
      const now = existsSync(outFile) ? readFileSync(outFile, 'utf8') : '';
      return now.includes('ready') && now;
    });
    process.kill(Number(text.split('\n')[0]), 'SIGTERM');
    expect((await running).code).toBe(9);
    expect(readFileSync(outFile, 'utf8')).toContain('caught');
  });

  it('gives a terminal of the size of ours', async () => {
    const [command, args] = onTerminal(
      program,
      ['--root', cli.root, 'exec', '-t', id, 'sh', '-c', 'tty; sleep 0.3; stty size; exit 6'],
      33,
      99,
    );
    const result = await run(command, args, { keepStdinOpen: true });
    expect([result.code, result.stdout.replaceAll('\r', '')]).toEqual([
      6,
      expect.stringMatching(/^\/dev\/pts\/\d+\n33 99\n$/),
    ]);
  });

  it('lets a person type at the terminal', async () => {
    const [command, args] = onTerminal(program, [
      '--root',
      cli.root,
      'exec',
      '-t',
      id,
      'sh',
      '-c',
      'read x; echo "got <$x>"',
    ]);
    const result = await run(command, args, { stdin: 'typed\r', keepStdinOpen: true });
    expect(result.stdout).toContain('got <typed>');
    expect(result.code).toBe(0);
  });

  it.each([
    ['a command that is not there', ['nosuch'], 127, 'executable file not found in $PATH'],
    ['a path that is not there', ['/no/such'], 127, 'no such file or directory'],
    ['a directory', ['/etc'], 126, 'permission denied'],
    ['a file that is not executable', ['/etc/passwd'], 126, 'permission denied'],
  ])('fails for %s', async (_what, command, code, reason) => {
    const result = await cli.run(['exec', id, ...command]);
    // runc has 255 for every exec that fails.
    expect([result.code, result.stderr]).toEqual([isRunc ? 255 : code, expect.stringContaining(reason)]);
  });

  it.each([
    ['a container that is not there', ['exec', 'nobody', 'true'], 'does not exist'],
    ['a user that is no number', ['exec', '--user', 'root', '$ID', 'true'], ''],
    ['an environment that is none', ['exec', '--env', 'NOEQUALS', '$ID', 'true'], isRunc ? undefined : 'env'],
    ['a file that is not there', ['exec', '--process', '/no/such', '$ID'], 'no such file'],
    ['nothing to run', ['exec', '$ID'], ''],
  ])('fails for %s', async (_what, words, reason) => {
    if (reason === undefined) return;
    const result = await cli.run(words.map((word) => (word === '$ID' ? id : word)));
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain(reason);
  });

  it('runs many at once', async () => {
    const results = await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        cli.run(['exec', id, 'sh', '-c', `echo ${index}; exit ${index}`]),
      ),
    );
    expect(results.map(({ code, stdout }) => [code, stdout])).toEqual(
      results.map((_, index) => [index, `${index}\n`]),
    );
  });
});
