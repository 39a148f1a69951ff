import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { eventually, run } from './lib/exec.ts';
import { markedProcesses } from './lib/leaks.ts';
import { isVm } from './lib/paths.ts';

/** A machine that is being made when its engine ends is made anew: that must be able to come to an end. */
const [pause, rounds] = isVm ? [6_000, 6] : [400, 20];

/** A machine that is made anew takes the first one's ends of the fifos along (docs/decisions/004). */
const outputStays = !isVm;

/** The engine may die at any time: containers, streams and exits do not notice. Only Bulkhead has an engine. */
describe('engine', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
  });
  afterAll(() => containerd?.stop());

  const engines = (): number[] =>
    markedProcesses(containerd)
      .filter(({ engine }) => engine)
      .map(({ pid }) => pid);

  const killEngine = (): void => {
    const [pid] = engines();
    expect(pid).toBeGreaterThan(0);
    process.kill(pid ?? 0, 'SIGKILL');
  };

  it('is one process however many containers start at once', async () => {
    await Promise.all(
      Array.from({ length: 10 }, (_, n) => containerd.detached(`first-${n}`, ['sleep', '1000'])),
    );
    expect(engines()).toHaveLength(1);
    await Promise.all(Array.from({ length: 10 }, (_, n) => containerd.remove(`first-${n}`)));
  });

  it('is killed while ten containers run, and nothing is lost', async () => {
    const ids = Array.from({ length: 10 }, (_, n) => `keep-${n}`);
    const events = await containerd.events();
    const loop = (n: number): string => `trap 'exit ${n}' TERM; touch /ready; while :; do sleep 0.05; done`;
    await Promise.all(ids.map((id, n) => containerd.detached(id, ['sh', '-c', loop(30 + n)])));
    for (const id of ids) await containerd.ready(id);
    const logged = containerd.log().length;
    killEngine();
    const running = [...(await containerd.tasks())].filter(([, { status }]) => status === 'RUNNING');
    expect(running.map(([id]) => id).sort()).toEqual([...ids].sort());
    await Promise.all(ids.map((id) => containerd.ctr(['task', 'kill', '--signal', 'SIGTERM', id])));
    for (const [n, id] of ids.entries()) {
      expect((await events.wait('/tasks/exit', id)).event.exit_status).toBe(30 + n);
    }
    expect(containerd.log().slice(logged)).not.toContain('shim disconnected');
    await Promise.all(ids.map((id) => containerd.remove(id)));
  });

  it('is killed between a container and its exit', async () => {
    const events = await containerd.events();
    await containerd.detached('later', ['sh', '-c', 'sleep 1; exit 77']);
    killEngine();
    expect((await events.wait('/tasks/exit', 'later')).event.exit_status).toBe(77);
    await containerd.remove('later');
  });

  it('is killed while output flows, and every byte arrives', async () => {
    const script = 'i=0; while [ $i -lt 40 ]; do echo line $i; sleep 0.05; i=$((i+1)); done; exit 21';
    const attached = containerd.run('flow', ['sh', '-c', script]);
    await eventually('the container to run', async () => (await containerd.status('flow')) === 'RUNNING');
    killEngine();
    const result = await attached;
    expect(result.stdout.trim().split('\n')).toEqual(Array.from({ length: 40 }, (_, i) => `line ${i}`));
    expect(result.code).toBe(21);
  });

  it('is killed again and again while containers come and go', async () => {
    let stop = false;
    const seen: { code: number | null; stdout: string; stderr: string }[] = [];
    const killer = (async () => {
      // On a busy machine an engine has to live longer to get anything done.
      let wait = pause;
      while (!stop) {
        const done = seen.length;
        await new Promise((resolve) => setTimeout(resolve, wait));
        // One that has ended since it was looked for is as good.
        for (const pid of engines()) await run('kill', ['-KILL', String(pid)]);
        wait = seen.length > done ? pause : wait * 1.5;
      }
    })();
    for (let n = 0; n < rounds; n += 1) {
      const script = `echo ${n}; sleep 0.1; exit ${n}`;
      const { code, stdout, stderr } = await containerd.run(`churn-${n}`, ['sh', '-c', script]);
      seen.push({ code, stdout: outputStays ? stdout : '', stderr });
    }
    stop = true;
    await killer;
    expect(seen).toEqual(
      Array.from({ length: rounds }, (_, n) => ({
        code: n,
        stdout: outputStays ? `${n}\n` : '',
        stderr: '',
      })),
    );
  });

  it('runs without NODE_EXTRA_CA_CERTS, which costs 45 ms at every start', async () => {
    await containerd.run('env', ['true']);
    const [pid] = engines();
    expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).not.toContain('NODE_EXTRA_CA_CERTS');
  });

  it('keeps its files in BULKHEAD_ROOT', () => {
    expect(existsSync(join(containerd.bulkheadRoot, 'engine.sock'))).toBe(true);
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});
