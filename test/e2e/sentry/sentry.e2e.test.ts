import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { errno } from '../../../src/sandbox/sentry/rules.ts';
import { reachesKernel, strictCalls } from '../../../src/sandbox/sentry/strict.ts';
import { systemCalls } from '../../../src/sandbox/sentry/syscalls.ts';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually, run } from '../lib/exec.ts';
import { bind, debian, program } from './programs.ts';

const sentry = 'io.containerd.bulkhead-sentry.v2';

const profile = (name: string): string[] => ['--annotation', `io.bulkhead.sentry.profile=${name}`];
const profiles = [
  ['kernel', systemCalls, 150],
  ['strict', strictCalls, 110],
] as const;

const supervisors = async (): Promise<number[]> => {
  const found = await run('sh', ['-c', 'grep -lx bulkhead-sentry /proc/[0-9]*/comm 2>/dev/null']);
  return [...found.stdout.matchAll(/^\/proc\/(\d+)\//gm)].map(([, pid]) => Number(pid));
};

const statusOf = (pid: number, name: string): string =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';

/** The kernel itself keeps these from filters (Linux 6.14); outside of a probe they do nothing. */
const unfiltered = new Set(['uretprobe', 'uprobe']);

/** What the sentry wall promises beyond what every runtime does; that is tested by the rest of the suite. */
describe('the sentry wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: sentry });
  });
  afterAll(() => containerd?.stop());

  it.each(profiles)(
    'lets through what the table of %s says, and nothing else',
    async (name, calls, most) => {
      const flags = ['--rm', ...profile(name), ...bind(await program('reach'), '/reach')];
      const result = await containerd.run(`reach-${name}`, ['/reach'], { flags, timeout: 150_000 });
      expect(result.stderr).toBe('');
      const observed = new Map(
        result.stdout
          .trim()
          .split('\n')
          .map((line): [number, string[]] => {
            const [number = '', ...results] = line.split(' ');
            return [Number(number), results];
          }),
      );
      expect(observed.size).toBe(501);
      const wrong: string[] = [];
      let reached = 0;
      const byNumber = new Map(calls.map((call) => [call.number, call]));
      for (const [number, results] of observed) {
        const call = byNumber.get(number);
        const decision = call?.decision ?? { use: 'refuse' as const, errno: 'ENOSYS' as const };
        if (unfiltered.has(call?.name ?? '')) continue;
        if (decision.use === 'refuse') {
          const answer = `-${errno[decision.errno]}`;
          if (results.some((value) => value !== answer)) {
            wrong.push(`${number} ${call?.name ?? ''}: ${results.join(' ')} instead of ${answer}`);
          }
          continue;
        }
        if (results.every((value) => value === `-${errno.ENOSYS}`))
          wrong.push(`${number} ${call?.name}: ENOSYS`);
        if (reachesKernel(decision)) reached++;
      }
      expect(wrong).toEqual([]);
      expect(reached).toBeLessThanOrEqual(most);
      expect(reached).toBeGreaterThan(100);
    },
    600_000,
  );

  it.each(profiles)(
    'holds against known ways out under %s',
    async (name) => {
      const flags = ['--rm', ...profile(name), ...bind(await program('escape'), '/escape')];
      const result = await containerd.run(`escape-${name}`, ['/escape'], { flags, timeout: 100_000 });
      const lines = result.stdout.trim().split('\n');
      expect(lines.filter((line) => !line.endsWith(' ok'))).toEqual([]);
      expect(lines.length).toBeGreaterThan(50);
      expect(result.code).toBe(0);
    },
    600_000,
  );

  it('gives a process nothing of the host: ids, capabilities, privileges', async () => {
    await containerd.detached('who', ['sleep', '1000']);
    const pid = (await containerd.tasks()).get('who')?.pid ?? 0;
    expect(Number(statusOf(pid, 'Uid').split('\t')[0])).toBeGreaterThanOrEqual(2 ** 31);
    expect(statusOf(pid, 'NoNewPrivs')).toBe('1');
    expect(statusOf(pid, 'Seccomp')).toBe('2');
    const inside = await containerd.exec('who', 'id', ['sh', '-c', 'id -u; cat /proc/self/uid_map']);
    expect(inside.stdout.trim().split(/\s+/)).toEqual([
      '0',
      '0',
      statusOf(pid, 'Uid').split('\t')[0],
      '65536',
    ]);
    await containerd.remove('who');
  });

  it('has a supervisor without any power over the host', async () => {
    await containerd.detached('guard', ['sleep', '1000']);
    const [guard = 0, ...others] = await supervisors();
    expect(others).toEqual([]);
    expect(Number(statusOf(guard, 'Uid').split('\t')[0])).toBeGreaterThanOrEqual(2 ** 31);
    expect(statusOf(guard, 'CapEff')).toBe('0000000000080000');
    expect(statusOf(guard, 'NoNewPrivs')).toBe('1');
    expect(statusOf(guard, 'Seccomp')).toBe('2');
    const rollup = readFileSync(`/proc/${guard}/smaps_rollup`, 'utf8');
    expect(Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1])).toBeLessThan(3072);
    await containerd.remove('guard');
    await eventually('the supervisor to end', async () => (await supervisors()).length === 0);
  });

  it('ends the container when its supervisor ends', async () => {
    await containerd.detached('orphan', ['sh', '-c', 'while :; do uname >/dev/null; done']);
    const [guard = 0] = await supervisors();
    process.kill(guard, 'SIGKILL');
    await eventually('the container to stop', async () => (await containerd.status('orphan')) === 'STOPPED');
    await containerd.remove('orphan');
  });

  it('ends the container when its supervisor ends while no engine is there', async () => {
    await containerd.detached('alone', ['sleep', '1000']);
    const pid = (await containerd.tasks()).get('alone')?.pid ?? 0;
    const engine = /engine ready.* pid=(\d+)/.exec(
      containerd.engineLog().split('\n').filter(Boolean).at(-1) ?? '',
    );
    const all = [...containerd.engineLog().matchAll(/engine ready.* pid=(\d+)/g)];
    const enginePid = Number(engine?.[1] ?? all.at(-1)?.[1]);
    process.kill(enginePid, 'SIGSTOP');
    const [guard = 0] = await supervisors();
    process.kill(guard, 'SIGKILL');
    await eventually('the process to be gone', () => {
      try {
        return statusOf(pid, 'State').startsWith('Z');
      } catch {
        return true;
      }
    });
    process.kill(enginePid, 'SIGCONT');
    await eventually('the container to stop', async () => (await containerd.status('alone')) === 'STOPPED');
    await containerd.remove('alone');
  });

  it('shows its own view of the system', async () => {
    const script =
      'uname -r; uname -v; cat /proc/version /proc/cmdline; ls /sys; ls /proc/acpi 2>/dev/null | wc -l';
    const result = await containerd.run('view', ['sh', '-c', script]);
    expect(result.stdout).toMatch(/^\d+\.\d+\.0\n#1 SMP\ndevices\n(fs\n)?kernel\n0\n$/);
  });

  it('counts memory by the limit', async () => {
    const flags = ['--rm', '--memory-limit', String(64 << 20), ...debian];
    const script = '$i = "\\0" x 112; syscall(99, $i); print unpack("x32 Q x64 L", $i)';
    const result = await containerd.run('memory', ['perl', '-e', script], { flags });
    expect(result).toMatchObject({ code: 0, stderr: '', stdout: `${64 << 20}1` });
  });

  it('confines by Landlock where a pod asks for it', async () => {
    const flags = ['--rm', '--annotation', 'io.bulkhead.sentry.landlock=true'];
    const script = 'echo x > /tmp/f && mv /tmp/f /root/g && cat /root/g && ls /bin/sh';
    const result = await containerd.run('landlock', ['sh', '-c', script], { flags });
    expect(result).toMatchObject({ code: 0, stdout: 'x\n/bin/sh\n', stderr: '' });
  });

  it.each([
    ['hostnet', ['--net-host'], /does not share the host's network namespace; use the namespace or vm wall/],
    ['privileged', ['--privileged'], /sentry wall/],
    [
      'device',
      ['--device', '/dev/kmsg'],
      /device \/dev\/kmsg: the sentry wall hands no devices of the host over/,
    ],
  ])('refuses %s and names the wall that can', async (id, flags, message) => {
    const result = await containerd.run(id, ['true'], { flags });
    expect(result.code).not.toBe(0);
    expect(result.stderr).toMatch(message);
    await containerd.ctr(['container', 'rm', id]);
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
    expect(await supervisors()).toEqual([]);
  });
});
