import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from './lib/containerd.ts';
import { eventually, run } from './lib/exec.ts';
import { isVm } from './lib/paths.ts';

/** Exit codes and signals, from the process to ctr and to the event. */
describe('exit status', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start();
  });
  afterAll(() => containerd?.stop());

  it('passes every exit code from 0 to 255 on', async () => {
    // A machine for each would take minutes; inside, the way of an exit status is the same.
    const all = Array.from({ length: 256 }, (_, code) => code).filter((code) => !isVm || code % 51 === 0);
    const codes = [...all];
    const seen: (number | null)[] = [];
    const worker = async (): Promise<void> => {
      for (let code = codes.shift(); code !== undefined; code = codes.shift()) {
        seen[code] = (await containerd.run(`code-${code}`, ['sh', '-c', `exit ${code}`])).code;
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    expect(all.map((code) => seen[code])).toEqual(all);
  });

  it('answers 137 for a container that SIGKILL ends', async () => {
    const events = await containerd.events();
    await containerd.detached('killed', ['sleep', '1000']);
    expect((await containerd.ctr(['task', 'kill', '--signal', 'SIGKILL', 'killed'])).code).toBe(0);
    expect((await events.wait('/tasks/exit', 'killed')).event.exit_status).toBe(137);
    await containerd.remove('killed');
  });

  // Process 1 of a PID namespace is deaf to signals it has no handler for; an exec'd process is not.
  it.each([
    ['SIGTERM', 143],
    ['SIGUSR1', 138],
    ['SIGSEGV', 139],
  ] as const)('answers 128 + n for an exec that %s ends', async (signal, code) => {
    const id = `signal-${signal.toLowerCase()}`;
    await containerd.detached(id, ['sleep', '1000']);
    const exec = containerd.exec(id, 'victim', ['sleep', '1000']);
    const pid = await victim(containerd, id);
    const kill = ['task', 'kill', '--signal', signal, '--exec-id', 'victim', id];
    if (isVm) expect(await containerd.ctr(kill)).toMatchObject({ code: 0 });
    else process.kill(pid, signal);
    expect((await exec).code).toBe(code);
    await containerd.remove(id);
  });

  it('sends the signal of ctr task kill to a process with a handler', async () => {
    const events = await containerd.events();
    const script = "trap 'exit 42' USR1; touch /ready; while :; do sleep 0.05; done";
    await containerd.detached('handler', ['sh', '-c', script]);
    await containerd.ready('handler');
    expect((await containerd.ctr(['task', 'kill', '--signal', 'SIGUSR1', 'handler'])).code).toBe(0);
    expect((await events.wait('/tasks/exit', 'handler')).event.exit_status).toBe(42);
    await containerd.remove('handler');
  });

  it('kills every process of the container with --all', async () => {
    const script = "trap '' TERM; sleep 1000 & sleep 1000 & wait";
    await containerd.detached('family', ['sh', '-c', script]);
    expect((await containerd.ctr(['task', 'kill', '--all', '--signal', 'SIGKILL', 'family'])).code).toBe(0);
    await containerd.remove('family');
    expect(await containerd.leaks()).toEqual([]);
  });

  it('ends the children of a container whose first process exits', async () => {
    const result = await containerd.run('orphans', ['sh', '-c', 'sleep 1000 & sleep 1000 & exit 3'], {
      timeout: 20_000,
    });
    expect(result).toMatchObject({ code: 3, timedOut: false });
  });

  it('reports the events of a container in order', async () => {
    const events = await containerd.events();
    await containerd.run('events', ['sh', '-c', 'exit 7']);
    await events.wait('/tasks/delete', 'events');
    expect(events.topics('events')).toEqual([
      '/tasks/create',
      '/tasks/start',
      '/tasks/exit',
      '/tasks/delete',
    ]);
    const exit = events.seen('events').find(({ topic }) => topic === '/tasks/exit');
    expect(exit?.event).toMatchObject({ container_id: 'events', id: 'events', exit_status: 7 });
    expect(exit?.event.pid).toBeGreaterThan(0);
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
  });
});

/** The host's (in a virtual machine: the guest's) pid of the exec'd `sleep`: the task's second process. */
const victim = async (containerd: PrivateContainerd, id: string): Promise<number> => {
  return eventually(`a second process in ${id}`, async () => {
    const listed = await containerd.ctr(['task', 'ps', id]);
    const pids = [...listed.stdout.matchAll(/^(\d+)/gm)].map((match) => Number(match[1]));
    const init = (await containerd.tasks()).get(id)?.pid;
    if (isVm) return pids.length === 2 && pids[1];
    const other = pids.find((pid) => pid !== init);
    return other !== undefined && (await run('cat', [`/proc/${other}/comm`])).stdout === 'sleep\n' && other;
  });
};
