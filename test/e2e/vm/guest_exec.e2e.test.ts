import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually, onTerminal, run, type RunResult } from '../lib/exec.ts';
import { prefix } from '../lib/paths.ts';
import { engines, vm } from './machines.ts';

const bulkhead = join(prefix, 'bin/bulkhead');

describe('bulkhead guest exec', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
    await containerd.detached('pod', ['sleep', '1000']);
  });
  afterAll(() => containerd?.stop());

  const words = (...more: string[]): string[] => ['guest', 'exec', ...more];
  const exec = (args: string[], options: { stdin?: string } = {}): Promise<RunResult> =>
    run(bulkhead, words(...args), { env: containerd.env, timeout: 60_000, ...options });
  /** Of the guest itself: the agent's root, not a container's. */
  const processes = async (): Promise<string> => (await exec(['pod', 'ps'])).stdout;

  it('runs a command beside the containers, with its output and its status', async () => {
    const script = 'readlink /proc/1/exe; echo $0 $$; pwd; echo err >&2; exit 7';
    const result = await exec([
      '--cwd',
      '/run',
      '--env',
      'A=b',
      'pod',
      '--',
      'sh',
      '-c',
      `echo $A; ${script}`,
      'name',
    ]);
    expect(result).toMatchObject({ code: 7, stderr: 'err\n' });
    expect(result.stdout).toMatch(/^b\n.+\nname \d+\n\/run\n$/);
    // It sees the container's processes, and the container is none of its business.
    expect(await processes()).toMatch(/sleep 1000/);
    const inside = await containerd.exec('pod', 'inside', ['ps']);
    expect(inside.stdout).not.toMatch(/bulkhead-agent|\binit\b/);
  });

  it('passes input on to its end, and output of any length', async () => {
    const counted = await exec(['pod', '--', 'wc', '-c'], { stdin: 'x'.repeat(300_000) });
    expect(counted).toMatchObject({ code: 0, stdout: '300000\n' });
    const long = await exec(['pod', '--', 'head', '-c', '1000000', '/dev/zero']);
    expect(long.stdout).toHaveLength(1_000_000);
  });

  it('gives it a terminal', async () => {
    const [file, args] = onTerminal(
      bulkhead,
      words('--tty', 'pod', '--', 'sh', '-c', 'tty; stty size'),
      30,
      90,
    );
    const result = await run(file, args, { env: containerd.env, timeout: 60_000 });
    expect(result.stdout).toMatch(/\/dev\/pts\/\d+\r?\n30 90\r?\n$/);
  });

  it('executes a file of the guest by its path, and says when there is none', async () => {
    const missing = await exec(['pod', '/nowhere/at-all']);
    expect(missing).toMatchObject({
      code: 1,
      stderr: 'bulkhead: guest exec pod: exec "/nowhere/at-all": no such file or directory\n',
    });
    const program = await exec(['--program', '/nonexistent', 'pod', 'x']);
    expect(program.stderr).toContain('guest exec pod: program /nonexistent: no such file or directory');
    const pod = await exec(['nobody', 'ps']);
    expect(pod.stderr).toContain('guest exec nobody: virtual machine: none below');
    expect(await containerd.status('pod')).toBe('RUNNING');
  });

  it('ends with the command that asked for it', async () => {
    const child = spawn(bulkhead, words('pod', 'sleep', '4321'), { env: containerd.env, stdio: 'ignore' });
    await eventually('the process', async () => (await processes()).includes('sleep 4321'));
    child.kill('SIGKILL');
    await eventually('its end', async () => !(await processes()).includes('sleep 4321'));
  });

  it('says so when the engine goes; the next one takes the next command', async () => {
    const asked = exec(['pod', 'sleep', '4322']);
    await eventually('the process', async () => (await processes()).includes('sleep 4322'));
    for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
    const result = await asked;
    expect(result.code).toBe(1);
    expect(result.stderr).toContain('hung up; the process, if there is one, ends with its pod');
    await eventually('an engine that answers', async () => (await exec(['pod', 'true'])).code === 0);
    expect(await containerd.status('pod')).toBe('RUNNING');
    await containerd.remove('pod');
    expect(await containerd.leaks()).toEqual([]);
  });
});
