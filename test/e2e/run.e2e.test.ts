import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { eventually } from './lib/exec.ts';
import { isVm, scratch } from './lib/paths.ts';

/** `ctr run` in all its forms, against Debian's own containerd. */
describe('ctr run', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
  });
  afterAll(() => containerd?.stop());

  it('runs attached and passes stdout and stderr on', async () => {
    const result = await containerd.run('attached', ['sh', '-c', 'echo out; echo err >&2']);
    expect(result).toMatchObject({ code: 0, stdout: 'out\n', stderr: 'err\n' });
  });

  it('keeps every byte of a megabyte of output', async () => {
    const result = await containerd.run('large', ['sh', '-c', 'seq 1 150000']);
    expect(result.code).toBe(0);
    const lines = result.stdout.split('\n');
    expect(lines).toHaveLength(150_001);
    expect(lines[149_999]).toBe('150000');
  });

  it('runs with the root moved instead of pivoted', async () => {
    const result = await containerd.run('moved', ['ls', '/etc/passwd'], { flags: ['--rm', '--no-pivot'] });
    expect(result).toMatchObject({ code: 0, stdout: '/etc/passwd\n', stderr: '' });
  });

  it.skipIf(isVm)('runs with ids of its own', async () => {
    // Root of the container must come through to its bundle; so it does below /run.
    for (const dir of [scratch(), containerd.dir, join(containerd.dir, 'state')]) chmodSync(dir, 0o711);
    const flags = ['--rm', '--uidmap', '0:100000:65536', '--gidmap', '0:100000:65536'];
    const script = 'cat /proc/self/uid_map; echo again > /dev/stdout';
    const result = await containerd.run('mapped', ['sh', '-c', script], { flags });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout.trim().split(/\s+/)).toEqual(['0', '100000', '65536', 'again']);
  });

  it('runs detached, and the task outlives ctr', async () => {
    await containerd.detached('detached', ['sleep', '1000']);
    expect(await containerd.status('detached')).toBe('RUNNING');
    await containerd.remove('detached');
    expect(await containerd.status('detached')).toBeUndefined();
  });

  it('gives a terminal with -t', async () => {
    // ctr sends the size of its own terminal only after the start.
    const sized = 'until s=$(stty size 2>/dev/null) && [ -n "$s" ]; do sleep 0.05; done; echo $s';
    const script = `test -t 0 && test -t 1 && test -t 2 && tty && { ${sized}; }`;
    const result = await containerd.run('terminal', ['sh', '-c', script], {
      tty: { rows: 33, columns: 111 },
    });
    expect(result.code).toBe(0);
    // Two terminals lie in line, each free to write CR LF for LF.
    expect(result.stdout.split(/\r*\n/)).toEqual(expect.arrayContaining(['/dev/pts/0', '33 111']));
  });

  it('reads what is typed on the terminal', async () => {
    const options = { tty: true, stdin: 'hello from the terminal\nexit 5\n' };
    const result = await containerd.run(
      'typed',
      ['sh', '-c', 'read line; echo "got: $line"; read x n; exit $n'],
      options,
    );
    expect(result.stdout).toContain('got: hello from the terminal');
    expect(result.code).toBe(5);
  });

  it('passes piped stdin on and ends it', async () => {
    const text = 'line\n'.repeat(40_000);
    const result = await containerd.run('stdin', ['sh', '-c', 'echo ready; wc -c; echo end'], {
      stdin: text,
    });
    expect(result.code).toBe(0);
    expect(result.stdout.split('\n').map((line) => line.trim())).toEqual(['ready', '200000', 'end', '']);
  });

  it('removes the container with --rm', async () => {
    const result = await containerd.run('removed', ['true']);
    expect(result.code).toBe(0);
    expect((await containerd.ctr(['container', 'ls', '-q'])).stdout).not.toContain('removed');
  });

  it('passes environment and working directory, and starts as process 1 and root', async () => {
    const script = 'echo "$FROM_IMAGE $EXTRA"; pwd; id -u; echo $$';
    const flags = ['--rm', '--env', 'EXTRA=yes too', '--cwd', '/tmp'];
    const result = await containerd.run('environment', ['sh', '-c', script], { flags });
    expect(result.stderr).toBe('');
    expect(result.stdout.split('\n')).toEqual(['yes yes too', '/tmp', '0', '1', '']);
  });

  it('answers 127 or an error that names a missing command', async () => {
    const result = await containerd.run('missing', ['/no/such/command']);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain('/no/such/command');
    await containerd.ctr(['container', 'rm', 'missing']);
  });

  it('says which command is not executable', async () => {
    const result = await containerd.run('noexec', ['/etc/passwd']);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toMatch(/\/etc\/passwd.*permission denied/);
    await containerd.ctr(['container', 'rm', 'noexec']);
  });

  it('reopens /dev/stdout and /dev/stderr by path', async () => {
    const result = await containerd.run('reopen', ['sh', '-c', 'echo a > /dev/stdout; echo b > /dev/stderr']);
    expect(result).toMatchObject({ code: 0, stdout: 'a\n', stderr: 'b\n' });
  });

  it('runs a command whose output nobody reads any more', async () => {
    const events = await containerd.events();
    await containerd.detached('unread', [
      'sh',
      '-c',
      'i=0; while [ $i -lt 20 ]; do echo tick; i=$((i+1)); done; exit 9',
    ]);
    await eventually('unread to stop', async () => (await containerd.status('unread')) === 'STOPPED');
    expect((await events.wait('/tasks/exit', 'unread')).event.exit_status).toBe(9);
    await containerd.remove('unread');
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
