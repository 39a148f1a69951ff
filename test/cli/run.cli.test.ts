import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { eventually, onTerminal, quote, run } from '../e2e/lib/exec.ts';
import { Cli, isRunc, program, type Config, hasHostsIds } from './lib/cli.ts';

const cli = new Cli();
beforeAll(() => cli.prepare());
afterEach(() => cli.clean());
afterAll(() => cli.destroy());

const args = (...words: string[]): void => cli.configure((config) => (config.process.args = words));

describe('run', () => {
  it.each([0, 1, 7, 126, 127, 255])('passes exit code %i on', async (code) => {
    args('sh', '-c', `exit ${code}`);
    expect((await cli.run(['run', cli.id()])).code).toBe(code);
    expect(cli.leftovers()).toEqual([]);
  });

  it.skipIf(!hasHostsIds).each([
    ['TERM', 143],
    ['KILL', 137],
  ])('answers 128 + signal for SIG%s', async (signal, code) => {
    args('sh', '-c', `kill -${signal} $$`);
    // The init of a pid namespace cannot be killed from inside.
    cli.configure(
      (config) => (config.linux.namespaces = config.linux.namespaces.filter((n: Config) => n.type !== 'pid')),
    );
    try {
      expect((await cli.run(['run', cli.id()])).code).toBe(code);
    } finally {
      cli.configure((config) => config.linux.namespaces.push({ type: 'pid' }));
    }
    expect(cli.leftovers()).toEqual([]);
  });

  it('moves the root instead of pivoting with --no-pivot', async () => {
    args('ls', '/etc/passwd');
    const result = await cli.run(['run', '--no-pivot', cli.id()]);
    expect([result.code, result.stdout]).toEqual([0, '/etc/passwd\n']);
  });

  it('connects standard input, output and error', async () => {
    args('sh', '-c', 'cat; echo oops >&2');
    const result = await cli.run(['run', cli.id()], { stdin: 'to and fro' });
    expect(result).toMatchObject({ code: 0, stdout: 'to and fro', stderr: 'oops\n' });
  });

  it('passes a megabyte through unchanged', async () => {
    args('cat');
    const text = Array.from({ length: 100_000 }, (_, index) => `line ${index}\n`).join('');
    const { stdout } = await cli.run(['run', cli.id()], { stdin: text });
    expect(stdout === text).toBe(true);
  });

  it('keeps a container that is to be kept', async () => {
    args('sh', '-c', 'exit 3');
    const id = cli.id();
    expect((await cli.run(['run', '--keep', id])).code).toBe(3);
    expect(await cli.status(id)).toBe('stopped');
    await cli.ok('delete', id);
    expect(cli.leftovers()).toEqual([]);
  });

  it('forwards signals to the container', async () => {
    args('sh', '-c', 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.05; done');
    const id = cli.id();
    const running = cli.leaving('run', id);
    await eventually(
      'ready',
      () => existsSync(join(cli.dir, `${id}.out`)) && cli.output(id).includes('ready'),
    );
    const { pid } = await cli.state(id);
    const parent = /PPid:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    process.kill(Number(parent), 'SIGTERM');
    expect((await running).code).toBe(9);
    expect(cli.output(id)).toBe('ready\ncaught\n');
    expect(cli.leftovers()).toEqual([]);
  });

  it('gives a terminal, and gives ours back', async () => {
    cli.configure((config) => (config.process.terminal = true));
    try {
      args('sh', '-c', 'tty; sleep 0.3; stty size; read x; echo "got <$x>"; exit 4');
      const line = [program, '--root', cli.root, 'run', cli.id()].map(quote).join(' ');
      const [command, words] = onTerminal(
        'sh',
        ['-c', `${line}; code=$?; stty -a | grep -o -- '-\\?icanon'; exit $code`],
        40,
        120,
      );
      const result = await run(command, words, { stdin: 'typed\r', keepStdinOpen: true, cwd: cli.bundle });
      const text = result.stdout.replaceAll('\r', '');
      // What was typed is echoed somewhere in between.
      expect(text).toContain('/dev/pts/0\n');
      expect(text).toContain('40 120\n');
      expect(text).toContain('got <typed>\nicanon\n');
      expect(result.code).toBe(4);
    } finally {
      cli.configure((config) => (config.process.terminal = false));
    }
  });

  it('does not hang up on a process that closes its terminal, and shows what it writes later', async () => {
    cli.configure((config) => (config.process.terminal = true));
    try {
      args('sh', '-c', 'exec <&- >&- 2>&-; sleep 0.5; echo here >/dev/pts/0; sleep 2; exit 4');
      const line = [program, '--root', cli.root, 'run', cli.id()].map(quote).join(' ');
      const [command, words] = onTerminal('sh', ['-c', line], 40, 120);
      const result = await run(command, words, { keepStdinOpen: true, cwd: cli.bundle });
      expect(result.stdout.replaceAll('\r', '')).toContain('here\n');
      expect(result.code).toBe(4);
    } finally {
      cli.configure((config) => (config.process.terminal = false));
    }
  });

  it('refuses a terminal that nobody would hold', async () => {
    cli.configure((config) => (config.process.terminal = true));
    try {
      for (const words of [['run', '--detach'], ['create']]) {
        const result = await cli.run([...words, cli.id()]);
        expect([result.code, result.stderr]).toEqual([1, expect.stringMatching(/console.socket/)]);
      }
    } finally {
      cli.configure((config) => (config.process.terminal = false));
    }
    const result = await cli.run(['run', '--console-socket', '/no/such', cli.id()]);
    expect(result.code).toBe(1);
    expect(cli.leftovers()).toEqual([]);
  });

  it('sends the terminal of a detached container to the console socket', async () => {
    cli.configure((config) => (config.process.terminal = true));
    const socket = join(cli.dir, 'console.sock');
    const receive = `
import socket, array, os, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1); print("listening", flush=True)
c, _ = s.accept(); fds = array.array("i")
msg, anc, _, _ = c.recvmsg(4096, socket.CMSG_SPACE(4)); fds.frombytes(anc[0][2][:4])
print("message", len(msg) > 0, os.isatty(fds[0]), flush=True)
os.write(fds[0], b"typed\\n")
out = b""
while b"got" not in out: out += os.read(fds[0], 4096)
print(out.decode().replace("\\r", ""), flush=True)`;
    try {
      args('sh', '-c', 'read x; echo "got <$x>"; sleep 100');
      const receiver = run('python3', ['-c', receive, socket], { timeout: 20_000 });
      await eventually('the socket', () => existsSync(socket));
      const id = cli.id();
      const result = await cli.leaving('run', id, ['--detach', '--console-socket', socket]);
      expect(result).toMatchObject({ code: 0, stderr: '' });
      const { stdout } = await receiver;
      expect(stdout).toContain('message True True');
      expect(stdout).toContain('got <typed>');
      expect(await cli.status(id)).toBe('running');
      await cli.ok('delete', '-f', id);
    } finally {
      cli.configure((config) => (config.process.terminal = false));
    }
    expect(cli.leftovers()).toEqual([]);
  });

  it.skipIf(isRunc)(
    'sends a pidfd of the container (runc has it from 1.2 on, Debian 12 has 1.1)',
    async () => {
      const socket = join(cli.dir, 'pidfd.sock');
      const receive = `
import socket, array, os, sys, signal, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)
c, _ = s.accept(); fds = array.array("i")
msg, anc, _, _ = c.recvmsg(4096, socket.CMSG_SPACE(4)); fds.frombytes(anc[0][2][:4])
print(os.readlink(f"/proc/self/fd/{fds[0]}"), flush=True)
pid = [l for l in open(f"/proc/self/fdinfo/{fds[0]}") if l.startswith("Pid:")][0].split()[1]
print(pid, flush=True)
while b"sleep" not in open(f"/proc/{pid}/cmdline", "rb").read(): time.sleep(0.02)
signal.pidfd_send_signal(fds[0], 9)`;
      const receiver = run('python3', ['-c', receive, socket], { timeout: 20_000 });
      await eventually('the socket', () => existsSync(socket));
      const pidFile = join(cli.dir, 'pidfd.pid');
      const id = await cli.detached(['sleep', '100'], ['--pidfd-socket', socket, '--pid-file', pidFile]);
      expect((await receiver).stdout).toBe(`anon_inode:[pidfd]\n${readFileSync(pidFile, 'utf8')}\n`);
      await eventually('stopped', async () => (await cli.status(id)) === 'stopped');
      await cli.ok('delete', id);
      const failed = await cli.run(['run', '--pidfd-socket', '/no/such', cli.id()]);
      expect([failed.code, failed.stderr]).toEqual([1, expect.stringContaining('pidfd socket /no/such')]);
      expect(cli.leftovers()).toEqual([]);
    },
  );

  it('passes descriptors on, and no others', async () => {
    args('sh', '-c', 'ls /proc/self/fd; cat <&3; cat <&4');
    const three = join(cli.dir, 'three');
    const four = join(cli.dir, 'four');
    writeFileSync(three, 'third\n');
    writeFileSync(four, 'fourth\n');
    const line = `exec ${program} --root ${cli.root} run --preserve-fds 2 ${cli.id()} 3<${three} 4<${four} 9<${four}`;
    const result = await run('sh', ['-c', line], { cwd: cli.bundle });
    // 5 is the directory that ls reads.
    expect(result).toMatchObject({ code: 0, stdout: '0\n1\n2\n3\n4\n5\nthird\nfourth\n', stderr: '' });
  });

  it('hands sockets of socket activation over', async () => {
    args('sh', '-c', 'echo $LISTEN_FDS $LISTEN_PID $$; readlink /proc/self/fd/3');
    const server = createServer().listen(join(cli.dir, 'activated.sock'));
    const line = `LISTEN_FDS=1 LISTEN_PID=$$ exec ${program} --root ${cli.root} run ${cli.id()} 3</etc/hostname`;
    const result = await run('sh', ['-c', line], { cwd: cli.bundle });
    server.close();
    expect(result).toMatchObject({
      code: 0,
      stdout: '1 1 1\n/etc/hostname\n'.replace('/etc/hostname', result.stdout.split('\n')[1] ?? ''),
    });
    expect(result.stdout.split('\n')[1]).not.toBe('');
  });

  it('takes the bundle from --bundle, absolute and relative', async () => {
    args('echo', 'here');
    for (const bundle of [cli.bundle, 'bundle', './bundle']) {
      expect((await cli.run(['run', '-b', bundle, cli.id()], { cwd: cli.dir })).stdout).toBe('here\n');
    }
  });

  it('accepts flags after the id and in Go’s forms', async () => {
    args('echo', 'here');
    const pidFile = join(cli.dir, 'forms.pid');
    for (const flags of [[`-pid-file=${pidFile}`], [`--pid-file=${pidFile}`], ['-pid-file', pidFile]]) {
      expect((await cli.run(['run', ...flags, '--keep=false', cli.id()])).stdout).toBe('here\n');
    }
    expect(readFileSync(pidFile, 'utf8')).toMatch(/^\d+$/);
    expect(cli.leftovers()).toEqual([]);
  });
});

describe('hooks', () => {
  // Two of them run as the container's root, who may not write into a directory of the host's.
  it.skipIf(!hasHostsIds)('run in their order, with the state on their standard input', async () => {
    const log = join(cli.dir, 'hooks.log');
    const inside = join(cli.bundle, 'rootfs', 'log');
    mkdirSync(inside);
    const hook = (name: string, path: string): Config => ({
      path: '/bin/sh',
      args: ['sh', '-c', `{ echo ${name}; cat; echo; } >>${path}`],
    });
    cli.configure((config) => {
      config.hooks = {
        prestart: [hook('prestart', log)],
        createRuntime: [hook('createRuntime', log)],
        createContainer: [hook('createContainer', log)],
        startContainer: [hook('startContainer', '/log/start')],
        poststart: [hook('poststart', log)],
        poststop: [hook('poststop', log)],
      };
      config.root.readonly = false;
    });
    try {
      args('sleep', '0.3');
      const id = cli.id();
      expect(await cli.run(['run', id])).toMatchObject({ code: 0, stderr: '' });
      const lines = readFileSync(log, 'utf8').trim().split('\n');
      const names = lines.filter((line) => /^[a-zA-Z]+$/.test(line));
      expect(names).toEqual(['prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop']);
      const states = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
      expect(states).toHaveLength(5);
      for (const state of states) expect(state).toMatchObject({ id, bundle: cli.bundle });
      expect(states.at(-1)?.status).toBe('stopped');
      expect(readFileSync(join(inside, 'start'), 'utf8')).toContain(id);
      expect(cli.leftovers()).toEqual([]);
    } finally {
      cli.configure((config) => delete config.hooks);
    }
  });

  it.each(['prestart', 'createRuntime', 'createContainer', ...(isRunc ? [] : ['startContainer'])])(
    'fail the container when one of %s fails',
    async (point) => {
      cli.configure((config) => {
        config.hooks = { [point]: [{ path: '/bin/sh', args: ['sh', '-c', 'exit 11'] }] };
      });
      try {
        args('true');
        const result = await cli.run(['run', cli.id()]);
        expect([result.code, result.stderr]).toEqual([1, expect.stringContaining('hook')]);
        expect(result.stderr).toContain('11');
        expect(cli.leftovers()).toEqual([]);
      } finally {
        cli.configure((config) => delete config.hooks);
      }
    },
  );
});
