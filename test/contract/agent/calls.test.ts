import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bulkhead } from '../../../src/gen/bulkhead.js';
import { childrenOf, execPlan, stateOf, until } from '../monitor/harness.ts';
import { AgentRig } from './harness.ts';
import type { CallMessage, HostSession } from './harness.ts';

const { Call } = bulkhead.agent.v1;
const ENOENT = 2;
const EAGAIN = 11;
const EINVAL = 22;
const EFBIG = 27;
const ENOSYS = 38;
const ELOOP = 40;
const EBADMSG = 74;
const ETIMEDOUT = 110;

let rig: AgentRig;
let host: HostSession;
beforeEach(async () => {
  rig = new AgentRig();
  // What a call may write to is the namespaces' own.
  rig.start('mount -t tmpfs none /mnt && mkdir /mnt/etc && mount --bind /mnt/etc /etc');
  host = await rig.session();
  await host.hello();
});
afterEach(() => rig.dispose());

const bytes = (text: string): Uint8Array => Buffer.from(text);
async function done(call: CallMessage): Promise<bulkhead.agent.v1.CallReply> {
  const { errno, reply } = await host.call(call);
  expect(reply.failure ?? null).toBeNull();
  expect(errno).toBe(0);
  return reply;
}
async function failed(call: CallMessage): Promise<bulkhead.agent.v1.IFailure> {
  const { errno, reply } = await host.call(call);
  expect(errno).toBe(reply.failure?.errno);
  return reply.failure ?? {};
}
async function read(...paths: string[]): Promise<{ text: string; errno: number }[]> {
  const { files } = await done({ readFiles: { paths } });
  return (files ?? []).map(({ data, errno }) => ({
    text: Buffer.from(data ?? []).toString(),
    errno: errno ?? 0,
  }));
}

describe('ReadFiles', () => {
  it('gives each file, or why not, in the order asked for', async () => {
    const [comm, none, dir, link] = await read('/proc/1/comm', '/proc/nothing', '/proc/sys', '/proc/mounts');
    expect(comm?.text).toBe('bulkhead-agent\n');
    expect(none).toEqual({ text: '', errno: ENOENT });
    expect(dir?.text.split('\n')).toContain('kernel/');
    expect(link?.errno).toBe(ELOOP);
  });

  it('refuses what is no absolute path, and gives up what is too large', async () => {
    await done({
      writeFiles: { files: [{ path: '/mnt/big', data: Buffer.alloc(1100 * 1024), create: true }] },
    });
    const [relative, nul, big] = await read('etc/passwd', '/etc/a\0b', '/mnt/big');
    expect(relative?.errno).toBe(EINVAL);
    expect(nul?.errno).toBe(EINVAL);
    expect(big).toEqual({ text: '', errno: EFBIG });
  });

  it('bounds all of them together', async () => {
    const data = Buffer.alloc(1000 * 1024, 'x');
    await done({ writeFiles: { files: [{ path: '/mnt/big', data, create: true }] } });
    const files = await read(...Array.from({ length: 6 }, () => '/mnt/big'));
    expect(files.map(({ errno }) => errno)).toEqual([0, 0, 0, 0, EFBIG, EFBIG]);
  });

  it('refuses more paths than it takes', async () => {
    const paths = Array.from({ length: 300 }, () => '/proc/1/comm');
    expect(await failed({ readFiles: { paths } })).toMatchObject({ op: 'decode', errno: EBADMSG });
  });
});

describe('WriteFiles', () => {
  it('makes files with their parents and modes, and directories', async () => {
    await done({
      writeFiles: {
        files: [
          { path: '/mnt/a/b/c', data: bytes('text'), create: true, mode: 0o600 },
          { path: '/mnt/d/e', directory: true },
          { path: '/etc/resolv.conf', data: bytes('nameserver 10.0.0.1\n'), create: true },
        ],
      },
    });
    expect((await read('/mnt/a/b/c'))[0]?.text).toBe('text');
    expect((await read('/mnt/a/b', '/mnt/d')).map(({ text }) => text)).toEqual(['c\n', 'e/\n']);
    expect((await read('/etc/resolv.conf'))[0]?.text).toBe('nameserver 10.0.0.1\n');
  });

  it('stops at the first failure, and passes over an optional one', async () => {
    const failure = await failed({
      writeFiles: {
        files: [
          { path: '/proc/sys/nothing', data: bytes('1'), optional: true },
          { path: '/mnt/none', data: bytes('1') },
          { path: '/mnt/after', data: bytes('1'), create: true },
        ],
      },
    });
    expect(failure).toEqual({ op: 'write', path: '/mnt/none', errno: ENOENT });
    expect((await read('/mnt/after'))[0]?.errno).toBe(ENOENT);
  });

  it('leaves the old file whole when the new one cannot be', async () => {
    await done({ writeFiles: { files: [{ path: '/mnt/dir/x', directory: true }] } });
    await failed({ writeFiles: { files: [{ path: '/mnt/dir', data: bytes('x'), create: true }] } });
    expect((await read('/mnt/dir'))[0]?.text).toBe('x/\n');
  });
});

describe('Setup', () => {
  it('names the guest and gives it its own random numbers', async () => {
    const machineId = 'a1'.repeat(16);
    await done({
      setup: {
        hostname: 'guest-7',
        machineId,
        entropy: Buffer.alloc(64, 3),
        sysctls: [{ key: 'net/ipv4/ip_forward', value: '1' }],
      },
    });
    const [name, id, forward] = await read(
      '/proc/sys/kernel/hostname',
      '/etc/machine-id',
      '/proc/sys/net/ipv4/ip_forward',
    );
    expect([name?.text, id?.text, forward?.text]).toEqual(['guest-7\n', `${machineId}\n`, '1\n']);
  });

  it('refuses what it is not', async () => {
    expect(await failed({ setup: { machineId: '../x' } })).toMatchObject({ op: 'machine id', errno: EINVAL });
    expect(await failed({ setup: { sysctls: [{ key: '../../etc/x', value: '1' }] } })).toMatchObject({
      op: 'sysctl',
      errno: EINVAL,
    });
    expect(await failed({ setup: { hostname: 'x'.repeat(65) } })).toMatchObject({
      op: 'sethostname',
      errno: EINVAL,
    });
    expect(await failed({ setup: { entropy: Buffer.alloc(513) } })).toMatchObject({
      op: 'decode',
      errno: EBADMSG,
    });
  });
});

describe('Mount', () => {
  it('makes its target, mounts, and is undone', async () => {
    await done({ mount: { source: 'none', target: '/mnt/m/n', fstype: 'tmpfs', data: 'size=1m' } });
    await done({ writeFiles: { files: [{ path: '/mnt/m/n/file', data: bytes('x'), create: true }] } });
    const [mounts] = await read('/proc/1/mounts');
    expect(mounts?.text).toMatch(/none \/mnt\/m\/n tmpfs \S*size=1024k/);
    await done({ unmount: { target: '/mnt/m/n' } });
    expect((await read('/mnt/m/n/file'))[0]?.errno).toBe(ENOENT);
  });

  it('binds a file over a file', async () => {
    await done({ writeFiles: { files: [{ path: '/mnt/from', data: bytes('x'), create: true }] } });
    await done({ mount: { source: '/mnt/from', target: '/mnt/p/to', flags: 4096, file: true } });
    expect((await read('/mnt/p/to'))[0]?.text).toBe('x');
  });

  it('says what failed', async () => {
    expect(await failed({ mount: { source: 'x', target: '/mnt/q', fstype: 'nosuchfs' } })).toMatchObject({
      op: 'mount',
      path: '/mnt/q',
      errno: 19,
    });
    expect(await failed({ mount: { source: 'x', target: 'relative', fstype: 'tmpfs' } })).toMatchObject({
      op: 'mkdir',
      errno: EINVAL,
    });
    expect(await failed({ unmount: { target: '/mnt/none' } })).toMatchObject({
      op: 'unmount',
      errno: ENOENT,
    });
  });
});

describe('WaitDevice', () => {
  it('finds what is there', async () => {
    const { device } = await done({ waitDevice: { device: { path: '/dev/null' } } });
    expect(device).toMatchObject({ name: 'null', path: '/dev/null', major: 1, minor: 3 });
  });

  it('gives up at its time, by name', async () => {
    const serials: [bulkhead.agent.v1.IDeviceMatch, string][] = [
      [{ blockSerial: 'root-1' }, 'serial root-1'],
      [{ pmemAddress: 0x1_4000_0000 }, 'pmem at 0x140000000'],
      [{ netMac: '52:54:00:00:00:01' }, 'mac 52:54:00:00:00:01'],
      [{ pciPath: '1e.7/00.0', subsystem: 'block' }, 'pci 1e.7/00.0'],
      [{ p9Tag: 'share' }, '9p share'],
    ];
    for (const [device, path] of serials) {
      expect(await failed({ waitDevice: { device, timeoutMs: 20 } })).toEqual({
        op: 'wait',
        path,
        errno: ETIMEDOUT,
      });
    }
    expect(await failed({ waitDevice: { timeoutMs: 20 } })).toMatchObject({ op: 'wait', errno: EINVAL });
  });

  it('keeps nothing else waiting', async () => {
    const waiting = host.call({ waitDevice: { device: { blockSerial: 'never' }, timeoutMs: 3000 } });
    let over = false;
    void waiting.then(() => (over = true));
    await done({ readFiles: { paths: ['/proc/1/comm'] } });
    expect(over).toBe(false);
    expect((await waiting).errno).toBe(ETIMEDOUT);
  });
});

describe('Remove', () => {
  it('removes trees, passes over what is not there, and stays on its file system', async () => {
    await done({
      writeFiles: {
        files: [
          { path: '/mnt/t/a/b/file', data: bytes('x'), create: true },
          { path: '/mnt/t/c', directory: true },
        ],
      },
    });
    await done({ remove: { paths: ['/mnt/t', '/mnt/never'] } });
    expect((await read('/mnt/t'))[0]?.errno).toBe(ENOENT);
    await done({ mount: { source: 'none', target: '/mnt/u/other', fstype: 'tmpfs' } });
    await done({ writeFiles: { files: [{ path: '/mnt/u/other/kept', data: bytes('x'), create: true }] } });
    expect(await failed({ remove: { paths: ['/mnt/u'] } })).toMatchObject({
      op: 'remove',
      path: '/mnt/u',
      errno: 16,
    });
    expect((await read('/mnt/u/other/kept'))[0]?.text).toBe('x');
  });

  it('does not go through links', async () => {
    await done({ writeFiles: { files: [{ path: '/mnt/kept/file', data: bytes('x'), create: true }] } });
    host.launch('ln', execPlan('mkdir /mnt/v && ln -s /mnt/kept /mnt/v/link'));
    await host.answer('exited', 'ln');
    await done({ remove: { paths: ['/mnt/v'] } });
    expect((await read('/mnt/kept/file'))[0]?.text).toBe('x');
  });
});

describe('AwaitFile', () => {
  it('is answered when the line is there, refused when the file is not, late when neither', async () => {
    await done({ awaitFile: { path: '/proc/1/comm', line: 'bulkhead-agent' } });
    expect(await failed({ awaitFile: { path: '/proc/none', line: 'x' } })).toMatchObject({
      op: 'open',
      errno: ENOENT,
    });
    expect(await failed({ awaitFile: { path: '/proc/1/comm', line: 'bulkhead', timeoutMs: 20 } })).toEqual({
      op: 'wait',
      path: '/proc/1/comm',
      errno: ETIMEDOUT,
    });
  });
});

describe('a call', () => {
  it('that is not known is ENOSYS, one that is none EBADMSG', async () => {
    expect((await host.callBytes(Buffer.from([0xf2, 0x01, 0x00]))).errno).toBe(ENOSYS);
    expect((await host.callBytes(new Uint8Array())).errno).toBe(ENOSYS);
    expect((await host.callBytes(Buffer.from([0x0a, 0x7f]))).errno).toBe(EBADMSG);
  });

  it('whose worker dies is answered', async () => {
    const waiting = host.call({ waitDevice: { device: { blockSerial: 'never' }, timeoutMs: 60_000 } });
    host.launch('kill', execPlan('sleep 0.1; kill -9 $(pgrep -P 1 -f bulkhead-agent)'));
    expect((await waiting).reply.failure).toMatchObject({ op: 'worker', errno: 5 });
  });

  it('whose worker hangs is answered when its time and a little more is over; nothing is left of it', async () => {
    const waiting = failed({ waitDevice: { device: { blockSerial: 'never' }, timeoutMs: 500 } });
    const agent = childrenOf(rig.process?.pid ?? 0)[0] ?? 0;
    const [worker = 0] = await until('a worker', () => {
      const workers = childrenOf(agent);
      return workers.length === 1 ? workers : undefined;
    });
    process.kill(worker, 'SIGSTOP');
    expect(await waiting).toMatchObject({ op: 'wait', errno: ETIMEDOUT });
    await until('its end', () => stateOf(worker) === undefined);
  });

  it('is refused when 256 others wait, and not when they have been answered', async () => {
    const never = { awaitFile: { path: '/proc/1/comm', line: 'never', timeoutMs: 600_000 } };
    const waiting = Array.from({ length: 257 }, () => failed(never));
    expect(await waiting.at(-1)).toMatchObject({ op: 'fork', errno: EAGAIN });
    for (const worker of childrenOf(childrenOf(rig.process?.pid ?? 0)[0] ?? 0))
      process.kill(worker, 'SIGKILL');
    for (const one of waiting.slice(0, -1)) expect(await one).toMatchObject({ op: 'worker', errno: 5 });
    await done({ awaitFile: { path: '/proc/1/comm', line: 'bulkhead-agent' } });
  });

  it('of an earlier session is not answered in the next', async () => {
    host.send({
      call: {
        request: 900,
        call: Call.encode({ waitDevice: { device: { p9Tag: 'x' }, timeoutMs: 150 } }).finish(),
      },
    });
    await done({ sync: {} });
    host.reopen();
    await host.hello();
    await new Promise((end) => setTimeout(end, 300));
    expect(host.messages.some(({ call }) => call?.request === 900)).toBe(false);
  });

  it('for the network is carried out', async () => {
    await done({ network: { interfaces: [] } });
    const failure = await failed({
      network: { interfaces: [{ mac: Buffer.from('525400000001', 'hex'), name: 'eth0' }], deadlineMs: 20 },
    });
    expect(failure.op).toBe('network');
    expect(failure.path).toContain('52:54:00:00:00:01');
  });

  it('counts processors', async () => {
    const { amount } = await done({ onlineCpus: {} });
    expect(amount).toBeGreaterThan(0);
    expect(await failed({ onlineCpus: { count: 10_000, timeoutMs: 20 } })).toMatchObject({
      op: 'online',
      path: 'cpus',
      errno: ETIMEDOUT,
    });
  });
});

describe('a watch for memory', () => {
  it('is refused where there is no such cgroup', async () => {
    expect(await failed({ watchOom: { cgroup: '/sys/fs/cgroup/none' } })).toMatchObject({
      op: 'watch',
      errno: ENOENT,
    });
  });
});

describe('the log', () => {
  it('goes to the host, in one line', async () => {
    host.launch('bad\nname', Buffer.from([0xff]));
    await host.answer('launchFailed', 'bad\nname');
    host.send({ hello: { protocol: 99 } });
    const event = await until('a log event', () => host.events().find(({ log }) => log));
    expect(event.log).toEqual({ level: 'warning', message: 'the host speaks another protocol' });
  });
});
