import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { eventually } from './lib/exec.ts';
import { cgroupsOf } from './lib/leaks.ts';
import { testImage } from './lib/image.ts';
import { isVm, runtime } from './lib/paths.ts';

/** What ctr can do with a task between create and delete. */
describe('task life cycle', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
  });
  afterAll(() => containerd?.stop());

  /** Of all threads, in hundredths of a second. A hypervisor's own timers tick on while its guest stands still. */
  const cpuTime = (pid: number): number => {
    const [user = 0, system = 0] = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .split(' ')
      .slice(13, 15)
      .map(Number);
    return user + system;
  };
  const idle = isVm ? 5 : 0;

  it('pauses and resumes', async () => {
    const events = await containerd.events();
    await containerd.detached('paused', ['sh', '-c', 'while :; do :; done']);
    const { pid } = (await containerd.tasks()).get('paused') ?? { pid: 0 };
    expect((await containerd.ctr(['task', 'pause', 'paused'])).code).toBe(0);
    expect(await containerd.status('paused')).toBe('PAUSED');
    const before = cpuTime(pid);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(cpuTime(pid) - before).toBeLessThanOrEqual(idle);
    expect((await containerd.ctr(['task', 'resume', 'paused'])).code).toBe(0);
    expect(await containerd.status('paused')).toBe('RUNNING');
    await eventually('the container to run on', () => cpuTime(pid) > before + 2 * idle);
    expect(events.topics('paused')).toEqual(expect.arrayContaining(['/tasks/paused', '/tasks/resumed']));
    await containerd.remove('paused');
  });

  it('kills a paused container', async () => {
    await containerd.detached('frozen', ['sleep', '1000']);
    expect((await containerd.ctr(['task', 'pause', 'frozen'])).code).toBe(0);
    await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', 'frozen']);
    // The kernel delivers it when the freezer thaws, which runc leaves to its caller.
    await containerd.ctr(['task', 'resume', 'frozen']);
    await containerd.remove('frozen');
    expect(await containerd.status('frozen')).toBeUndefined();
  });

  it('lists the processes', async () => {
    await containerd.detached('ps', ['sh', '-c', 'sleep 1000 & sleep 1000 & wait']);
    const count = async (): Promise<number> =>
      (await containerd.ctr(['task', 'ps', 'ps'])).stdout.split('\n').filter((line) => /^\d+/.test(line))
        .length;
    await eventually('three processes', async () => (await count()) === 3);
    await containerd.remove('ps');
  });

  it('answers metrics of the cgroup', async () => {
    await containerd.detached('metrics', [
      'sh',
      '-c',
      'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000',
    ]);
    await eventually('CPU time to be counted', async () => {
      const result = await containerd.ctr(['task', 'metrics', '--format', 'json', 'metrics']);
      const found = /"(?:total|usage_usec)":\s*"?(\d+)/.exec(result.stdout);
      return result.code === 0 && Number(found?.[1] ?? 0) > 0;
    });
    const result = await containerd.ctr(['task', 'metrics', 'metrics']);
    expect(result.stdout).toMatch(/memory\.usage(?:_in_bytes)?\s+[1-9]\d*/);
    expect(result.stdout).toMatch(/pids\.current\s+[1-9]/);
    await containerd.remove('metrics');
  });

  it('starts a container that was created earlier', async () => {
    const create = await containerd.ctr([
      'container',
      'create',
      '--runtime',
      runtime,
      testImage,
      'created',
      '/bin/false',
    ]);
    expect(create).toMatchObject({ code: 0, stderr: '' });
    const start = await containerd.ctr(['task', 'start', 'created']);
    expect(start.code).toBe(1);
    await containerd.ctr(['container', 'rm', 'created']);
  });

  it('updates limits of a running task', async () => {
    await containerd.detached('limits', ['sleep', '1000'], ['--memory-limit', String(64 << 20)]);
    if (isVm) {
      // The limit is the guest's.
      const result = await containerd.ctr(['task', 'metrics', 'limits']);
      expect(result.stdout).toMatch(/memory\.limit_in_bytes\s+67108864/);
      await containerd.remove('limits');
      return;
    }
    const file = cgroupsOf(containerd.namespace)
      .map((path) => ({ path, name: path.includes('/memory/') ? 'memory.limit_in_bytes' : 'memory.max' }))
      .find(({ path, name }) => path.endsWith('/limits') && readable(join(path, name)));
    expect(readFileSync(join(file?.path ?? '', file?.name ?? ''), 'utf8').trim()).toBe(String(64 << 20));
    await containerd.remove('limits');
  });

  it('refuses to delete a running task', async () => {
    await containerd.detached('busy', ['sleep', '1000']);
    const result = await containerd.ctr(['task', 'delete', 'busy']);
    expect(result.code).not.toBe(0);
    expect(await containerd.status('busy')).toBe('RUNNING');
    await containerd.remove('busy');
  });

  it('deletes a running task by force', async () => {
    await containerd.detached('forced', ['sleep', '1000']);
    expect((await containerd.ctr(['task', 'delete', '--force', 'forced'])).code).toBe(0);
    expect(await containerd.status('forced')).toBeUndefined();
    await containerd.ctr(['container', 'rm', 'forced']);
  });

  it('refuses a second task of the same name', async () => {
    await containerd.detached('twice', ['sleep', '1000']);
    const result = await containerd.ctr(['task', 'start', '-d', 'twice']);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain('already exists');
    await containerd.remove('twice');
  });

  it('answers kill of an unknown task with its name', async () => {
    const result = await containerd.ctr(['task', 'kill', 'nobody']);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain('nobody');
  });

  it('attaches to a running task', async () => {
    await containerd.detached('attach', ['sh', '-c', 'sleep 1; echo from inside; exit 11']);
    const result = await containerd.ctr(['task', 'attach', 'attach']);
    expect(result).toMatchObject({ code: 11 });
    expect(result.stdout).toContain('from inside');
    await containerd.remove('attach');
  });

  it('survives a restart of containerd', async () => {
    await containerd.detached('survivor', ['sh', '-c', "trap 'exit 23' TERM; while :; do sleep 0.05; done"]);
    await containerd.kill('SIGKILL');
    await containerd.launch();
    expect(await containerd.status('survivor')).toBe('RUNNING');
    const events = await containerd.events();
    expect((await containerd.exec('survivor', 'after', ['echo', 'still here'])).stdout).toBe('still here\n');
    await containerd.ctr(['task', 'kill', 'survivor']);
    expect((await events.wait('/tasks/exit', 'survivor')).event.exit_status).toBe(23);
    await containerd.remove('survivor');
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});

const readable = (path: string): boolean => {
  try {
    readFileSync(path);
    return true;
  } catch {
    return false;
  }
};
