import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually, run } from '../lib/exec.ts';
import { makeRootfs } from '../lib/image.ts';
import { engines, hypervisors, machineDirectories, monitors, shareDaemons, vm } from './machines.ts';

/** Whatever dies, the exit is told and nothing is left behind. */
describe('the end of a virtual machine', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
  });
  afterAll(() => containerd?.stop());

  const clean = async (): Promise<void> => {
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  };

  it.each([
    ['hypervisor', () => hypervisors(containerd)],
    ["share's daemon", () => shareDaemons(containerd)],
  ] as const)(
    'is told as exit 137 when the %s is killed',
    async (_, find) => {
      const events = await containerd.events();
      const id = `killed-${find().length}-${Math.random().toString(36).slice(2)}`;
      await containerd.detached(id, ['sleep', '1000']);
      const exec = containerd.exec(id, 'inside', ['sleep', '1000'], { timeout: 50_000 });
      await events.wait('/tasks/exec-started', id);
      for (const pid of find()) process.kill(pid, 'SIGKILL');
      expect((await events.wait('/tasks/exit', id)).event.exit_status).toBe(137);
      expect(await exec).toMatchObject({ code: 137, stderr: '' });
      expect(containerd.engineLog()).toContain('the virtual machine has ended');
      await containerd.remove(id);
      await clean();
    },
    600_000,
  );

  it('keeps the end of what a guest makes the daemon of its share say, and fills no disk', async () => {
    await containerd.detached('talks', ['sleep', '1000']);
    const [daemon = 0] = shareDaemons(containerd);
    const [directory = ''] = machineDirectories(containerd);
    const log = join(containerd.bulkheadRoot, 'vm', directory, 'fs.log');
    // As the daemon would: into its own standard error.
    const said = await run('sh', ['-c', `yes complaint | head -c 2000000 > /proc/${daemon}/fd/2`]);
    expect(said).toMatchObject({ code: 0, stderr: '' });
    await expect.poll(() => readFileSync(log, 'utf8').slice(-10)).toBe('complaint\n');
    expect(statSync(log).size).toBeLessThanOrEqual(128 * 1024);
    expect(await containerd.exec('talks', 'inside', ['cat', '/etc/hostname'])).toMatchObject({ code: 0 });
    await containerd.remove('talks');
    await clean();
  });

  it("is told when the guest's kernel gives up, with its last words in the log", async () => {
    const rootfs = join(containerd.dir, 'rootfs');
    mkdirSync(rootfs);
    await makeRootfs(rootfs);
    const config = {
      ociVersion: '1.0.2',
      process: {
        user: { uid: 0, gid: 0 },
        args: ['/bin/sh', '-c', 'sleep 1; echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero; sleep 1000'],
        env: ['PATH=/bin'],
        cwd: '/',
        capabilities: {
          bounding: ['CAP_SYS_ADMIN'],
          effective: ['CAP_SYS_ADMIN'],
          permitted: ['CAP_SYS_ADMIN'],
        },
      },
      root: { path: rootfs },
      mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
      linux: {
        namespaces: ['network', 'pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })),
        resources: { memory: { limit: 32 << 20 } },
      },
    };
    const file = join(containerd.dir, 'panic.json');
    writeFileSync(file, JSON.stringify(config));
    const result = await containerd.ctr(['run', '--rm', '--runtime', vm, '--config', file, 'panic']);
    expect(result.code).toBe(137);
    await containerd.ctr(['container', 'rm', 'panic']);
    expect(containerd.engineLog()).toMatch(/virtual machine has ended.*panic_on_oom/);
    await clean();
  });

  it('comes by SIGKILL also when the guest does not answer any more', async () => {
    const events = await containerd.events();
    await containerd.detached('silent', ['sleep', '1000']);
    for (const pid of hypervisors(containerd)) process.kill(pid, 'SIGSTOP');
    await containerd.ctr(['task', 'kill', '-s', 'SIGKILL', 'silent'], { timeout: 100_000 });
    expect((await events.wait('/tasks/exit', 'silent')).event.exit_status).toBe(137);
    expect(containerd.engineLog()).toMatch(/virtual machine has ended.*its agent does not answer/);
    await containerd.remove('silent');
    await clean();
  }, 600_000);

  it('leaves no machine when the monitor is killed', async () => {
    await containerd.detached('orphan', ['sleep', '1000']);
    for (const pid of monitors(containerd)) process.kill(pid, 'SIGKILL');
    await eventually(
      'the task to stop',
      async () => (await containerd.status('orphan')) !== 'RUNNING',
      20_000,
    );
    await containerd.ctr(['task', 'delete', '--force', 'orphan']);
    await containerd.ctr(['container', 'rm', 'orphan']);
    const left = (await containerd.leaks()).filter((what) => !what.startsWith('/run/containerd/'));
    expect(left).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
    // What containerd's client and the killed monitor themselves leave is theirs: their fifo and their socket.
    for (const path of (await containerd.leaks()).filter((what) => what.startsWith('/run/containerd/')))
      rmSync(path, { recursive: true });
  });

  it('does not come when the engine is killed', async () => {
    const events = await containerd.events();
    await containerd.detached('kept', ['sh', '-c', "trap 'exit 31' TERM; while :; do sleep 0.1; done"]);
    for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
    expect((await containerd.exec('kept', 'after', ['echo', 'still here'])).stdout).toBe('still here\n');
    await containerd.ctr(['task', 'metrics', 'kept']);
    await containerd.ctr(['task', 'kill', 'kept']);
    expect((await events.wait('/tasks/exit', 'kept')).event.exit_status).toBe(31);
    await containerd.remove('kept');
    await clean();
  });

  it.each([300, 900, 1800])(
    'does not come when the engine is killed %i ms into its start',
    async (ms) => {
      const running = containerd.run(`early-${ms}`, ['sh', '-c', 'exit 21'], { timeout: 100_000 });
      await new Promise((resolve) => setTimeout(resolve, ms));
      for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
      expect(await running).toMatchObject({ code: 21, stderr: '' });
      await clean();
    },
    600_000,
  );

  it('is complete when the engine is killed between a machine and its delete', async () => {
    await containerd.detached('gone', ['true']);
    await eventually(
      'the container to stop',
      async () => (await containerd.status('gone')) === 'STOPPED',
      20_000,
    );
    for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
    await containerd.remove('gone');
    await clean();
  });
});
