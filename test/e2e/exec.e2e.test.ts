import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { eventually } from './lib/exec.ts';

/** `ctr task exec` into a running container. */
describe('ctr task exec', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
    await containerd.detached('host', ['sleep', '1000']);
  });
  afterAll(() => containerd?.stop());

  it('passes output and the exit code on', async () => {
    const result = await containerd.exec('host', 'e1', ['sh', '-c', 'echo out; echo err >&2; exit 17']);
    expect(result).toMatchObject({ code: 17, stdout: 'out\n', stderr: 'err\n' });
  });

  it('joins the namespaces and the cgroup of the container', async () => {
    const script =
      'for n in mnt pid net ipc uts; do [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo $n; done';
    const result = await containerd.exec('host', 'e2', ['sh', '-c', script]);
    expect(result.stdout.trim().split('\n')).toEqual(['mnt', 'pid', 'net', 'ipc', 'uts']);
    const cgroups = await containerd.exec('host', 'e3', [
      'sh',
      '-c',
      'diff /proc/self/cgroup /proc/1/cgroup && echo same',
    ]);
    expect(cgroups.stdout).toBe('same\n');
  });

  it('has the capabilities and the no_new_privs of the container', async () => {
    const script =
      'grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/self/status > /tmp/a; grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/1/status | diff - /tmp/a && echo same';
    expect(await containerd.exec('host', 'e4', ['sh', '-c', script])).toMatchObject({
      stdout: 'same\n',
      stderr: '',
    });
  });

  it('gives a terminal with -t', async () => {
    const result = await containerd.exec(
      'host',
      'e5',
      ['sh', '-c', 'test -t 0 && test -t 2 && tty; exit 4'],
      { tty: true },
    );
    expect(result.code).toBe(4);
    expect(result.stdout).toMatch(/\/dev\/pts\/\d/);
  });

  it('reads what is typed on the terminal', async () => {
    const script = 'read line; echo "got: $line"; exit 3';
    const result = await containerd.exec('host', 'e9', ['sh', '-c', script], { tty: true, stdin: 'typed\n' });
    expect(result.code).toBe(3);
    expect(result.stdout).toContain('got: typed');
  });

  it('passes piped stdin on and ends it', async () => {
    const result = await containerd.exec('host', 'e6', ['sh', '-c', 'echo ready; wc -c'], {
      stdin: 'x'.repeat(300_000),
    });
    expect(result).toMatchObject({ code: 0, stdout: 'ready\n300000\n' });
  });

  it('runs as another user and in another directory', async () => {
    const result = await containerd.ctr([
      'task',
      'exec',
      '--exec-id',
      'e7',
      '--user',
      '1000',
      '--cwd',
      '/tmp',
      'host',
      'sh',
      '-c',
      'id -u; pwd',
    ]);
    expect(result).toMatchObject({ code: 0, stdout: '1000\n/tmp\n' });
  });

  it('names a missing command', async () => {
    const result = await containerd.exec('host', 'e8', ['/no/such/command']);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain('/no/such/command');
  });

  it('runs twenty at once, each with its own output', async () => {
    const all = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        containerd.exec('host', `many-${n}`, ['sh', '-c', `echo ${n}; exit ${n}`]),
      ),
    );
    expect(all.map(({ code, stdout }) => [code, stdout])).toEqual(all.map((_, n) => [n, `${n}\n`]));
  });

  it('reports added, started and exit in order', async () => {
    const events = await containerd.events();
    await containerd.exec('host', 'ordered', ['true']);
    const seen = await eventually('the exit of the exec', () => {
      const topics = events.seen('host').filter(({ event }) => (event.exec_id ?? event.id) === 'ordered');
      return topics.some(({ topic }) => topic === '/tasks/exit') && topics.map(({ topic }) => topic);
    });
    expect(seen).toEqual(['/tasks/exec-added', '/tasks/exec-started', '/tasks/exit']);
  });

  it('ends with the container', async () => {
    await containerd.detached('brief', ['sleep', '1000']);
    const exec = containerd.exec('brief', 'long', ['sleep', '1000'], { timeout: 20_000 });
    await eventually(
      'the exec to run',
      async () => (await containerd.ctr(['task', 'ps', 'brief'])).stdout.split('\n').length >= 4,
    );
    await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', 'brief']);
    expect(await exec).toMatchObject({ code: 137, timedOut: false });
    await containerd.remove('brief');
  });

  it('is refused in a container that has stopped', async () => {
    await containerd.detached('stopped', ['true']);
    await eventually('the container to stop', async () => (await containerd.status('stopped')) === 'STOPPED');
    const result = await containerd.exec('stopped', 'late', ['true']);
    expect(result.code).not.toBe(0);
    expect(result.stderr).not.toBe('');
    await containerd.remove('stopped');
  });

  it('leaves nothing behind', async () => {
    await containerd.remove('host');
    expect(await containerd.leaks()).toEqual([]);
  });
});
