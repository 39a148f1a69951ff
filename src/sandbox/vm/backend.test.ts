import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FakeMonitorExecutor } from '../../../test/fakes/machine.ts';
import { FakeVmHost, MIB, podSpec } from '../../../test/fakes/sandbox.ts';
import type { Spec } from '../../oci/types.ts';
import type { ContainerRecord } from '../../state/index.ts';
import type { CreateInput, RootfsMount } from '../backend.ts';
import { VmBackend } from './backend.ts';
import { guestFacts } from './layout.ts';

const ENOENT = 2;
let dir: string;
let host: FakeVmHost;
let executor: FakeMonitorExecutor;
let backend: VmBackend;
let journalled: string[];
let warnings: string[];
let hooks: number[];

let rootDevice: 'block' | 'pmem';
const no = (): never => {
  throw new Error('no persistent memory here');
};

const makeBackend = (): VmBackend =>
  new VmBackend(
    {
      layout: host.deps.layout,
      facts: () => guestFacts,
      compileSeccomp: () => ({ program: new Uint8Array(), flags: 0, warnings: [] }),
      oomAddon: () => {
        throw new Error('the guest counts its own kills');
      },
      warn: (_, message) => void warnings.push(message),
    },
    { top: join(dir, 'vm'), sandbox: host.deps, images: { mapSync: no, readMapped: no }, rootDevice },
  );

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'bh-vm-backend-'));
  mkdirSync(join(dir, 'rootfs'));
  mkdirSync(join(dir, 'data'));
  host = new FakeVmHost(dir);
  executor = new FakeMonitorExecutor();
  executor.gate = (key) => (key.startsWith('/') ? '' : 'start');
  [journalled, warnings, hooks] = [[], [], []];
  rootDevice = 'block';
  backend = makeBackend();
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const record = (id: string, group = 'pod'): ContainerRecord => ({
  namespace: 'ns',
  id,
  group,
  bundle: dir,
  rootfs: join(dir, 'rootfs'),
  init: {},
});
const input = (spec: Spec, rootfsMounts: RootfsMount[] = []): CreateInput => ({
  spec,
  rootfsMounts,
  stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
  options: {},
  executor,
  journal: ({ id }) => void journalled.push(id ?? ''),
  runCreateHooks: async (pid) => void hooks.push(pid),
});
const create = async (of: ContainerRecord, spec = podSpec(), mounts: RootfsMount[] = []): Promise<void> =>
  backend.create(of, input(spec, mounts));
const withData = (options: string): Spec =>
  podSpec({
    mounts: [{ destination: '/d', type: 'bind', source: join(dir, 'data'), options: ['rbind', options] }],
  });
/** Places of containers' files in the share. */
const attachedOf = (key: string): string[] =>
  (executor.launched(key)?.plan.steps ?? [])
    .flatMap(({ attach }) => attach?.target ?? [])
    .filter((target) => target.startsWith('/c'));
const keys = (): string[] => executor.launches.map(({ key }) => key);

function image(name: string): RootfsMount {
  const source = join(dir, name);
  writeFileSync(source, '');
  truncateSync(source, 4 * MIB);
  return { type: 'ext4', source, options: [] };
}

/** As much of a file system as says what it is. */
function ext4(name: string): RootfsMount {
  const mount = image(name);
  const head = Buffer.alloc(2048);
  head.writeUInt16LE(0xef53, 1024 + 0x38);
  head.writeUInt32LE(2, 1024 + 0x18);
  writeFileSync(mount.source, head, { flag: 'r+' });
  return mount;
}

describe('a container in a virtual machine', () => {
  it('comes with its machine, its share, its hooks, and a plan that the guest carries out', async () => {
    const web = record('pod');
    await create(web);
    expect(keys()).toEqual(['/vm/fs', '/vm', '/vm/share-1', 'pod']);
    expect(executor.launched('pod')?.options).toEqual({ guest: 'vm' });
    expect(journalled).toEqual(['pod']);
    expect(hooks).toEqual([executor.processes.get('/vm')?.pid]);
    // containerd is shown the hypervisor; the guest's own pid is for execs.
    expect(web.init?.pid).toBe(executor.processes.get('/vm')?.pid);
    expect(web.guestPid).toBe(executor.processes.get('pod')?.pid);
    expect(web.privatePidNamespace).toBe(true);
  });

  it('is refused before anything is made or written down', async () => {
    const linux = { devices: [{ path: '/dev/sda', type: 'b' as const, major: 8, minor: 0 }] };
    const spec = podSpec({ linux: { ...podSpec().linux, ...linux } });
    await expect(create(record('pod'), spec)).rejects.toThrow('hands no devices of the host over');
    expect(journalled).toEqual([]);
    expect(executor.launches).toEqual([]);
    expect(host.hypervisor.calls).toEqual([]);
  });

  it('has its sources looked at once', async () => {
    const source = join(dir, 'data.ext4');
    const mount = { destination: '/d', type: 'ext4', source, options: [] };
    writeFileSync(source, '');
    truncateSync(source, 4 * MIB);
    // Between the refusals and the machine there is time for it to become something else.
    const { machineConfig } = host.deps;
    host.deps.machineConfig = (...args) => {
      rmSync(source);
      mkdirSync(source);
      return machineConfig(...args);
    };
    await create(record('pod'), podSpec({ mounts: [mount] }));
    expect(host.hypervisor.plugged.at(-1)).toMatchObject({ kind: 'block', path: source });
  });

  it('whose root is an image needs no share, unless it is one of a pod', async () => {
    await create(record('pod'), podSpec(), [image('root.ext4')]);
    expect(keys()).toEqual(['/vm', 'pod']);
    expect(host.hypervisor.plugged).toMatchObject([{ kind: 'block', path: join(dir, 'root.ext4') }]);
    expect(host.pods[0]?.share).toBe(false);
    const annotations = { 'io.kubernetes.cri.container-type': 'sandbox' };
    await create(record('k8s', 'k8s'), podSpec({ annotations }), [image('other.ext4')]);
    expect(host.pods[1]?.share).toBe(true);
  });

  it.each([
    ['pmem', 'read-only', { root: { path: 'rootfs', readonly: true } }],
    ['pmem', 'shared', {}],
  ] as const)('whose root.path is an image has it as %s, %s', async (device, mode, more) => {
    rootDevice = device;
    backend = makeBackend();
    const { source } = ext4('root.img');
    const web = { ...record('pod'), rootfs: source };
    await create(web, podSpec(more));
    expect(host.hypervisor.plugged).toMatchObject([{ kind: 'pmem', path: source, mode }]);
    const [mount] = executor.guests.asked.flatMap(({ mount }) => (mount ? [mount] : []));
    expect(mount).toMatchObject({ fstype: 'ext4', data: 'dax=always' });
    expect(host.pods[0]?.share).toBe(false);
  });

  it('with files of the host does not fit into a machine made for images', async () => {
    await create(record('pod'), podSpec(), [image('root.ext4')]);
    const mounts = [{ destination: '/d', type: 'bind', source: join(dir, 'data'), options: ['bind'] }];
    await expect(create(record('two'), podSpec({ mounts }), [image('two.ext4')])).rejects.toThrow(
      'create two: virtual machine: was made for images only, and has no directory for files of the host',
    );
    expect(journalled).toEqual(['pod']);
  });

  it('joins the namespaces of the first one by its pid in the guest', async () => {
    const first = record('pod');
    await create(first);
    const pid = first.init?.pid ?? 0;
    const namespaces = (podSpec().linux?.namespaces ?? []).map(({ type }) => {
      if (type === 'mount') return { type };
      return { type, path: `/proc/${pid}/ns/${type === 'network' ? 'net' : type}` };
    });
    await create(record('two'), podSpec({ linux: { namespaces } }));
    const joined = executor
      .launched('two')
      ?.plan.steps?.flatMap(({ joinNamespace: join }) => join?.path ?? []);
    expect(joined).toContain(`/proc/${first.guestPid ?? 0}/ns/ipc`);
    expect(host.hypervisor.calls.filter((call) => call === 'prepare')).toHaveLength(1);
  });

  it('that is deleted takes its files along, and the last one the machine', async () => {
    const [first, second] = [record('pod'), record('two')];
    await create(first);
    await create(second);
    await backend.destroy(second, executor);
    expect(executor.launched('/vm/unshare-2')?.plan.steps).toMatchObject([
      { joinNamespace: {} },
      { unmount: { path: '/c2/rootfs' } },
      { exit: {} },
    ]);
    expect(executor.guests.calls).toContain('remove /sys/fs/cgroup/bulkhead/two');
    await backend.destroy(first, executor);
    expect([...executor.processes.keys()].filter((key) => key.startsWith('/vm'))).not.toContain('/vm');
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
  });

  it('has its volumes in common with the others of its pod, until the last of them has gone', async () => {
    const sourceOf = (id: string): string | undefined =>
      executor
        .launched(id)
        ?.plan.steps?.flatMap(({ openTree }) => openTree?.path ?? [])
        .find((path) => path.endsWith('/m0'));
    const unmountedOf = (key: string): string[] =>
      (executor.launched(key)?.plan.steps ?? []).flatMap(({ unmount }) => unmount?.path ?? []);
    const [first, second, third] = [record('pod'), record('two'), record('three')];
    await create(first, withData('rw'));
    // An engine that has started meanwhile knows of it too.
    backend = makeBackend();
    await Promise.all([create(second, withData('rw')), create(third, withData('ro'))]);
    expect(attachedOf('/vm/share-1')).toEqual(['/c1/rootfs', '/c1/m0']);
    expect(attachedOf('/vm/share-2')).toEqual(['/c2/rootfs']);
    expect(attachedOf('/vm/share-3')).toEqual(['/c3/rootfs']);
    const common = '/run/bulkhead/share/c1/m0';
    expect(['pod', 'two', 'three'].map(sourceOf)).toEqual([common, common, common]);
    await backend.destroy(first, executor);
    expect(unmountedOf('/vm/unshare-1')).toEqual(['/c1/rootfs']);
    expect(executor.guests.calls).not.toContain(`unmount ${common}`);
    await backend.destroy(second, executor);
    expect(unmountedOf('/vm/unshare-2')).toEqual(['/c2/rootfs']);
    await create(record('four'), withData('rw'));
    expect(sourceOf('four')).toBe(common);
    await backend.destroy(third, executor);
    await create(record('five'));
    await backend.destroy(record('four'), executor);
    expect(unmountedOf('/vm/unshare-4')).toEqual(['/c4/rootfs', '/c1/m0']);
    expect(executor.guests.calls).toContain(`unmount ${common}`);
  });

  it('that may write has no mount that the host made read-only for another', async () => {
    await create(record('pod'), withData('ro'));
    await create(record('two'), withData('rw'));
    expect(attachedOf('/vm/share-2')).toEqual(['/c2/rootfs', '/c2/m0']);
  });

  it('has nothing in common with others that has gone from the host meanwhile', async () => {
    await create(record('pod'));
    const journal = (): void => rmSync(join(dir, 'data'), { recursive: true });
    await backend.create(record('two'), { ...input(withData('rw')), journal });
    mkdirSync(join(dir, 'data'));
    await create(record('three'), withData('rw'));
    // The executor says what is missing.
    expect(attachedOf('/vm/share-2')).toEqual(['/c2/rootfs', '/c2/m0']);
    expect(attachedOf('/vm/share-3')).toEqual(['/c3/rootfs', '/c3/m0']);
  });

  it('gives its disk back to a pod that goes on, written to the end', async () => {
    await create(record('pod'));
    const second = record('two');
    await create(second, podSpec(), [image('two.ext4')]);
    const device = host.hypervisor.plugged.at(-1)?.id ?? '';
    executor.guests.calls.length = 0;
    await backend.destroy(second, executor);
    expect(executor.guests.calls.slice(0, 2)).toEqual(['sync', `unmount /run/bulkhead/volumes/${device}`]);
    expect(host.hypervisor.calls.at(-1)).toBe(`unplug ${device}`);
  });

  it('is deleted though its guest answers nothing any more', async () => {
    await create(record('pod'), podSpec(), [image('root.ext4')]);
    executor.guests.answer = () => ({ failure: { op: 'sync', path: '', errno: 110 } });
    await backend.destroy(record('pod'), executor);
    expect(warnings.join()).toContain('guest sync');
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
  });

  it.each(['/vm/share-1', 'pod'])('leaves nothing when the launch of %s fails', async (key) => {
    executor.failures.set(key, {
      index: 0,
      action: 1,
      path: '/x',
      errno: ENOENT,
      detail: '',
      status: 0,
      op: '',
    });
    const web = record('pod');
    await expect(create(web)).rejects.toMatchObject({ name: 'LaunchError' });
    await backend.destroy(web, executor);
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
    expect(executor.processes.has('/vm')).toBe(false);
  });
});

describe('containers that come and go at once', () => {
  /** The hypervisor takes its time to end, until it is told to. */
  const lingering = (): (() => void) => {
    let release = (): void => {};
    const released = new Promise<void>((resolve) => (release = resolve));
    const forget = executor.forget.bind(executor);
    executor.forget = async (key) => {
      if (key === '/vm') await released;
      return forget(key);
    };
    return release;
  };
  const made = (): number => host.hypervisor.calls.filter((call) => call === 'prepare').length;

  it('give one that comes while the last one leaves a machine of its own', async () => {
    const [first, second] = [record('pod'), record('two')];
    await create(first);
    const release = lingering();
    const going = [backend.destroy(first, executor), backend.destroy(first, executor)];
    await vi.waitFor(() => expect(executor.calls).toContain('signal /vm 9'));
    const coming = create(second);
    release();
    await Promise.all([...going, coming]);
    expect(made()).toBe(2);
    expect(executor.processes.has('/vm')).toBe(true);
    await backend.pause(second, executor);
    await backend.destroy(second, executor);
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
    expect(executor.processes.has('/vm')).toBe(false);
  });

  it('are not ended by one that is refused', async () => {
    const coming = create(record('pod'));
    await backend.destroy(record('refused'), executor);
    await coming;
    expect(executor.processes.has('/vm')).toBe(true);
    await backend.destroy(record('pod'), executor);
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
  });

  it('find out which of them the machine was made for', async () => {
    const both = [
      create(record('pod'), podSpec(), [image('root.ext4')]),
      create(record('two'), withData('rw'), [image('two.ext4')]),
    ];
    const [first, second] = await Promise.allSettled(both);
    expect(first?.status).toBe('fulfilled');
    expect(String((second as PromiseRejectedResult).reason)).toContain('was made for images only');
  });

  it('keep a disk that the one which goes has had', async () => {
    await create(record('pod'));
    const mounts = [{ destination: '/d', type: 'ext4', source: image('data.ext4').source, options: [] }];
    await create(record('two'), podSpec({ mounts }));
    const device = host.hypervisor.plugged.at(-1)?.id ?? '';
    // The guest shows what it has mounted; the one that has it goes just then.
    let going: Promise<void> | undefined;
    executor.guests.answer = ({ readFiles }) => {
      if (readFiles?.paths?.[0] !== '/proc/1/mounts') return {};
      going ??= backend.destroy(record('two'), executor);
      return {
        files: [
          {
            path: '/proc/1/mounts',
            data: Buffer.from(`/dev/vda /run/bulkhead/volumes/${device} ext4\n`),
          },
        ],
      };
    };
    await create(record('three'), podSpec({ mounts }));
    await going;
    expect(host.hypervisor.calls).not.toContain(`unplug ${device}`);
    await backend.destroy(record('three'), executor);
    expect(host.hypervisor.calls).toContain(`unplug ${device}`);
  });

  it('are deleted though the guest refuses to let go of what they had', async () => {
    await create(record('pod'));
    await create(record('two'));
    executor.guests.answer = ({ remove }) =>
      remove ? { failure: { op: 'rmdir', path: '/c', errno: 16 } } : {};
    await backend.destroy(record('two'), executor);
    expect(warnings.join()).toContain('delete two: guest rmdir /c');
    expect(keys()).toContain('/vm/unshare-2');
  });
});

describe('a container that runs', () => {
  const exec = { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } };
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false };

  it('is joined by an exec in the guest, also after a restart of the engine', async () => {
    const web = record('pod');
    await create(web);
    backend = makeBackend();
    await backend.exec(web, { execId: 'e', process: exec, stdio, executor });
    expect(executor.launched('pod/e')?.options).toEqual({ guest: 'vm' });
    expect(host.hypervisor.calls.filter((call) => call === 'prepare')).toHaveLength(1);
  });

  it('has a machine that grows before its limit does', async () => {
    const web = record('pod');
    await create(web);
    executor.guests.calls.length = 0;
    await backend.update(web, { memory: { limit: 512 * MIB } }, executor);
    expect(host.hypervisor.calls).toContain('grow 384');
    expect(executor.guests.calls[0]).toBe('onlineMemory');
    expect(executor.guests.calls.slice(1)).toContain('writeFiles /sys/fs/cgroup/bulkhead/pod/memory.max');
  });

  it('is paused, resumed and killed by its cgroup in the guest', async () => {
    const web = record('pod');
    await create(web);
    executor.guests.calls.length = 0;
    await backend.pause(web, executor);
    await backend.resume(web, executor);
    await backend.killAll(web, executor);
    const cgroup = '/sys/fs/cgroup/bulkhead/pod';
    expect(executor.guests.calls).toEqual([
      `writeFiles ${cgroup}/cgroup.freeze`,
      'awaitFile',
      `writeFiles ${cgroup}/cgroup.freeze`,
      `writeFiles ${cgroup}/cgroup.kill`,
    ]);
  });

  it('is killed with its machine when its guest does not answer any more', async () => {
    const web = record('pod');
    await create(web);
    executor.guests.answer = ({ writeFiles }) =>
      writeFiles ? { failure: { op: 'write', path: '', errno: 5 } } : {};
    await expect(backend.killAll(web, executor)).rejects.toThrow('kill pod: guest write: input/output error');
    expect(executor.calls).not.toContain('signal /vm 9');
    executor.guests.answer = ({ writeFiles }) =>
      writeFiles ? { failure: { op: 'call', path: '', errno: 110 } } : {};
    await backend.killAll(web, executor);
    expect(executor.calls).toContain('signal /vm 9');
    expect(host.log.join()).toContain('its agent does not answer');
  });

  it.each(['create two', 'exec pod/e'])('is not waited for without end: %s', async (what) => {
    const web = record('pod');
    await create(web);
    const launch = executor.launch.bind(executor);
    executor.launch = (key, ...rest) =>
      key.startsWith('/') ? launch(key, ...rest) : new Promise(() => undefined);
    vi.useFakeTimers();
    try {
      const run = what.startsWith('exec')
        ? backend.exec(web, { execId: 'e', process: exec, stdio, executor })
        : create(record('two'));
      const error = run.then(
        () => '',
        ({ message }: Error) => message,
      );
      await vi.advanceTimersByTimeAsync(119_000);
      expect(await Promise.race([error, Promise.resolve('waits')])).toBe('waits');
      await vi.advanceTimersByTimeAsync(1000);
      expect(await error).toBe(`${what}: guest launch: no answer within 120 s`);
    } finally {
      vi.useRealTimers();
    }
    expect(executor.guests.connected).toBe(true);
  });

  it('is told of kills by the limit of memory, and of nobody else’s', async () => {
    const web = record('pod');
    await create(web);
    let kills = 0;
    const stop = backend.watchOom(web, () => (kills += 1), executor);
    executor.guests.oom('/sys/fs/cgroup/bulkhead/two');
    executor.guests.oom('/sys/fs/cgroup/bulkhead/pod');
    expect(kills).toBe(1);
    stop();
    executor.guests.oom('/sys/fs/cgroup/bulkhead/pod');
    expect(kills).toBe(1);
  });

  it('is ended by its cgroup when its monitor is gone', async () => {
    const web = record('pod');
    await create(web);
    await backend.destroy(web);
    expect(readdirSync(join(dir, 'vm'))).toEqual([]);
  });
});
