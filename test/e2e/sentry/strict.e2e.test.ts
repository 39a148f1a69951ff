import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrivateContainerd } from '../lib/containerd.ts';
import { eventually } from '../lib/exec.ts';
import { scratch } from '../lib/paths.ts';
import { bind, debian, program } from './programs.ts';

const strict = ['--annotation', 'io.bulkhead.sentry.profile=strict'];

/** Serves one descriptor of the host's root directory to whoever connects. */
const leak = `
import socket, os, sys, array
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); s.listen(1)
print("ready", flush=True)
c, _ = s.accept(); socket.send_fds(c, [b"x"], [os.open("/", os.O_RDONLY)]); c.recv(1)
`;

/** What the directory that came in is good for. */
const useLeak = `
import socket, os
s = socket.socket(socket.AF_UNIX); s.connect("/leak/s")
_, (fd,), _, _ = socket.recv_fds(s, 1, 1)
def attempt(f):
    try: f(); return "reached"
    except OSError as e: return str(e.errno)
print(attempt(lambda: os.open("etc/hostname", os.O_RDONLY, dir_fd=fd)))
print(attempt(lambda: os.stat("etc/hostname", dir_fd=fd)))
print(attempt(lambda: os.mkdir("tmp/bulkhead-leak", dir_fd=fd)))
print(attempt(lambda: os.open("/proc/self/fd/%d/etc/hostname" % fd, os.O_RDONLY)))
os.fchdir(fd)
print(attempt(lambda: os.open("etc/hostname", os.O_RDONLY)))
print(attempt(lambda: os.open("../etc/hostname", os.O_RDONLY)))
print(attempt(lambda: os.open("/etc/ssl", os.O_RDONLY)))
`;

/** Opens and makes files while loops of the same container come and go on all processors. */
const busy = `
import os, subprocess
loop = ["/bin/sh", "-c", "while :; do :; done"]
good = 0
for turn in range(6):
    loops = [subprocess.Popen(loop) for _ in range(2 * os.cpu_count() if turn % 2 else 0)]
    for i in range(500):
        with open("/scratch/f%d" % i, "w") as f: f.write(str(i))
        with open("/scratch/f%d" % i) as f: good += f.read() == str(i)
        os.unlink("/scratch/f%d" % i)
    for one in loops: one.kill(); one.wait()
print(good)
`;

describe('the profile strict of the sentry wall', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ runtime: 'io.containerd.bulkhead-sentry.v2' });
  });
  afterAll(() => containerd?.stop());

  it('answers every call with a path as the kernel does', async () => {
    const tmpfs = ['--mount', 'type=tmpfs,src=tmpfs,dst=/w,options=rw:mode=777'];
    const flags = ['--rm', ...bind(await program('paths'), '/paths'), ...tmpfs];
    const kernel = await containerd.run('paths-kernel', ['/paths'], { flags, timeout: 150_000 });
    const own = await containerd.run('paths-strict', ['/paths'], {
      flags: [...flags, ...strict],
      timeout: 150_000,
    });
    expect([kernel.stderr, own.stderr]).toEqual(['', '']);
    const expected = kernel.stdout.trim().split('\n');
    expect(expected.length).toBeGreaterThan(4000);
    expect(own.stdout.trim().split('\n')).toEqual(expected);
  });

  it('holds against races and tricks with paths', async () => {
    const path = await program('escape_paths');
    const flags = ['--rm', ...strict, ...bind(path, '/escape')];
    const result = await containerd.run('tricks', ['/escape', path], { flags, timeout: 100_000 });
    expect(
      result.stdout
        .trim()
        .split('\n')
        .filter((line) => !line.endsWith(' ok')),
    ).toEqual([]);
    expect(result.stdout.trim().split('\n').length).toBeGreaterThan(10);
    expect(result.code).toBe(0);
  });

  it("makes nothing of a directory of the host's that leaked in", async () => {
    const base = join(scratch(), 'leaks');
    mkdirSync(base, { recursive: true, mode: 0o755 });
    const directory = mkdtempSync(join(base, 'd-'));
    const server = spawn('python3', ['-c', leak, join(directory, 's')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await new Promise((resolve) => server.stdout.once('data', resolve));
      const mount = ['--mount', `type=bind,src=${directory},dst=/leak,options=rbind:rw`];
      const flags = ['--rm', ...strict, ...debian, ...mount];
      const result = await containerd.run('leak', ['python3', '-c', useLeak], { flags });
      expect(result).toMatchObject({ code: 0, stderr: '' });
      const crossDevice = '18';
      const attempts = result.stdout.trim().split('\n');
      // stat(2) tells what it tells: newfstatat is the kernel's (docs/sentry-strict.md). Nothing is opened or made.
      expect(attempts).toEqual([crossDevice, 'reached', ...Array<string>(4).fill(crossDevice), 'reached']);
    } finally {
      server.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it('does not let one pod that floods its supervisor slow another', async () => {
    const flood = 'i=0; while [ $i -lt 30 ]; do (while :; do [ -e /nothing ]; done) & i=$((i+1)); done; wait';
    await containerd.detached('flood', ['sh', '-c', flood], strict);
    await containerd.detached('calm', ['sleep', '1000'], strict);
    try {
      const started = performance.now();
      const result = await containerd.exec('calm', 'look', [
        'sh',
        '-c',
        'ls /bin | wc -l; cat /etc/passwd | head -1',
      ]);
      expect(result.code).toBe(0);
      expect(result.stdout).toContain('root:x:0:0');
      // If the flood held it up it would not come back at all.
      expect(performance.now() - started).toBeLessThan(240_000);
    } finally {
      await containerd.remove('flood');
      await containerd.remove('calm');
    }
  });

  it('answers a container that keeps all processors busy by itself', async () => {
    const flags = ['--rm', ...strict, ...debian];
    const result = await containerd.run('busy', ['python3', '-c', busy], { flags, timeout: 100_000 });
    expect(result).toMatchObject({ code: 0, stderr: '', stdout: '3000\n' });
  }, 120_000);

  it('leaves nothing behind', async () => {
    await eventually('the supervisors to be gone', async () => (await containerd.leaks()).length === 0);
  });
});
