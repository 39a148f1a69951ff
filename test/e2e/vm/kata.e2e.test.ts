import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually } from '../lib/exec.ts';
import { engines, machineDirectories, shareDaemons, vm } from './machines.ts';

/**
 * The way from containerd to Kata's agent and back. The machine and the guest are played (kata_machine.ts): what a real
 * one makes of the same calls nobody has seen.
 */
describe("a guest with Kata's agent", () => {
  let containerd: PrivateContainerd;
  let dir: string;

  /** @param seconds until a guest must have answered; a busy machine needs more than a fault is waited for */
  const start = (seconds: number): Promise<PrivateContainerd> => {
    const lines = [
      `qemu = "${join(dir, 'qemu')}"`,
      `boot_timeout_seconds = ${seconds}`,
      'agent = "kata"',
      `kernel = "${join(dir, 'vmlinux')}"`,
      `image = "${join(dir, 'kata.img')}"`,
      'accelerator = "tcg"',
      // Also on a host with vhost-vsock, where this agent would be looked for there.
      'channel = "serial"',
    ];
    // Roots are disks: a directory would need a QEMU that keeps the connection to its daemon.
    const vmConfig = `${lines.join('\n')}\n`;
    return PrivateContainerd.start({ version: '1.7', blockfile: true, runtime: vm, vmConfig });
  };

  beforeAll(async () => {
    // Machines run as a uid of their own, which must be able to read the program.
    dir = mkdtempSync(join(tmpdir(), 'bh-kata-'));
    chmodSync(dir, 0o755);
    await build({
      entryPoints: [join(dirname(fileURLToPath(import.meta.url)), 'kata_machine.ts')],
      outfile: join(dir, 'machine.cjs'),
      bundle: true,
      platform: 'node',
      format: 'cjs',
    });
    writeMachine();
    for (const name of ['vmlinux', 'kata.img']) writeFileSync(join(dir, name), '');
    containerd = await start(60);
  });
  afterAll(async () => {
    await containerd?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  /** @param fault of the guest's that is played from now on */
  const writeMachine = (fault = ''): void => {
    const command = `${process.execPath} ${join(dir, 'machine.cjs')} '${fault}'`;
    writeFileSync(join(dir, 'qemu'), `#!/bin/sh\nexec ${command}\n`);
    chmodSync(join(dir, 'qemu'), 0o755);
  };

  const expectNothingLeft = async (of = containerd): Promise<void> => {
    expect(await of.leaks()).toEqual([]);
    expect([shareDaemons(of), machineDirectories(of)]).toEqual([[], []]);
  };

  it('runs a container and says what it printed', async () => {
    const result = await containerd.run('hello', ['echo', 'hello', 'kata']);
    expect(result).toMatchObject({ code: 0, stdout: 'hello kata\n', stderr: '' });
    await expectNothingLeft();
  });

  it('keeps streams and exit codes apart', async () => {
    expect(await containerd.run('bad', ['complain', 'oh'])).toMatchObject({
      code: 2,
      stdout: '',
      stderr: 'oh\n',
    });
    expect((await containerd.run('seven', ['exit', '7'])).code).toBe(7);
  });

  it('brings a megabyte', async () => {
    expect((await containerd.run('much', ['yes', '1000000'])).stdout).toHaveLength(1_000_000);
  });

  it('passes input on, and its end', async () => {
    const result = await containerd.run('input', ['count'], { stdin: 'x'.repeat(200_000) });
    expect(result).toMatchObject({ code: 0, stdout: 'ready\n200000\n' });
  });

  it('tells of a kill by the limit of memory', async () => {
    const events = await containerd.events();
    expect((await containerd.run('hog', ['hog'])).code).toBe(137);
    await events.wait('/tasks/oom', 'hog');
  });

  it('has a terminal', async () => {
    const result = await containerd.run('tty', ['size'], { tty: { rows: 30, columns: 90 } });
    expect(result.stdout.trim()).toBe('90x30');
  });

  it('runs, is looked at, paused, limited, joined by an exec, killed and deleted', async () => {
    await containerd.detached('web', ['sleep']);
    expect(await containerd.status('web')).toBe('RUNNING');
    expect(await containerd.exec('web', 'e1', ['echo', 'from', 'inside'])).toMatchObject({
      code: 0,
      stdout: 'from inside\n',
    });
    expect((await containerd.exec('web', 'e2', ['exit', '5'])).code).toBe(5);
    expect((await containerd.exec('web', 'e3', ['no-such-program'])).code).toBe(127);
    expect((await containerd.ctr(['task', 'metrics', 'web'])).stdout).toContain('1048576');
    expect((await containerd.ctr(['task', 'pause', 'web'])).code).toBe(0);
    expect(await containerd.status('web')).toBe('PAUSED');
    expect((await containerd.ctr(['task', 'resume', 'web'])).code).toBe(0);
    const events = await containerd.events();
    await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', 'web']);
    expect((await events.wait('/tasks/exit', 'web')).event.exit_status).toBe(137);
    await containerd.remove('web');
    await expectNothingLeft();
  });

  it('outlives the engine', async () => {
    await containerd.detached('keep', ['sleep']);
    const before = engines(containerd);
    for (const pid of before) process.kill(pid, 'SIGKILL');
    await eventually('another engine', async () => engines(containerd).some((pid) => !before.includes(pid)));
    expect(await containerd.status('keep')).toBe('RUNNING');
    expect(await containerd.exec('keep', 'e', ['echo', 'still', 'here'])).toMatchObject({
      code: 0,
      stdout: 'still here\n',
    });
    const events = await containerd.events();
    await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', 'keep']);
    expect((await events.wait('/tasks/exit', 'keep')).event.exit_status).toBe(137);
    await containerd.remove('keep');
    await expectNothingLeft();
  });

  it('ends with its machine', async () => {
    await containerd.detached('lost', ['sleep']);
    const { pid } = (await containerd.tasks()).get('lost') ?? { pid: 0 };
    const events = await containerd.events();
    process.kill(pid, 'SIGKILL');
    expect((await events.wait('/tasks/exit', 'lost')).event.exit_status).toBe(137);
    await containerd.remove('lost');
    await expectNothingLeft();
  });

  const expectOneError = async (of: PrivateContainerd, fault: string, words: string): Promise<void> => {
    writeMachine(fault);
    const result = await of.run('bad-0', ['true'], { timeout: 90_000 });
    writeMachine();
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain(words);
    expect(result.stderr.trim().split('\n')).toHaveLength(1);
    await of.ctr(['container', 'rm', 'bad-0']);
    await expectNothingLeft(of);
  };

  it.each([
    ['refuses', 'create bad-0: guest CreateContainer: no space: ENOSPC: No space left on device: unknown'],
    ['goes away', 'create bad-0: guest '],
  ])('that %s is one error, and nothing is left', async (fault, words) => {
    await expectOneError(containerd, fault, words);
    expect((await containerd.run('after', ['echo', 'fine'])).stdout).toBe('fine\n');
  });

  it(
    'that never says what an agent says is one error, and nothing is left',
    { timeout: 600_000 },
    async () => {
      const impatient = await start(3);
      try {
        for (const fault of ['is silent', 'hangs up', 'sends noise'])
          await expectOneError(impatient, fault, 'its agent did not answer within 3 s');
      } finally {
        await impatient.stop();
      }
    },
  );
});
