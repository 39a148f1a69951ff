import { mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually } from '../lib/exec.ts';
import { hypervisors, machineDirectories, shareDaemons, vm } from './machines.ts';

const mount = (source: string, destination: string, options: string): string[] => [
  '--mount',
  `type=bind,src=${source},dst=${destination},options=${options}`,
];

/** What the vm wall promises beyond what every runtime does; that is tested by the rest of the suite. */
describe('the vm wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: vm });
  });
  afterAll(() => containerd?.stop());

  const directory = (name: string): string => {
    const path = join(containerd.dir, name);
    mkdirSync(path, { recursive: true });
    return path;
  };

  it('runs a container on a kernel of its own', async () => {
    const result = await containerd.run('kernel', ['uname', '-r']);
    expect(result.stderr).toBe('');
    expect(result.stdout.trim()).not.toBe(release());
    expect(result.stdout).toMatch(/^\d+\.\d+/);
  });

  it('shows containerd the hypervisor, in a network namespace of its own', async () => {
    await containerd.detached('seen', ['sleep', '1000']);
    const pid = (await containerd.tasks()).get('seen')?.pid ?? 0;
    expect(hypervisors(containerd)).toEqual([pid]);
    expect(readlinkSync(`/proc/${pid}/ns/net`)).not.toBe(readlinkSync('/proc/self/ns/net'));
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/^Seccomp:\s+2$/m);
    await containerd.remove('seen');
    expect(hypervisors(containerd)).toEqual([]);
    expect(shareDaemons(containerd)).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });

  it('writes to a volume on the host, and reads what the host writes', async () => {
    const volume = directory('volume');
    writeFileSync(join(volume, 'from-host'), 'hello\n');
    const flags = ['-d', ...mount(volume, '/volume', 'rbind:rw')];
    const script =
      'cat /volume/from-host; echo inside > /volume/from-guest; until [ -e /volume/go ]; do sleep 0.1; done';
    await containerd.run('volume', ['sh', '-c', script], { flags });
    await eventually(
      'the write of the guest',
      () => readText(join(volume, 'from-guest')) === 'inside\n',
      20_000,
    );
    writeFileSync(join(volume, 'go'), '');
    await eventually(
      'the guest to see the write of the host',
      async () => (await containerd.status('volume')) === 'STOPPED',
      20_000,
    );
    await containerd.remove('volume');
  });

  it('refuses writes to a read-only volume, also after a remount in the guest', async () => {
    const volume = directory('read-only');
    writeFileSync(join(volume, 'file'), 'untouched\n');
    const flags = ['--rm', ...mount(volume, '/volume', 'rbind:ro'), '--cap-add', 'CAP_SYS_ADMIN'];
    const script =
      'echo x > /volume/file; mount -o remount,bind,rw /volume; echo y > /volume/file; touch /volume/new';
    const result = await containerd.run('read-only', ['sh', '-c', script], { flags });
    expect(result.code).not.toBe(0);
    expect(result.stderr.match(/Read-only file system/g)?.length).toBeGreaterThanOrEqual(2);
    expect(readFileSync(join(volume, 'file'), 'utf8')).toBe('untouched\n');
  });

  it('binds single files, and gives tmpfs and /dev/shm', async () => {
    const file = join(directory('files'), 'resolv.conf');
    writeFileSync(file, 'nameserver 192.0.2.1\n');
    const flags = [
      '--rm',
      ...mount(file, '/etc/resolv.conf', 'rbind:ro'),
      ...['--mount', 'type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m'],
    ];
    const script =
      'cat /etc/resolv.conf; df -k /scratch | tail -1 | tr -s " " | cut -d" " -f2; mount | grep -c " /dev/shm "';
    const result = await containerd.run('files', ['sh', '-c', script], { flags });
    expect(result).toMatchObject({ stderr: '', stdout: 'nameserver 192.0.2.1\n1024\n1\n' });
  });

  it('filters system calls and keeps capabilities as on the host', async () => {
    const result = await containerd.run(
      'confined',
      ['grep', '-E', '^(Seccomp|CapBnd):', '/proc/self/status'],
      {
        flags: ['--rm', '--seccomp', '--cap-drop', 'CAP_CHOWN'],
      },
    );
    expect(result.stdout).toMatch(/^Seccomp:\s+2$/m);
    // CAP_CHOWN is bit 0.
    expect(result.stdout).toMatch(/^CapBnd:\s+[0-9a-f]+[02468ace]$/m);
  });

  it('gives memory and processors for the limits', async () => {
    const limits = ['--memory-limit', String(600 << 20), '--cpu-period', '100000', '--cpu-quota', '200000'];
    const script = 'nproc; grep MemTotal /proc/meminfo | tr -dc 0-9';
    const result = await containerd.run('sized', ['sh', '-c', script], { flags: ['--rm', ...limits] });
    const [processors, memory] = result.stdout.trim().split('\n').map(Number);
    expect(processors).toBe(2);
    expect(memory).toBeGreaterThan(500 << 10);
  });

  it('limits memory in the guest, and tells when the limit kills', async () => {
    const events = await containerd.events();
    const flags = ['-d', '--memory-limit', String(24 << 20)];
    await containerd.run('oom', ['sh', '-c', 'sleep 1; tail /dev/zero; sleep 1000'], { flags });
    await events.wait('/tasks/oom', 'oom');
    await containerd.remove('oom');
  });

  it('gives every machine its own random numbers, identity and clock', async () => {
    const script = 'cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | md5sum; date +%s';
    const ids = Array.from({ length: 4 }, (_, n) => `clone-${n}`);
    const results = await Promise.all(ids.map((id) => containerd.run(id, ['sh', '-c', script])));
    const lines = results.map(({ stdout }) => stdout.trim().split('\n'));
    expect(new Set(lines.map(([boot]) => boot)).size).toBe(4);
    expect(new Set(lines.map(([, random]) => random)).size).toBe(4);
    for (const [, , seconds] of lines) {
      expect(Math.abs(Number(seconds) - Date.now() / 1000)).toBeLessThan(60);
    }
  });

  it('runs ten pods at once', async () => {
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, n) =>
        containerd.run(`many-${n}`, ['sh', '-c', `echo ${n}; exit ${n}`], { timeout: 150_000 }),
      ),
    );
    expect(results.map(({ code, stdout, stderr }) => ({ code, stdout, stderr }))).toEqual(
      results.map((_, n) => ({ code: n, stdout: `${n}\n`, stderr: '' })),
    );
    expect(await containerd.leaks()).toEqual([]);
  });

  it('boots without a template when it is told to, as large as annotations with Kata’s names say', async () => {
    const prefix = 'io.katacontainers.config.hypervisor.';
    const vmConfig = `template = false\nannotations = ["${prefix}default_m*"]\n`;
    const cold = await PrivateContainerd.start({ runtime: vm, vmConfig });
    try {
      const [memory, processors] = [`${prefix}default_memory=400`, `${prefix}default_vcpus=2`];
      const result = await cold.run('cold', ['sh', '-c', 'grep MemTotal /proc/meminfo; nproc; exit 12'], {
        flags: ['--rm', '--annotation', memory, '--annotation', processors],
      });
      expect(result).toMatchObject({ code: 12, stderr: '' });
      const [, mib, count] = /(\d+) kB\n(\d+)\n$/.exec(result.stdout) ?? [];
      expect(Number(mib) / 1024).toBeGreaterThan(320);
      expect(Number(mib) / 1024).toBeLessThan(400);
      // This one is not allowed.
      expect(count).toBe('1');
      expect(await cold.leaks()).toEqual([]);
    } finally {
      await cold.stop();
    }
  });

  it('leaves nothing behind', async () => {
    expect(await containerd.leaks()).toEqual([]);
    expect(machineDirectories(containerd)).toEqual([]);
  });
});

const readText = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};
