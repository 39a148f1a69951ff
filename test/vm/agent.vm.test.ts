import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  CLONE_NEWCGROUP,
  CLONE_NEWIPC,
  CLONE_NEWNS,
  CLONE_NEWPID,
  CLONE_NEWUTS,
} from '../../src/base/constants.ts';
import { bulkhead } from '../../src/gen/bulkhead.js';
import { memoryDevices } from '../../src/sandbox/vm/hypervisor/qemu/answers.ts';
import type { CallMessage, HostSession } from '../contract/agent/harness.ts';
import { until } from '../contract/monitor/harness.ts';
import { PlainMachine } from './plain_machine.ts';

const { LaunchPlan } = bulkhead.plan.v1;
type Step = bulkhead.plan.v1.IStep;
const SIGKILL = 9;
const MS_RDONLY = 1;
const ETIMEDOUT = 110;
const MiB = 2 ** 20;
const CGROUP = '/sys/fs/cgroup/pod';
const ROOT = '/run/root';

let machine: PlainMachine;
let host: HostSession;
let hello: bulkhead.agent.v1.IAgentHello;
let stream = 0;
beforeAll(async () => {
  machine = await PlainMachine.boot();
  host = await machine.session();
  hello = await until('hello', () => host.messages.find((message) => message.hello)?.hello, 120_000);
});
afterAll(() => machine?.dispose());

function plan(script: string, steps: Step[] = []): Uint8Array {
  const exec = { file: '/bin/sh', args: ['sh', '-c', script], env: ['PATH=/bin'] };
  return LaunchPlan.encode({ version: 1, id: 'test', steps: [...steps, { exec }] }).finish();
}
/** Runs a script in the guest; what it wrote and its exit status. */
async function run(
  key: string,
  script: string,
  steps: Step[] = [],
): Promise<{ text: string; status: number }> {
  const stdout = ++stream;
  host.launch(key, plan(script, steps), { stdout, stderr: ++stream });
  const ended = await until(
    `the end of ${key}`,
    () => host.messages.find(({ exited, launchFailed }) => (exited ?? launchFailed)?.key === key),
    20_000,
  );
  expect(ended.launchFailed).toBeFalsy();
  await until('its output', () => host.incoming(stdout).eof);
  return { text: host.incoming(stdout).text, status: ended.exited?.waitStatus ?? -1 };
}
async function done(call: CallMessage, timeoutMs = 120_000): Promise<bulkhead.agent.v1.CallReply> {
  const { reply } = await host.call(call, timeoutMs);
  expect(reply.failure ?? null).toBeNull();
  return reply;
}
const content = async (path: string): Promise<string> =>
  Buffer.from((await done({ readFiles: { paths: [path] } })).files?.[0]?.data ?? []).toString();

/** A file of so many bytes, with a file system in it. */
function image(name: string, bytes: number, label: string): string {
  const path = join(machine.dir, name);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, bytes);
  closeSync(fd);
  execFileSync('mkfs.ext4', ['-q', '-b', '4096', '-L', label, path]);
  return path;
}

describe('the guest', () => {
  it('has its kernel, file systems and controllers', async () => {
    expect(hello.kernel).toMatch(/^\d+\.\d+/);
    const mounts = await content('/proc/1/mounts');
    for (const mount of [
      'devtmpfs /dev',
      'cgroup2 /sys/fs/cgroup',
      'devpts /dev/pts',
      'tmpfs /run',
      'sysfs /sys',
    ])
      expect(mounts).toContain(`${mount} `);
    const controllers = (await content('/sys/fs/cgroup/cgroup.subtree_control')).trim().split(' ');
    expect(controllers).toEqual(expect.arrayContaining(['cpu', 'cpuset', 'io', 'memory', 'pids']));
    const lo = await run('lo', 'cat /sys/class/net/lo/flags');
    expect(Number(lo.text) & 1).toBe(1);
  });

  it('says nothing on its console', () => {
    expect(machine.lastWords).not.toContain('bulkhead-agent');
  });

  it('cannot be ended from inside', async () => {
    await run('kill', 'kill -9 1; kill -15 1; kill -11 1; true');
    expect(await content('/proc/1/comm')).toBe('bulkhead-agent\n');
  });

  it('takes its name, clock and machine id', async () => {
    const now = Date.now();
    await done({
      setup: {
        hostname: 'pod-1',
        clockRealtimeNs: now * 1e6,
        entropy: Buffer.alloc(64, 9),
        machineId: 'ab'.repeat(16),
      },
    });
    expect(await content('/proc/sys/kernel/hostname')).toBe('pod-1\n');
    expect(await content('/etc/machine-id')).toBe(`${'ab'.repeat(16)}\n`);
    host.launch('clock', plan('exit 0'));
    const { exitedAtNs } = await host.answer('exited', 'clock', 120_000);
    expect(Math.abs((exitedAtNs ?? 0) / 1e6 - Date.now())).toBeLessThan(60_000);
  });

  it('lets a container pivot into its root', async () => {
    await run('root', `mkdir -p ${ROOT}/bin ${ROOT}/proc && cp /bin/busybox ${ROOT}/bin/sh`);
    const namespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    const { text, status } = await run('web', 'echo $$; cd /; echo *', [
      { makeCgroup: { path: CGROUP } },
      { joinCgroup: { path: CGROUP } },
      { clone: { namespaces } },
      { setPropagation: { path: '/', propagation: 1, recursive: true } },
      { openTree: { slot: 1, path: ROOT, recursive: true } },
      { attach: { slot: 1, target: ROOT, hostTarget: true } },
      { enterRoot: { path: ROOT } },
      { pivotRoot: {} },
    ]);
    expect(status).toBe(0);
    expect(text).toBe('1\nbin proc\n');
  });

  it('tells when it has killed for memory', async () => {
    await done({
      writeFiles: {
        files: [
          { path: CGROUP, directory: true },
          { path: `${CGROUP}/memory.max`, data: Buffer.from(String(16 * MiB)) },
        ],
      },
    });
    await done({ watchOom: { cgroup: CGROUP } });
    await done({ watchOom: { cgroup: CGROUP } });
    const { status } = await run('hog', 'exec tail /dev/zero', [{ joinCgroup: { path: CGROUP } }]);
    expect(status & 0x7f).toBe(SIGKILL);
    const event = await until('an oom event', () => host.events().find(({ oom }) => oom));
    expect(event.oom).toEqual({ cgroup: CGROUP, oomKill: 1 });
    await done({ writeFiles: { files: [{ path: `${CGROUP}/memory.max`, data: Buffer.from('max') }] } });
  });

  it('freezes and thaws a cgroup, and removes it', async () => {
    host.launch('sleeper', plan('exec sleep 600', [{ joinCgroup: { path: CGROUP } }]));
    await host.answer('launched', 'sleeper');
    const freeze = (value: string) =>
      done({ writeFiles: { files: [{ path: `${CGROUP}/cgroup.freeze`, data: Buffer.from(value) }] } });
    await freeze('1');
    await done({ awaitFile: { path: `${CGROUP}/cgroup.events`, line: 'frozen 1', timeoutMs: 60_000 } });
    await freeze('0');
    await done({ awaitFile: { path: `${CGROUP}/cgroup.events`, line: 'frozen 0', timeoutMs: 60_000 } });
    const late = await host.call({
      awaitFile: { path: `${CGROUP}/cgroup.events`, line: 'populated 0', timeoutMs: 50 },
    });
    expect(late.reply.failure).toEqual({ op: 'wait', path: `${CGROUP}/cgroup.events`, errno: ETIMEDOUT });
    await done({ writeFiles: { files: [{ path: `${CGROUP}/cgroup.kill`, data: Buffer.from('1') }] } });
    expect((await host.answer('exited', 'sleeper')).waitStatus).toBe(SIGKILL);
    await done({ remove: { paths: [CGROUP] } });
    expect((await done({ readFiles: { paths: [CGROUP] } })).files?.[0]?.errno).toBe(2);
  });
});

describe('a cgroup of an earlier name', () => {
  it('is watched anew, and the old watch is closed', async () => {
    const limit = { path: `${CGROUP}/memory.max`, data: Buffer.from(String(16 * MiB)) };
    const open = async (): Promise<number> => (await content('/proc/1/fd')).trim().split('\n').length;
    const counts: number[] = [];
    for (let round = 0; round < 3; round++) {
      await done({ writeFiles: { files: [{ path: CGROUP, directory: true }, limit] } });
      await done({ watchOom: { cgroup: CGROUP } });
      counts.push(await open());
      const before = host.events().length;
      await run(`hog-${round}`, 'exec tail /dev/zero', [{ joinCgroup: { path: CGROUP } }]);
      await until('an oom event', () => host.events().length > before);
      await done({ remove: { paths: [CGROUP] } });
      expect(await host.ask((request) => ({ forget: { request, key: `hog-${round}` } }))).toBe(0);
    }
    expect(new Set(counts).size).toBe(1);
  });
});

describe('what is plugged in', () => {
  // First: what lies behind a smaller device begins where no block of memory can.
  it('is memory: it grows', async () => {
    const before = (await done({ onlineMemory: {} })).amount ?? 0;
    await machine.qmp.execute('object-add', {
      'qom-type': 'memory-backend-ram',
      id: 'dimm',
      size: 128 * MiB,
    });
    await machine.qmp.execute('device_add', { driver: 'pc-dimm', memdev: 'dimm', id: 'dimm0' });
    const { amount } = await done({ onlineMemory: { bytes: before + 128 * MiB } });
    expect(amount).toBe(before + 128 * MiB);
  });

  it('is found: a disk by its serial number and by its slot, mounted by one call', async () => {
    const path = image('disk', 32 * MiB, 'disk');
    const waiting = done({
      mount: { device: { blockSerial: 'vol-7' }, target: '/mnt/disk', fstype: 'ext4' },
    });
    await machine.qmp.execute('blockdev-add', {
      driver: 'raw',
      'node-name': 'disk',
      file: { driver: 'file', filename: path },
    });
    await machine.qmp.execute('device_add', {
      driver: 'virtio-blk-pci',
      drive: 'disk',
      id: 'disk0',
      serial: 'vol-7',
      bus: 'rp0',
    });
    const { device } = await waiting;
    expect(device).toMatchObject({ name: 'vda', path: '/dev/vda', major: expect.any(Number) });
    const bySlot = await done({ waitDevice: { device: { pciPath: '04.0/00.0', subsystem: 'block' } } });
    expect(bySlot.device).toEqual(device);
    expect(await run('write', 'echo text > /mnt/disk/file')).toMatchObject({ status: 0 });
    await done({ unmount: { target: '/mnt/disk' } });
    expect(readFileSync(path).includes('text\n')).toBe(true);
  });

  it('is found: persistent memory by its address, mounted with DAX', async () => {
    const path = image('pmem', 32 * MiB, 'pmem');
    await machine.qmp.execute('object-add', {
      'qom-type': 'memory-backend-file',
      id: 'mem-p',
      'mem-path': path,
      size: 32 * MiB,
      share: true,
    });
    await machine.qmp.execute('device_add', {
      driver: 'virtio-pmem-pci',
      memdev: 'mem-p',
      id: 'pmem0',
      bus: 'rp1',
    });
    const devices = await machine.qmp.ask(memoryDevices, 'query-memory-devices');
    const pmemAddress = devices.find(({ id }) => id === 'pmem0')?.addr ?? 0;
    const { device } = await done({
      mount: { device: { pmemAddress }, target: '/mnt/pmem', fstype: 'ext4', data: 'dax=always' },
    });
    expect(device?.name).toMatch(/^pmem\d/);
    expect(await run('dax', 'echo lasting > /mnt/pmem/file')).toMatchObject({ status: 0 });
    await done({ unmount: { target: '/mnt/pmem' } });
    expect(readFileSync(path).includes('lasting\n')).toBe(true);
  });

  it('is found: a network device by its address', async () => {
    await machine.qmp.execute('netdev_add', { type: 'hubport', id: 'net0', hubid: 0 });
    await machine.qmp.execute('device_add', {
      driver: 'virtio-net-pci',
      netdev: 'net0',
      id: 'nic0',
      mac: '52:54:00:12:34:56',
      bus: 'rp2',
    });
    const { device } = await done({ waitDevice: { device: { netMac: '52:54:00:12:34:56' } } });
    expect(device?.name).toMatch(/^eth\d/);
  });

  it('never comes: the call says so at its time', async () => {
    const { reply } = await host.call({
      mount: {
        device: { virtiofsTag: 'share' },
        target: '/mnt/share',
        fstype: 'virtiofs',
        timeoutMs: 100,
        flags: MS_RDONLY,
      },
    });
    expect(reply.failure).toEqual({ op: 'wait', path: 'virtiofs share', errno: ETIMEDOUT });
  });
});

describe('the channel', () => {
  it('carries output and input of some size, unchanged', async () => {
    const { text } = await run('count', 'dd if=/dev/zero bs=64k count=320 2>/dev/null | wc -c');
    expect(text.trim()).toBe(String(320 * 65536));
    const stdout = ++stream;
    const began = performance.now();
    host.launch('zeros', plan('exec dd if=/dev/zero bs=64k count=480'), { stdout });
    await until('all of it', () => host.incoming(stdout).eof, 120_000);
    expect(host.incoming(stdout).bytes).toBe(480 * 65536);
    const rate = (480 * 65536) / 1e6 / ((performance.now() - began) / 1000);
    console.log(`output of a guest's process: ${rate.toFixed(0)} MB/s`);
  });

  it('is taken up again by another host, who finds what runs', async () => {
    host.launch('lasting', plan('exec sleep 600'));
    await host.answer('launched', 'lasting');
    host.socket.destroy();
    host = await machine.session();
    const { processes } = await host.hello();
    expect(processes?.find(({ key }) => key === 'lasting')).toMatchObject({ running: true, exited: false });
  });

  it('survives what is no message', async () => {
    host.socket.write(Buffer.alloc(200_000, 0x5a));
    await until('a line on the console', () =>
      machine.lastWords.includes('bulkhead-agent: error: channel: '),
    );
    host.reopen();
    await host.hello();
    expect((await run('after', 'echo well')).text).toBe('well\n');
  });
});

describe('the end', () => {
  it('is a call', async () => {
    await done({ poweroff: {} });
    expect(await machine.ended).toBe(0);
  });
});
