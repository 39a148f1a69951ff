import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeMonitorExecutor } from '../../../test/fakes/machine.ts';
import { FakeVmHost, MIB, podSpec } from '../../../test/fakes/sandbox.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { GuestError, type Executor } from '../executor.ts';
import type { PassedFunction } from './hypervisor/hypervisor.ts';
import { sandboxPaths, type SandboxPaths } from './layout.ts';
import { decodeMachine, loadSandbox, saveSandbox } from './record.ts';
import { endByCgroup, VmSandbox } from './sandbox.ts';

let dir: string;
let host: FakeVmHost;
let executor: FakeMonitorExecutor;
let paths: SandboxPaths;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-sandbox-'));
  host = new FakeVmHost(dir);
  executor = new FakeMonitorExecutor();
  executor.gate = () => '';
  paths = sandboxPaths(dir, 'ns', 'pod');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const open = (by: Executor = executor): VmSandbox =>
  VmSandbox.open(host.deps, paths, { namespace: 'ns', group: 'pod' }, by);
const shared = { share: true, functions: [] };
const images = { share: false, functions: [] };
const guestError = (code: string): GuestError =>
  new GuestError('no', { code, errno: 0, what: 'connect', reply: new Uint8Array() });
const gpu: PassedFunction = {
  address: '0000:41:00.0',
  memoryWindow: 0,
  prefetchWindow: 0,
  class: 0x030200,
  rom: true,
};

async function failure(of: Promise<unknown>): Promise<RuntimeError> {
  const error: unknown = await of.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof RuntimeError) return error;
  throw new Error(`no RuntimeError: ${String(error)}`);
}

describe('the machine of a pod', () => {
  it('is made for the first container, with a directory of the host', async () => {
    const sandbox = open();
    const own = await sandbox.join('pod', podSpec(), shared);
    expect(own).toMatchObject({ id: 'pod', serial: 1 });
    expect(host.hypervisor.calls).toEqual(['prepare', 'attach', 'plug fs', 'release']);
    expect(executor.guests.calls.toSorted()).toEqual(['mount /run/bulkhead/share', 'setup']);
    // Nothing in the guest could be read without its daemon.
    expect(executor.launched('/vm')?.options).toEqual({ diesWith: '/vm/fs' });
    expect(host.pods).toEqual([
      { namespace: 'ns', group: 'pod', dir: paths.dir, functions: [], share: true },
    ]);
    expect(sandbox.isRunning).toBe(true);
    expect(sandbox.pid).toBe(executor.processes.get('/vm')?.pid);
    const record = loadSandbox(paths.record);
    expect(record).toMatchObject({
      ready: true,
      pid: sandbox.pid,
      sharePid: sandbox.sharePid,
      memoryMib: 256,
    });
    expect(record?.cgroupPaths).toEqual([join(dir, 'cg/pod')]);
  });

  it('has no share when all comes in images', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    expect(host.hypervisor.calls).toEqual(['prepare', 'attach', 'release']);
    expect(executor.guests.calls).toEqual(['setup']);
    expect(executor.launched('/vm')?.options).toEqual({});
    expect(executor.launched('/vm/fs')).toBeUndefined();
    expect(sandbox.hasShare).toBe(false);
    expect(existsSync(paths.share)).toBe(false);
  });

  it('lives in the network namespace that the pod was given', async () => {
    const namespaces = [
      ...(podSpec().linux?.namespaces ?? []).filter(({ type }) => type !== 'network'),
      { type: 'network' as const, path: '/run/netns/pod' },
    ];
    await open().join('pod', podSpec({ linux: { namespaces } }), images);
    const steps = executor.launched('/vm')?.plan.steps ?? [];
    expect(steps.find((step) => step.joinNamespace)?.joinNamespace).toMatchObject({ path: '/run/netns/pod' });
  });

  it('grows at once by what the pod needs beyond the template', async () => {
    host.growMib = 256;
    await open().join('pod', podSpec(), images);
    expect(host.hypervisor.calls).toContain('grow 256');
    expect(executor.guests.calls).toContain('onlineMemory');
    expect(loadSandbox(paths.record)?.memoryMib).toBe(512);
  });

  it('is booted once for containers that come together', async () => {
    const sandbox = open();
    const joined = await Promise.all(
      ['pod', 'two', 'three'].map((id) => sandbox.join(id, podSpec(), shared)),
    );
    expect(joined.map(({ serial }) => serial)).toEqual([1, 2, 3]);
    expect(host.hypervisor.calls.filter((call) => call === 'prepare')).toHaveLength(1);
    expect(sandbox.first?.id).toBe('pod');
    expect((await sandbox.join('two', podSpec(), shared)).serial).toBe(2);
  });

  it('ends with its last container, and leaves nothing', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    await sandbox.join('two', podSpec(), shared);
    expect(await sandbox.leave('pod')).toBe(false);
    expect(sandbox.container('pod')).toBeUndefined();
    expect(await sandbox.leave('two')).toBe(true);
    expect([...executor.processes.keys()]).toEqual([]);
    expect(host.hypervisor.calls.at(-1)).toBe('close');
    expect(readdirSync(dir)).toEqual([]);
    await sandbox.end();
  });

  it('finds its functions in the guest, and puts each vCPU on a processor of its own', async () => {
    host.vcpus = 2;
    executor.guests.answer = ({ waitDevice }) =>
      waitDevice ? { device: { sysfs: '/sys/devices/pci0000:00/0000:00:05.0/0000:09:00.0' } } : {};
    const sandbox = open();
    const linux = { ...podSpec().linux, resources: { cpu: { cpus: '1-2' } } };
    await sandbox.join('pod', podSpec({ linux }), { share: false, functions: [gpu] });
    expect(sandbox.functions).toEqual([{ host: '0000:41:00.0', guest: '0000:09:00.0', nodes: [] }]);
    expect(host.pinned.map(([tid, [first]]) => [tid, first])).toEqual([
      [501, 2],
      [502, 4],
    ]);
    const record = loadSandbox(paths.record);
    expect(record === undefined ? undefined : decodeMachine(record)?.found).toHaveLength(1);
  });

  it('pins no thread that is not one of the hypervisor', async () => {
    executor.guests.answer = ({ waitDevice }) => (waitDevice ? { device: { sysfs: '/x/0000:09:00.0' } } : {});
    host.vcpus = 2;
    host.threads = [502];
    const linux = { ...podSpec().linux, resources: { cpu: { cpus: '1-2' } } };
    await open().join('pod', podSpec({ linux }), { share: false, functions: [gpu] });
    expect(host.pinned).toEqual([]);
    expect(host.log.join('\n')).toContain("thread 501 is none of the hypervisor's");
  });

  it('needs an executor with a way into guests', async () => {
    const { guests: _, ...without } = executor;
    expect(() => open(without as unknown as Executor)).toThrow(
      'create pod: wall "vm": needs the monitor of a shim; run the container through containerd',
    );
  });
});

describe('a machine that does not come up', () => {
  it.each([
    ['ETIMEDOUT', 'its agent did not answer within 5 s'],
    ['ECONNRESET', 'its agent hung up, or said what no agent says'],
    ['EBUSY', 'no'],
  ])('says why there is no channel: %s', async (code, reason) => {
    executor.guests.refusal = guestError(code);
    const sandbox = open();
    const error = await failure(sandbox.join('pod', podSpec(), shared));
    expect(error.message).toBe(`create pod: virtual machine: ${reason}`);
    expect(error.code).toBe(ErrorCode.Unavailable);
    await sandbox.leave('pod');
    expect(readdirSync(dir)).toEqual([]);
    expect([...executor.processes.keys()]).toEqual([]);
  });

  it('is reported with the last words of the share daemon', async () => {
    const sandbox = open();
    host.hypervisor.failures.set('plug fs', new Error('refused'));
    host.deps.hypervisor = () => {
      writeFileSync(join(paths.dir, 'fs.log'), 'virtio_session_mount: Waiting\nfuse: no such thing\n');
      return host.hypervisor;
    };
    const error = await failure(sandbox.join('pod', podSpec(), shared));
    expect(error.message).toBe('create pod: virtual machine: refused; its last words: fuse: no such thing');
  });

  it('discards a template that is damaged', async () => {
    const damaged = { code: ErrorCode.Unavailable, op: 'vm', object: 'template', reason: 'is damaged' };
    host.hypervisor.failures.set('attach', new RuntimeError(damaged));
    const error = await failure(open().join('pod', podSpec(), images));
    expect(error.message).toBe('create pod: template: is damaged');
    expect(host.discarded).toBe(1);
    host.discardFails = true;
    expect((await failure(open().join('pod', podSpec(), images))).message).toBe(error.message);
    expect(host.log.join('\n')).toContain('template not removed');
  });

  it.each(['prepare', 'attach', 'plug fs', 'grow 128'])('leaves nothing when %s fails', async (call) => {
    host.growMib = 128;
    host.hypervisor.failures.set(call, new Error('broken'));
    const sandbox = open();
    await expect(sandbox.join('pod', podSpec(), shared)).rejects.toThrow('broken');
    expect(await sandbox.leave('pod')).toBe(true);
    expect(readdirSync(dir)).toEqual([]);
    expect([...executor.processes.keys()]).toEqual([]);
  });

  it('passes the failure of a launch on as it is, and lets go of what only the launch needed', async () => {
    executor.failures.set('/vm', { op: 'clone', path: '', errno: 11, detail: '', status: 0 });
    await expect(open().join('pod', podSpec(), images)).rejects.toMatchObject({ name: 'LaunchError' });
    expect(host.hypervisor.calls).toEqual(['prepare', 'release']);
  });
});

describe('a machine that is lost', () => {
  it('is ended when its channel is gone, and takes no more containers', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    executor.guests.close('closed by the guest');
    expect(executor.calls).toContain('signal /vm 9');
    expect(host.log.join()).toContain('the virtual machine has ended');
    expect(sandbox.isRunning).toBe(false);
    const error = await failure(sandbox.join('two', podSpec(), shared));
    expect(error.message).toBe('create two: virtual machine: has ended');
  });

  it('is told of once, whatever goes first', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    executor.exit('/vm', 9);
    executor.guests.close('gone');
    expect(host.log.filter((line) => line.includes('has ended'))).toHaveLength(1);
  });

  const garbage = Uint8Array.of(0xff, 0xff, 0xff);
  it.each<[string, (sandbox: VmSandbox) => Promise<void>, string]>([
    [
      'answers with what is no reply',
      async (sandbox) => {
        executor.guests.raw = () => garbage;
        const error = await failure(sandbox.agent.onlineMemory('update', 'pod'));
        expect(error.code).toBe(ErrorCode.Internal);
        expect(error.message).toBe('update pod: guest onlineMemory: answers with what is no reply');
      },
      'its agent answers with what is no reply',
    ],
    [
      'tells of what is no event',
      async (sandbox) => {
        sandbox.agent.container('pod').watchOom(() => expect.unreachable('no kill'));
        executor.guests.event(garbage);
        await Promise.resolve();
      },
      'its agent tells of what is no event',
    ],
    ...[-1, 0, 1.5, 2 ** 22 + 1, NaN].map((pid): [string, (s: VmSandbox) => Promise<void>, string] => [
      `starts a process of number ${pid}`,
      async (sandbox) => {
        executor.pid = pid;
        const stdio = { stdin: '', stdout: '', stderr: '', terminal: false };
        const process = { key: 'p', args: ['/x'], env: [], cwd: '/', program: new Uint8Array(), stdio };
        expect((await failure(sandbox.run(process))).message).toBe(
          `guest exec p: guest process ${pid}: tells of a process that there cannot be`,
        );
      },
      'its agent tells of a process that there cannot be',
    ]),
  ])('is one whose agent %s', async (_what, run, reason) => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    await run(sandbox);
    expect(executor.calls).toContain('signal /vm 9');
    expect(host.log.join()).toContain(reason);
  });

  it('is one whose control connection is gone', async () => {
    await open().join('pod', podSpec(), shared);
    host.hypervisor.tell({ type: 'stopped' });
    expect(executor.calls).not.toContain('signal /vm 9');
    host.hypervisor.tell({ type: 'closed', reason: 'sent what is not JSON' });
    expect(executor.calls).toContain('signal /vm 9');
    expect(host.log.join()).toContain('its control connection is gone: sent what is not JSON');
  });

  it('is no loss while it is being ended', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    await sandbox.leave('pod');
    expect(host.log.filter((line) => line.includes('has ended'))).toEqual([]);
  });

  it('is ended by its cgroup when nobody is left to ask', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    await endByCgroup(paths, sandbox.record, host.deps);
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe('an engine that starts again', () => {
  it('takes the machine up from its record', async () => {
    await open().join('pod', podSpec(), shared);
    const again = open();
    expect(again.isRunning).toBe(true);
    expect(again.isMade).toBe(true);
    await again.machine();
    expect(host.hypervisor.calls.at(-1)).toBe('reattach');
    expect((await again.join('two', podSpec(), shared)).serial).toBe(2);
    expect(host.hypervisor.calls.filter((call) => call === 'prepare')).toHaveLength(1);
  });

  it('asks again for a machine that it could not reach', async () => {
    await open().join('pod', podSpec(), shared);
    const again = open();
    host.hypervisor.failures.set('reattach', new Error('no answer within 60000 ms'));
    await expect(again.machine()).rejects.toThrow('no answer');
    host.hypervisor.failures.clear();
    const machine = await again.machine();
    expect(await again.machine()).toBe(machine);
    host.hypervisor.tell({ type: 'closed', reason: 'gone' });
    expect(executor.calls).toContain('signal /vm 9');
  });

  it('ends a machine that was lost meanwhile', async () => {
    await open().join('pod', podSpec(), shared);
    executor.guests.connected = false;
    expect(open().isRunning).toBe(false);
    expect(executor.calls).toContain('signal /vm 9');
  });

  it('refuses a damaged record by name', () => {
    saveSandbox(paths.record, {});
    writeFileSync(paths.record, 'x');
    expect(() => open()).toThrow(`load: ${paths.record}: state file is damaged`);
  });
});

describe('growth', () => {
  it('plugs whole blocks, one limit after the other', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    const grow = (mib: number): Promise<void> => sandbox.growth.memory('pod', mib * MIB);
    await Promise.all([grow(300), grow(200), grow(400)]);
    expect(host.hypervisor.calls.filter((call) => call.startsWith('grow'))).toEqual(['grow 128', 'grow 128']);
    expect(loadSandbox(paths.record)?.memoryMib).toBe(512);
    expect(executor.guests.calls.filter((call) => call === 'onlineMemory')).toHaveLength(2);
  });

  it('is refused above the largest machine, and what failed is not counted', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    const error = await failure(sandbox.growth.memory('pod', 2000 * MIB));
    expect(error.code).toBe(ErrorCode.ResourceExhausted);
    expect(error.message).toBe(
      'update pod: memory of 2064 MiB: is above the largest machine of 1024 MiB; lower the limit, or raise vm.max_memory_mib',
    );
    host.hypervisor.failures.set('grow 256', new Error('no slot'));
    await expect(sandbox.growth.memory('pod', 448 * MIB)).rejects.toThrow('no slot');
    expect(loadSandbox(paths.record)?.memoryMib).toBe(256);
    host.hypervisor.failures.clear();
    await sandbox.growth.memory('pod', 448 * MIB);
    expect(loadSandbox(paths.record)?.memoryMib).toBe(512);
  });
});

describe('memory that the guest did not take into use', () => {
  it('is not plugged twice, but offered again', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    executor.guests.answer = ({ onlineMemory }) =>
      onlineMemory ? { failure: { op: 'online', path: 'memory', errno: 110 } } : {};
    const grow = (): Promise<void> => sandbox.growth.memory('pod', 300 * MIB);
    for (let tries = 0; tries < 2; tries++)
      expect((await failure(grow())).message).toBe('update pod: guest online memory: connection timed out');
    executor.guests.answer = () => ({});
    await grow();
    await grow();
    expect(host.hypervisor.calls.filter((call) => call.startsWith('grow'))).toEqual(['grow 128']);
    expect(executor.guests.calls.filter((call) => call === 'onlineMemory')).toHaveLength(3);
  });
});

describe('growth by processors', () => {
  const joined = async (): Promise<VmSandbox> => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    return sandbox;
  };

  it('plugs what a quota is worth beyond those that are there, and waits for the guest', async () => {
    const sandbox = await joined();
    await Promise.all([1, 1.5, 2, 4].map((cpus) => sandbox.growth.cpus('pod', cpus)));
    expect(host.hypervisor.calls.filter((call) => call.startsWith('vcpus'))).toEqual(['vcpus 1', 'vcpus 2']);
    expect(executor.guests.asked.flatMap(({ onlineCpus }) => onlineCpus?.count ?? [])).toEqual([2, 4]);
    expect(loadSandbox(paths.record)?.vcpus).toBe(4);
    // An engine that starts again knows.
    await open().growth.cpus('pod', 4);
    expect(host.hypervisor.calls).not.toContain('reattach');
  });

  it('is refused above the largest machine', async () => {
    const error = await failure((await joined()).growth.cpus('pod', 4.1));
    expect(error.code).toBe(ErrorCode.ResourceExhausted);
    expect(error.message).toBe(
      'update pod: 5 vCPUs: are above the largest machine of 4; lower the limit, or raise vm.max_vcpus',
    );
  });

  it('is refused where guests take none, and what was there stays enough', async () => {
    host.emulated = true;
    const sandbox = await joined();
    await sandbox.growth.cpus('pod', 1);
    const error = await failure(sandbox.growth.cpus('pod', 2));
    expect(error.code).toBe(ErrorCode.FailedPrecondition);
    expect(error.message).toBe(
      "update pod: 2 vCPUs: the machine has 1, and its guest takes no more while it runs: that needs KVM; give the pod's first container the limit when it is made",
    );
    expect(host.hypervisor.calls.filter((call) => call.startsWith('vcpus'))).toEqual([]);
  });

  it('that the guest does not take into use is told', async () => {
    const sandbox = await joined();
    executor.guests.answer = ({ onlineCpus }) =>
      onlineCpus ? { failure: { op: 'online', path: 'cpus', errno: 110 } } : {};
    const error = await failure(sandbox.growth.cpus('pod', 2));
    expect(error.message).toBe('update pod: guest online cpus: connection timed out');
  });
});

describe('containers of a pod that come and go at once', () => {
  it('have what the machine of the first was made with, or are refused', async () => {
    const sandbox = open();
    const first = sandbox.join('pod', podSpec(), images);
    expect((await failure(sandbox.join('two', podSpec(), shared))).message).toContain(
      'create two: virtual machine: was made for images only',
    );
    const error = await failure(sandbox.join('three', podSpec(), { share: false, functions: [gpu] }));
    expect(error.message).toContain('create three: device 0000:41:00.0: the pod’s machine runs already');
    await first;
    expect(sandbox.record.containers?.map(({ id }) => id)).toEqual(['pod']);
  });

  it('keep the machine for one that is expected', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    expect(sandbox.expect('two')).toBe(true);
    expect(await sandbox.leave('pod')).toBe(false);
    expect((await sandbox.join('two', podSpec(), shared)).serial).toBe(2);
    expect(sandbox.isRunning).toBe(true);
    expect(await sandbox.leave('two')).toBe(true);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('are not taken into a machine that is ending', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    const ending = sandbox.leave('pod');
    expect(sandbox.expect('two')).toBe(false);
    expect((await failure(sandbox.join('two', podSpec(), shared))).message).toBe(
      'create two: virtual machine: has ended',
    );
    expect(await ending).toBe(true);
  });

  it('end the machine once', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    expect(await Promise.all([sandbox.leave('pod'), sandbox.leave('pod')])).toEqual([true, true]);
    expect(executor.calls.filter((call) => call === 'signal /vm 9')).toHaveLength(1);
  });

  it('try to end it again when it has not ended', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), shared);
    host.deps.network = () => {
      throw new Error('no network');
    };
    await expect(sandbox.leave('pod')).rejects.toThrow('no network');
    host.deps.network = new FakeVmHost(dir).deps.network;
    expect(await sandbox.leave('pod')).toBe(true);
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe('/dev/shm of a pod', () => {
  it('is waited for by all that want it, and tried again after a failure', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    executor.guests.answer = ({ mount }) =>
      mount ? { failure: { op: 'mount', path: '/m', errno: 12 } } : {};
    const both = ['pod', 'two'].map((id) => failure(sandbox.agent.mountShm(id, MIB)));
    for (const error of await Promise.all(both)) expect(error.message).toContain('guest mount /m');
    expect(loadSandbox(paths.record)?.shm).not.toBe(true);
    executor.guests.answer = () => ({});
    await sandbox.agent.mountShm('pod', MIB);
    expect(loadSandbox(paths.record)?.shm).toBe(true);
  });

  it('is mounted once', async () => {
    const sandbox = open();
    await sandbox.join('pod', podSpec(), images);
    await sandbox.agent.mountShm('pod', 64 * MIB);
    await sandbox.agent.mountShm('two', 64 * MIB);
    const mounts = executor.guests.asked.flatMap(({ mount }) => (mount ? [mount] : []));
    expect(mounts).toMatchObject([{ target: '/run/bulkhead/shm', data: `mode=1777,size=${64 * MIB}` }]);
  });
});
