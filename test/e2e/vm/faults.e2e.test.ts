import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually } from '../lib/exec.ts';
import { makeRootfs } from '../lib/image.ts';
import { engines, hypervisors, machineDirectories, monitors, shareDaemons, vm } from './machines.ts';

/** Whatever dies, the exit is told and nothing is left behind. */
describe('the end of a virtual machine', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
  }, 180_000);
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
      await eventually(
        'the exec to run',
        async () => (await containerd.ctr(['task', 'ps', id])).stdout.split('\n').length >= 4,
        20_000,
      );
      for (const pid of find()) process.kill(pid, 'SIGKILL');
      expect((await events.wait('/tasks/exit', id)).event.exit_status).toBe(137);
      expect((await exec).code).toBe(137);
      expect(containerd.engineLog()).toContain('the virtual machine has ended');
      await containerd.remove(id);
      await clean();
    },
    120_000,
  );

  it("is told when the guest's kernel gives up, with its last words in the log", async () => {
    const rootfs = join(containerd.dir, 'rootfs');
    mkdirSync(rootfs);
    await makeRootfs(rootfs);
    const config = {
      ociVersion: '1.0.2',
      process: {
        user: { uid: 0, gid: 0 },
        args: [
          '/bin/sh',
          '-c',
          'sleep 1; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 1000',
        ],
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
      linux: { namespaces: ['network', 'pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })) },
    };
    const file = join(containerd.dir, 'panic.json');
    writeFileSync(file, JSON.stringify(config));
    const result = await containerd.ctr(['run', '--rm', '--runtime', vm, '--config', file, 'panic']);
    expect(result.code).toBe(137);
    await containerd.ctr(['container', 'rm', 'panic']);
    expect(containerd.engineLog()).toMatch(/virtual machine has ended.*sysrq/i);
    await clean();
  }, 120_000);

  it('leaves nothing when the monitor is killed', async () => {
    await containerd.detached('orphan', ['sleep', '1000']);
    for (const pid of monitors(containerd)) process.kill(pid, 'SIGKILL');
    await eventually(
      'the task to stop',
      async () => (await containerd.status('orphan')) !== 'RUNNING',
      20_000,
    );
    await containerd.ctr(['task', 'delete', '--force', 'orphan']);
    await containerd.ctr(['container', 'rm', 'orphan']);
    await clean();
  }, 120_000);

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
  }, 120_000);

  it('is complete when the engine is killed while machines start', async () => {
    let stop = false;
    const killer = (async () => {
      while (!stop) {
        await new Promise((resolve) => setTimeout(resolve, 900));
        for (const pid of engines(containerd)) process.kill(pid, 'SIGKILL');
      }
    })();
    const results = [];
    for (let n = 0; n < 3; n += 1)
      results.push(await containerd.run(`churn-${n}`, ['sh', '-c', `exit ${n}`]));
    stop = true;
    await killer;
    // A create that is begun anew every 0.9 s may well not come to an end; but what it says is one sentence.
    for (const { stderr } of results) expect(stderr.trim().split('\n').length).toBeLessThanOrEqual(1);
    for (let n = 0; n < 3; n += 1) await containerd.ctr(['container', 'rm', `churn-${n}`]);
    await clean();
  }, 300_000);

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
  }, 120_000);
});
