import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { encodePlan } from '../plan/encode.ts';
import { addon, findAddon, isAddonError } from './index.ts';
import { Launcher } from './launcher.ts';

const dir = mkdtempSync(join(tmpdir(), 'bulkhead-addon-'));
afterAll(() => rmSync(dir, { recursive: true }));

const errorOf = (call: () => unknown): unknown => {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error('did not throw');
};
const failsWith = (code: string, call: () => unknown): void => {
  const error = errorOf(call);
  expect(isAddonError(error), String(error)).toBe(true);
  expect(error).toMatchObject({ code });
};

/** Mount point of the first hierarchy of a kind, and its options. */
const cgroupMount = (match: (type: string, options: string) => boolean): string | undefined =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .find((fields) => match(fields[fields.indexOf('-') + 1] ?? '', fields.at(-1) ?? ''))?.[4];

describe('errors', () => {
  it('carry errno, code, system call and path', () => {
    const error = errorOf(() => addon().umount('/no/such/mount', 0));
    expect(error).toMatchObject({ errno: 2, code: 'ENOENT', syscall: 'umount', path: '/no/such/mount' });
    expect((error as Error).message).toBe('umount /no/such/mount: no such file or directory');
  });

  it('of arguments are type errors that name the argument', () => {
    const native = addon() as unknown as Record<string, (...args: unknown[]) => unknown>;
    const cases: [string, unknown[], string][] = [
      ['waitPidGone', ['1'], 'pid: expected an integer from 1 to 4194304'],
      ['pidfdSendSignal', [1, 5, 0], 'startTime: expected a bigint'],
      ['pidfdSendSignal', [1, undefined, 65], 'signum: expected an integer from 0 to 64'],
      ['mount', ['a', 'b', 'c', -1, ''], 'flags: expected an integer from 0 to 4294967295'],
      ['setWinsize', [0, 65536, 1], 'width: expected an integer from 0 to 65535'],
      ['readFileInRoot', ['/', 'x'], 'limit: expected an integer from 0 to 67108864'],
      ['flock', [-1, true], 'fd: expected an integer from 0 to 2147483647'],
      ['sendFd', ['/x', 0, ''], 'message: expected at least one character'],
      ['attachDeviceProgram', ['/', [1]], 'instructions: expected a Uint8Array'],
      ['watchCgroupV1Event', ['/', 'f', 1], 'onEvent: expected a function'],
      ['compileSeccomp', [undefined], 'policy: expected an object'],
      ['compileSeccomp', [{ defaultAction: 0, archs: [], names: ['a'] }], 'actions: wrong array type'],
    ];
    for (const [name, args, message] of cases) {
      const error = errorOf(() => native[name]?.(...args));
      expect(error, name).toBeInstanceOf(TypeError);
      expect((error as Error).message).toBe(message);
    }
  });

  it('of a policy whose arrays do not agree are refused', () => {
    const error = errorOf(() =>
      addon().compileSeccomp({
        defaultAction: 0,
        archs: [],
        names: ['read'],
        actions: new Uint32Array(1),
        conditionCounts: new Uint32Array([2]),
        conditions: new BigUint64Array(4),
      }),
    );
    expect((error as Error).message).toBe('rules: array lengths do not agree');
  });
});

describe('processes', () => {
  it('waits for one that is no child of ours', async () => {
    const parent = spawn('/bin/sh', ['-c', 'sleep 30 & echo $!; wait'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(String(line));
    let gone = false;
    const waiting = addon()
      .waitPidGone(pid)
      .then(() => (gone = true));
    await sleep(20);
    expect(gone).toBe(false);
    addon().pidfdSendSignal(pid, addon().processStartTime(pid), 9);
    await waiting;
    await once(parent, 'exit');
    await addon().waitPidGone(pid);
  });

  it('does not signal another process that got the same number', () => {
    const start = addon().processStartTime(process.pid);
    addon().pidfdSendSignal(process.pid, start, 0);
    addon().pidfdSendSignal(process.pid, undefined, 0);
    failsWith('ESRCH', () => addon().pidfdSendSignal(process.pid, start + 1n, 0));
    failsWith('ESRCH', () => addon().pidfdSendSignal(4194304, undefined, 0));
    failsWith('ESRCH', () => addon().processStartTime(4194304));
  });

  it('reads the start time as procfs has it', () => {
    const stat = readFileSync('/proc/self/stat', 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    expect(addon().processStartTime(process.pid)).toBe(BigInt(fields[19] ?? ''));
  });

  it('becomes the parent of orphans', () => {
    const script = `
      require(process.argv[1]).setSubreaper();
      const { execFileSync } = require('node:child_process');
      const orphan = execFileSync('/bin/sh', ['-c', 'sleep 5 >/dev/null 2>&1 & echo $!'], { encoding: 'utf8' }).trim();
      console.log(require('node:fs').readFileSync('/proc/' + orphan + '/stat', 'utf8').split(' ')[3] === String(process.pid));
      process.kill(Number(orphan), 'SIGKILL');`;
    expect(execFileSync(process.execPath, ['-e', script, findAddon()], { encoding: 'utf8' })).toBe('true\n');
  });
});

describe('threads', () => {
  it('are put onto processors', () => {
    const sleeper = spawn('sleep', ['60']);
    try {
      const pid = sleeper.pid ?? 0;
      const allowed = (): string =>
        /Cpus_allowed_list:\s*(\S+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
      const first = Number(/^\d+/.exec(allowed())?.[0]);
      const mask = Buffer.alloc(Math.floor(first / 8) + 1);
      mask[first >> 3] = 1 << (first & 7);
      addon().setAffinity(pid, mask);
      expect(allowed()).toBe(String(first));
      failsWith('EINVAL', () => addon().setAffinity(pid, Buffer.alloc(8)));
    } finally {
      sleeper.kill('SIGKILL');
    }
    failsWith('ESRCH', () => addon().setAffinity(4194304, Buffer.from([1])));
  });
});

describe('files', () => {
  const root = join(dir, 'root');
  mkdirSync(join(root, 'etc'), { recursive: true });
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n');
  writeFileSync(join(dir, 'passwd'), 'outside\n');
  const read = (path: string, limit = 4096): string => String(addon().readFileInRoot(root, path, limit));

  it('are read beneath a root, whatever links say', () => {
    symlinkSync('/etc/passwd', join(root, 'absolute'));
    symlinkSync('../../../../passwd', join(root, 'etc/escape'));
    expect(read('etc/passwd')).toBe('root:x:0:0::/root:/bin/sh\n');
    expect(read('/absolute')).toBe('root:x:0:0::/root:/bin/sh\n');
    failsWith('ENOENT', () => read('etc/escape'));
    failsWith('ENOENT', () => read('../passwd'));
  });

  it('are replaced and listed beneath a root, whatever links say', () => {
    const write = (path: string, text: string): void =>
      addon().writeFileInRoot(root, path, Buffer.from(text), 0o644);
    mkdirSync(join(root, 'usr/local'), { recursive: true });
    symlinkSync('/opt/cuda', join(root, 'usr/local/cuda'));
    symlinkSync('../../..', join(root, 'opt-up'));
    mkdirSync(join(root, 'opt/cuda'), { recursive: true });
    write('usr/local/cuda/compat/made', 'one');
    write('/opt/cuda/compat/made', 'two');
    write('opt-up/top', 'x');
    expect(read('opt/cuda/compat/made')).toBe('two');
    expect(addon().listInRoot(root, 'usr/local/cuda/compat')).toEqual(['made']);
    // ".." at the root stays there.
    expect(read('top')).toBe('x');
    symlinkSync(join(dir, 'passwd'), join(root, 'etc/link'));
    write('etc/link', 'replaced');
    expect([read('etc/link'), readFileSync(join(dir, 'passwd'), 'utf8')]).toEqual(['replaced', 'outside\n']);
    failsWith('EISDIR', () => write('etc', 'x'));
    failsWith('ENOTDIR', () => write('etc/passwd/x', 'x'));
    failsWith('ENOTDIR', () => addon().listInRoot(root, 'etc/passwd'));
    expect(addon().listInRoot(root, 'etc').sort()).toEqual(['escape', 'link', 'passwd']);
  });

  it('are asked whether stores to them are durable', () => {
    // What is below /tmp is no persistent memory; where it is, only the lab looks.
    const before = readdirSync(root);
    failsWith('EOPNOTSUPP', () => addon().mapSync(root, 4096));
    failsWith('EOPNOTSUPP', () => addon().mapSync(join(root, 'etc/passwd'), 1));
    failsWith('ENOENT', () => addon().mapSync(join(root, 'no'), 4096));
    expect(readdirSync(root)).toEqual(before);
  });

  it('are read and written by mappings where there is nothing else', () => {
    // Any file can be mapped; device-DAX has no other way, and is in the lab only.
    const path = join(root, 'mapped');
    writeFileSync(path, Buffer.alloc(3 * 8192, 'x'));
    addon().writeMapped(path, 8190, 4096, Buffer.from('abcd'));
    expect(addon().readMapped(path, 8188, 8192, 8).toString()).toBe('xxabcdxx');
    expect(readFileSync(path).indexOf('abcd')).toBe(8190);
    addon().writeMapped(path, 0, 4096, Buffer.alloc(0));
    failsWith('ENOENT', () => addon().readMapped(join(root, 'no'), 0, 4096, 1));
    failsWith('EISDIR', () => addon().writeMapped(root, 0, 4096, Buffer.from('x')));
    failsWith('ENODEV', () => addon().readMapped(root, 0, 4096, 1));
    failsWith('EFBIG', () => addon().writeMapped(path, 0, 4096, Buffer.alloc((64 << 20) + 1)));
    expect(() => addon().readMapped(path, 0, 4095, 1)).toThrow('align');
    expect(() => addon().readMapped(path, 0, 4096, 0)).toThrow('length');
    expect(() => addon().writeMapped(path, -1, 4096, Buffer.from('x'))).toThrow('offset');
  });

  it('must be regular and small enough', () => {
    execFileSync('mkfifo', [join(root, 'fifo')]);
    symlinkSync('/proc/self/root/etc/passwd', join(root, 'magic'));
    failsWith('EINVAL', () => read('fifo'));
    failsWith('EISDIR', () => read('etc'));
    failsWith('EFBIG', () => read('etc/passwd', 25));
    expect(read('etc/passwd', 26)).toHaveLength(26);
    failsWith('ENOENT', () => read('magic'));
    failsWith('ELOOP', () => addon().readFileInRoot('/', '/proc/self/root/etc/passwd', 4096));
    failsWith('ENOENT', () => addon().readFileInRoot(join(dir, 'no'), 'x', 1));
  });

  it('are locked against other opens', () => {
    const path = join(dir, 'lock');
    const first = openSync(path, 'w');
    const second = openSync(path, 'w');
    addon().flock(first, false);
    failsWith('EAGAIN', () => addon().flock(second, true));
    closeSync(first);
    addon().flock(second, true);
    closeSync(second);
  });

  it('are mounted and unmounted', () => {
    const script = `
      const addon = require(process.argv[1]);
      const { readdirSync, writeFileSync } = require('node:fs');
      const target = process.argv[2];
      addon.mount('tmpfs', target, 'tmpfs', 6, 'size=64k,mode=700');
      writeFileSync(target + '/inside', 'x');
      const mounted = readdirSync(target).join();
      addon.umount(target, 2);
      console.log(mounted, readdirSync(target).join());`;
    const target = join(dir, 'mnt');
    mkdirSync(target);
    const args = ['-m', process.execPath, '-e', script, findAddon(), target];
    expect(execFileSync('unshare', args, { encoding: 'utf8' })).toBe('inside \n');
    failsWith('EINVAL', () => addon().umount(target, 0));
    failsWith('ENODEV', () => addon().mount('none', target, 'no-such-fs', 0, ''));
  });
});

describe('sockets', () => {
  it('carry a descriptor, also by a long path', async () => {
    // The receiver is Python: Node cannot take a descriptor from a socket.
    const script = `
import os, socket, sys
os.chdir(sys.argv[1])
server = socket.socket(socket.AF_UNIX); server.bind('s'); server.listen(1); print('ready', flush=True)
message, fds, _, _ = socket.recv_fds(server.accept()[0], 100, 2)
print(message.decode(), len(fds), os.read(fds[0], 100).decode())`;
    for (const name of ['short', 'long'.repeat(30)]) {
      const folder = join(dir, name);
      mkdirSync(folder);
      const receiver = spawn('python3', ['-c', script, folder], { stdio: ['ignore', 'pipe', 'inherit'] });
      let out = '';
      receiver.stdout.on('data', (data: Buffer) => (out += String(data)));
      while (!out.includes('ready')) await sleep(5);
      const file = openSync('/etc/hostname', 'r');
      addon().sendFd(join(folder, 's'), file, '/dev/pts/7');
      closeSync(file);
      await once(receiver, 'close');
      expect(out).toBe(`ready\n/dev/pts/7 1 ${readFileSync('/etc/hostname', 'utf8')}\n`);
    }
    failsWith('ENOENT', () => addon().sendFd(join(dir, 'nobody'), 0, 'x'));
    failsWith('ECONNREFUSED', () => addon().sendFd(join(dir, 'short/s'), 0, 'x'));
  });

  it('tell who is at the other end', async () => {
    const path = join(dir, 'peer.sock');
    const server = createServer().listen(path);
    await once(server, 'listening');
    const script = `require('node:net').connect(process.argv[1]).resume()`;
    const client = spawn(process.execPath, ['-e', script, path], { stdio: 'inherit' });
    const [socket] = (await once(server, 'connection')) as [Socket & { _handle: { fd: number } }];
    expect(addon().peerCredentials(socket._handle.fd)).toEqual({ pid: client.pid, uid: 0, gid: 0 });
    socket.end();
    server.close();
    await once(client, 'exit');
    const file = openSync('/etc/hostname', 'r');
    failsWith('ENOTSOCK', () => addon().peerCredentials(file));
    closeSync(file);
  });
});

describe('terminals', () => {
  it('are put into raw mode and back', async () => {
    const launcher = new Launcher(join(import.meta.dirname, '../../build/native/bulkhead-init'));
    const launched = launcher.launch({
      plan: encodePlan({
        version: 1,
        steps: [
          { enterRoot: { path: '/' } },
          { terminal: { width: 80, height: 24 } },
          { exec: { file: '/bin/sleep', args: ['sleep', '30'] } },
        ],
      }),
    });
    await launched.advance();
    const master = launched.console ?? -1;
    const modes = (): string =>
      spawnSync('stty', ['-a'], { stdio: [master, 'pipe', 'inherit'], encoding: 'utf8' }).stdout;
    const before = modes();
    expect(before).toMatch(/[^-]icanon/);
    const raw = addon().setRawMode(master);
    expect(modes()).toMatch(/-icanon/);
    expect(modes()).toMatch(/-echo /);
    expect(modes()).toMatch(/[^-]opost/);
    raw.restore();
    expect(modes()).toBe(before);
    launched.signal(9);
    await launched.exited;
    closeSync(master);
    failsWith('ENOTTY', () => {
      const file = openSync('/etc/hostname', 'r');
      try {
        addon().getWinsize(file);
      } finally {
        closeSync(file);
      }
    });
  });
});

describe('device programs', () => {
  const mount = cgroupMount((type) => type === 'cgroup2');
  /** "r0 = value; exit": allow everything (1) or nothing (0). */
  const always = (value: number): Uint8Array =>
    Uint8Array.from([0xb7, 0, 0, 0, value, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);

  it.skipIf(mount === undefined)('replace one another (needs a cgroup2 mount)', () => {
    const cgroup = join(mount ?? '', `bulkhead-test-${process.pid}`);
    const open = (): number | null =>
      spawnSync('/bin/sh', ['-c', `echo 0 > ${cgroup}/cgroup.procs && cat /dev/null`], { stdio: 'ignore' })
        .status;
    mkdirSync(cgroup);
    try {
      expect(addon().countDevicePrograms(cgroup)).toBe(0);
      expect(open()).toBe(0);
      addon().attachDeviceProgram(cgroup, always(0));
      expect(open()).toBe(1);
      for (let round = 0; round < 20; round += 1) addon().attachDeviceProgram(cgroup, always(1));
      expect(addon().countDevicePrograms(cgroup)).toBe(1);
      expect(open()).toBe(0);
      addon().attachDeviceProgram(cgroup, always(0));
      expect(open()).toBe(1);
      failsWith('EINVAL', () => addon().attachDeviceProgram(cgroup, new Uint8Array(0)));
      failsWith('EINVAL', () => addon().attachDeviceProgram(cgroup, new Uint8Array(7)));
      // The verifier: r0 is never set.
      failsWith('EACCES', () => addon().attachDeviceProgram(cgroup, always(1).slice(8)));
      expect(addon().countDevicePrograms(cgroup)).toBe(1);
      failsWith('ENOENT', () => addon().attachDeviceProgram(`${cgroup}/none`, always(1)));
      failsWith('EBADF', () => addon().attachDeviceProgram('/tmp', always(1)));
    } finally {
      rmdirSync(cgroup);
    }
  });
});

describe('cgroup v1 events', () => {
  const mount = cgroupMount((type, options) => type === 'cgroup' && options.split(',').includes('memory'));

  it.skipIf(mount === undefined)(
    'come at an out-of-memory kill (needs the v1 memory controller)',
    async () => {
      const cgroup = join(mount ?? '', `bulkhead-test-${process.pid}`);
      mkdirSync(cgroup);
      const counts: number[] = [];
      try {
        writeFileSync(join(cgroup, 'memory.limit_in_bytes'), String(16 << 20));
        const watch = addon().watchCgroupV1Event(cgroup, 'memory.oom_control', (count) => counts.push(count));
        const script = `echo 0 > ${cgroup}/cgroup.procs && exec tail /dev/zero`;
        const hungry = spawn('/bin/sh', ['-c', script], { stdio: 'ignore' });
        const [, signal] = (await once(hungry, 'exit')) as [number | null, string | null];
        expect(signal).toBe('SIGKILL');
        for (let round = 0; round < 100 && counts.length === 0; round += 1) await sleep(5);
        expect(counts.length).toBeGreaterThan(0);
        watch.close();
        watch.close();
        failsWith('ENOENT', () => addon().watchCgroupV1Event(cgroup, 'no.such.file', () => {}));
        failsWith('EINVAL', () =>
          addon().watchCgroupV1Event(cgroup, 'memory.pressure_level', () => {}, 'no-level'),
        );
      } finally {
        rmdirSync(cgroup);
      }
    },
  );

  it.skipIf(mount === undefined)(
    'come when the cgroup is removed (needs the v1 memory controller)',
    async () => {
      const cgroup = join(mount ?? '', `bulkhead-test-gone-${process.pid}`);
      mkdirSync(cgroup);
      const seen = new Promise<boolean>((resolve) => {
        const watch = addon().watchCgroupV1Event(cgroup, 'memory.oom_control', () => {
          watch.close();
          resolve(existsSync(cgroup));
        });
        rmdirSync(cgroup);
      });
      const deadline = sleep(5000, 'no event');
      expect(await Promise.race([seen, deadline])).toBe(false);
    },
  );
});

describe('the addon', () => {
  it('loads in several workers and again after they ended', async () => {
    const { Worker } = await import('node:worker_threads');
    for (let round = 0; round < 3; round += 1) {
      const workers = Array.from({ length: 4 }, () => {
        const script = `const { parentPort, workerData } = require('node:worker_threads');
          parentPort.postMessage(typeof require(workerData).launch);`;
        return new Worker(script, { eval: true, workerData: findAddon() });
      });
      const answers = await Promise.all(
        workers.map(async (worker) => (await once(worker, 'message')) as unknown[]),
      );
      expect(answers.flat()).toEqual(['function', 'function', 'function', 'function']);
      await Promise.all(workers.map((worker) => worker.terminate()));
    }
  });
});
