/** Resources by the command line where there is cgroup v2 alone, mounted with nsdelegate as systemd does. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Cli, type Config } from '../cli/lib/cli.ts';
import { eventually } from '../e2e/lib/exec.ts';

const MIB = 1 << 20;
const cli = new Cli();
let plain: Config;

beforeAll(async () => {
  await cli.prepare();
  plain = JSON.parse(readFileSync(cli.configPath, 'utf8'));
});
afterAll(() => cli.destroy());
beforeEach(() => {
  cli.configure((config) => {
    Object.assign(config, structuredClone(plain));
    config.linux.namespaces = [
      ...config.linux.namespaces.filter(({ type }: { type: string }) => type !== 'cgroup'),
      { type: 'cgroup' },
    ];
  });
});
afterEach(() => cli.clean());

/** The container's own directory, by its init's cgroup as the host has it. */
const cgroup = async (id: string): Promise<string> => {
  const pid = (await cli.state(id)).pid;
  const [, path] = /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8')) ?? [];
  return join('/sys/fs/cgroup', path ?? 'none');
};
const value = (dir: string, name: string): string => readFileSync(join(dir, name), 'utf8').trim();
const resources = (change: Config): void => {
  cli.configure((config) => (config.linux.resources = { ...config.linux.resources, ...change }));
};

describe('this machine', () => {
  it('has the unified hierarchy alone', () => {
    const mounts = readFileSync('/proc/self/mounts', 'utf8');
    expect(mounts).toMatch(/ \/sys\/fs\/cgroup cgroup2 \S*nsdelegate/);
    expect(mounts).not.toMatch(/ cgroup /);
    expect(value('/sys/fs/cgroup', 'cgroup.controllers').split(' ')).toEqual(
      expect.arrayContaining(['cpuset', 'cpu', 'io', 'memory', 'pids']),
    );
  });
});

describe('a container with a cgroup namespace', () => {
  it('sees its own cgroup as the root', async () => {
    const result = await withArgs(['cat', '/proc/self/cgroup']);
    expect(result).toMatchObject({ code: 0, stdout: '0::/\n', stderr: '' });
  });

  it('is joined by exec, in the same cgroup and namespace', async () => {
    const id = await cli.detached(['sleep', '1000']);
    const script =
      'cat /proc/self/cgroup; [ $(readlink /proc/self/ns/cgroup) = $(readlink /proc/1/ns/cgroup) ] && echo same; exit 5';
    const result = await cli.run(['exec', id, 'sh', '-c', script]);
    expect(result).toMatchObject({ code: 5, stdout: '0::/\nsame\n', stderr: '' });
  });

  it('mounts its cgroup, read-only as its configuration says', async () => {
    cli.configure((config) => {
      config.mounts.push({
        destination: '/sys/fs/cgroup',
        type: 'cgroup',
        source: 'cgroup',
        options: ['nosuid', 'noexec', 'nodev', 'ro'],
      });
    });
    resources({ pids: { limit: 77 } });
    const script = 'cat /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only';
    expect(await withArgs(['sh', '-c', script])).toMatchObject({ code: 0, stdout: '77\nread-only\n' });
  });
});

describe('limits', () => {
  it('are in the files of cgroup v2', async () => {
    resources({
      memory: { limit: 64 * MIB, reservation: 32 * MIB, swap: 96 * MIB },
      pids: { limit: 50 },
      cpu: { shares: 1024, quota: 50_000, period: 100_000, cpus: '0' },
    });
    const dir = await cgroup(await cli.detached(['sleep', '1000']));
    expect(value(dir, 'memory.max')).toBe(String(64 * MIB));
    expect(value(dir, 'memory.low')).toBe(String(32 * MIB));
    // OCI's swap is memory and swap together; v2 counts swap alone.
    expect(value(dir, 'memory.swap.max')).toBe(String(32 * MIB));
    expect(value(dir, 'pids.max')).toBe('50');
    expect(value(dir, 'cpu.max')).toBe('50000 100000');
    expect(value(dir, 'cpuset.cpus')).toBe('0');
  });

  it('change by update', async () => {
    const id = await cli.detached(['sleep', '1000']);
    const dir = await cgroup(id);
    await cli.ok('update', '--memory', String(48 * MIB), '--pids-limit', '33', '--cpu-quota', '25000', id);
    expect(value(dir, 'memory.max')).toBe(String(48 * MIB));
    expect(value(dir, 'pids.max')).toBe('33');
    expect(value(dir, 'cpu.max')).toMatch(/^25000 /);
  });

  it('of memory kill, which the cgroup counts', async () => {
    resources({ memory: { limit: 24 * MIB, swap: 24 * MIB } });
    // The init stays: its child is the one that grows.
    const id = await cli.detached(['sh', '-c', '(tail /dev/zero); sleep 1000']);
    const dir = await cgroup(id);
    await eventually('a kill', () => /^oom_kill [1-9]/m.test(value(dir, 'memory.events')));
    expect(await cli.status(id)).toBe('running');
  });

  it('of memory end a container whose init grows', async () => {
    resources({ memory: { limit: 24 * MIB, swap: 24 * MIB } });
    expect((await withArgs(['tail', '/dev/zero'])).code).toBe(137);
  });

  it('of processes stop forks', async () => {
    resources({ pids: { limit: 5 } });
    const script = 'for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; wait';
    const result = await withArgs(['sh', '-c', script]);
    expect(result.code).not.toBe(0);
    expect(result.stderr).toMatch(/fork.*Resource temporarily unavailable/);
  });
});

describe('devices', () => {
  it('are those of the rules, by a BPF program', async () => {
    cli.configure((config) => {
      const sets = config.process.capabilities;
      for (const name of Object.keys(sets)) sets[name] = [...sets[name], 'CAP_MKNOD'];
    });
    resources({
      devices: [
        { allow: false, access: 'rwm' },
        { allow: true, type: 'c', major: 1, minor: 5, access: 'rwm' },
      ],
    });
    const script = [
      'cd /dev/shm || exit 1',
      'mknod zero c 1 5 && head -c 3 zero | wc -c',
      // Every container may make nodes (runc's defaults), but not open what no rule names: the kernel's messages.
      'mknod kmsg c 1 11 && (head -c 1 kmsg >/dev/null 2>&1 || echo unreadable)',
    ].join('; ');
    cli.configure((config) => {
      for (const mount of config.mounts) {
        if (mount.destination === '/dev/shm')
          mount.options = ['nosuid', 'noexec', 'mode=1777', 'size=65536k'];
      }
    });
    const result = await withArgs(['sh', '-c', script]);
    expect(result).toMatchObject({ code: 0, stdout: '3\nunreadable\n' });
  });
});

describe('the life of a container', () => {
  it('is frozen and thawed', async () => {
    const id = await cli.detached(['sh', '-c', 'while :; do date +%s%N > /dev/shm/now; done']);
    const dir = await cgroup(id);
    await cli.ok('pause', id);
    expect(value(dir, 'cgroup.events')).toMatch(/^frozen 1$/m);
    expect(await cli.status(id)).toBe('paused');
    await cli.ok('resume', id);
    expect(value(dir, 'cgroup.events')).toMatch(/^frozen 0$/m);
    expect(await cli.status(id)).toBe('running');
  });

  it('has statistics', async () => {
    const id = await cli.detached([
      'sh',
      '-c',
      'i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; sleep 1000',
    ]);
    const stats = async (): Promise<Config> => JSON.parse(await cli.ok('events', '--stats', id)).data;
    await eventually('processor time', async () => (await stats()).cpu.usage.total > 0);
    const { memory, pids } = await stats();
    expect(memory.usage.usage).toBeGreaterThan(0);
    expect(pids.current).toBe(1);
  });

  it('ends with all its processes by kill --all, frozen or not', async () => {
    const id = await cli.detached(['sh', '-c', 'sleep 1000 & sleep 1000 & wait']);
    const dir = await cgroup(id);
    await cli.ok('pause', id);
    await cli.ok('kill', '--all', id, 'KILL');
    await eventually('the end', async () => (await cli.status(id)) === 'stopped');
    await cli.ok('delete', id);
    expect(existsSync(dir)).toBe(false);
  });

  it('leaves nothing behind', async () => {
    const id = await cli.detached(['sleep', '1000']);
    await cli.ok('delete', '--force', id);
    expect(cli.leftovers()).toEqual([]);
  });
});

async function withArgs(args: string[]): ReturnType<Cli['run']> {
  cli.configure((config) => (config.process.args = args));
  return cli.run(['run', cli.id()], { timeout: 30_000 });
}
