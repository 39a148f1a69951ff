/**
 * The driver against the distribution's QEMU, under TCG, with a guest that only halts: what QEMU itself accepts. What a
 * guest makes of it is tested end to end.
 */
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { addon, type Addon } from '../../../../native/index.ts';
import { Launcher, type Launched } from '../../../../native/launcher.ts';
import { encodePlan } from '../../../../plan/encode.ts';
import type { Machine, MachineConfig, MachineEvent, MachineLaunch } from '../hypervisor.ts';
import { machinePlan } from '../machine_plan.ts';
import { testConfig } from '../testing/config.ts';
import { HALTED, writeHaltKernel } from '../testing/halt_kernel.ts';
import { hostAccelerators, tryKvm } from './accelerator.ts';
import { QemuHypervisor } from './driver.ts';
import { TemplateStore } from './template.ts';

const root = join(import.meta.dirname, '../../../../..');
const program = '/usr/bin/qemu-system-x86_64';
const launcher = new Launcher(join(root, 'build/native/bulkhead-init'));
const SIGKILL = 9;
const SIGSTOP = 19;
/** Nobody, when this is root; else whoever this is. */
const credentials = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : undefined;

let dir: string;
let cache: string;
const running: { process: Launched; machine?: Machine }[] = [];

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'bulkhead-qemu-'));
  chmodSync(dir, 0o755);
  cache = join(dir, 'cache');
  writeHaltKernel(join(dir, 'kernel'));
  writeFileSync(join(dir, 'initrd'), 'none');
});

afterAll(async () => {
  for (const { process, machine } of running) {
    machine?.close();
    if (!process.over) process.signal(SIGKILL);
    await process.exited;
  }
  rmSync(dir, { recursive: true, force: true });
});

const hypervisor = new QemuHypervisor({ program, addon: addon(), launcher });

let machines = 0;
function config(changes: Partial<MachineConfig> = {}): MachineConfig {
  const own = join(dir, `m${machines++}`);
  mkdirSync(own);
  return testConfig({
    dir: own,
    image: { kernel: join(dir, 'kernel'), initrd: join(dir, 'initrd') },
    size: { memoryMib: 64, vcpus: 1, maxVcpus: 2 },
    ports: 8,
    ...changes,
  });
}

async function start(launch: MachineLaunch): Promise<Launched> {
  const console = openSync(launch.stdio.stdout, constants.O_RDWR | constants.O_NONBLOCK);
  const plan = encodePlan(machinePlan(launch, { id: 'qemu' }));
  const launched = launcher.launch({ plan, stdio: [-1, console, console] });
  launched.exited.then(
    () => closeSync(console),
    () => {},
  );
  running.push({ process: launched });
  await launched.advance();
  launch.release();
  return launched;
}

async function machine(
  changes: Partial<MachineConfig> = {},
): Promise<{ machine: Machine; process: Launched }> {
  const launch = await hypervisor.prepare(config(changes));
  const process = await start(launch);
  const attached = await hypervisor.attach(launch);
  running.push({ process, machine: attached });
  return { machine: attached, process };
}

/** Until the kernel runs: a copy of a firmware that is still at work has no kernel to start, and ends. */
async function halted(console: string): Promise<void> {
  const fd = openSync(console, constants.O_RDONLY | constants.O_NONBLOCK);
  const said = Buffer.alloc(4096);
  const read = (): string => {
    try {
      return said.toString('latin1', 0, readSync(fd, said));
    } catch {
      return '';
    }
  };
  while (!read().includes(HALTED)) await sleep(5);
  closeSync(fd);
}

function store(log: string[] = []): TemplateStore {
  const sink = (_level: string, message: string): void => void log.push(message);
  const logger = {
    log: sink,
    debug: () => {},
    info: () => {},
    error: () => {},
    warning: (m: string) => void log.push(m),
  };
  return new TemplateStore({
    cache,
    hypervisor,
    addon: addon(),
    log: { ...logger, with: () => ({ ...logger, with: () => logger as never }) },
    launch: async (launch) => {
      const process = await start(launch);
      return { exited: process.exited, kill: () => (process.over ? undefined : process.signal(SIGKILL)) };
    },
    probe: ({ stdio }) => halted(stdio.stdout),
  });
}

describe('a machine', () => {
  it('runs in its filter, as nobody, and takes every kind of device', async () => {
    const disk = join(dir, 'disk');
    writeFileSync(disk, '');
    truncateSync(disk, 4 << 20);
    const pmem = join(dir, 'pmem');
    writeFileSync(pmem, '');
    chmodSync(pmem, 0o600);
    truncateSync(pmem, 2 << 20);
    const { machine: target, process } = await machine({ sharedMemory: true, credentials });
    const status = readFileSync(`/proc/${process.pid}/status`, 'utf8');
    expect(status).toMatch(/^Seccomp:\t2$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    if (credentials !== undefined) {
      expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
      expect(status).toMatch(/^CapEff:\t0000000000000000$/m);
      expect(status).toMatch(/^CapBnd:\t0000000000000000$/m);
    }
    expect(await target.status()).toEqual({ running: true, state: 'running' });
    expect(await target.plug({ kind: 'block', id: 'd', path: disk, readOnly: false })).toEqual({
      pciPath: '0000:00:04.0/00.0',
    });
    await target.plug({ kind: 'pmem', id: 'p', path: pmem, size: 2 << 20, mode: 'shared' });
    const dimm = { kind: 'nvdimm', path: pmem, size: 2 << 20, align: 2 << 20 } as const;
    const place = await target.plug({ ...dimm, id: 'n', readOnly: false, sync: false });
    expect(place.pciPath).toBe('');
    expect((place.address ?? 1) % (2 << 20)).toBe(0);
    expect(await target.plug({ ...dimm, id: 'n', readOnly: false, sync: false })).toEqual(place);
    const other = await target.plug({ ...dimm, id: 'r', readOnly: true, sync: false });
    expect(other.address).not.toBe(place.address);
    await target.growMemory(128);
    await target.addVcpus(1);
    await expect(target.plug({ kind: 'block', id: 'e', path: disk, readOnly: true })).rejects.toThrow('lock');
    await target.stop();
    expect(await target.status()).toEqual({ running: false, state: 'paused' });
    const impatient = new QemuHypervisor({ program, addon: addon(), deadlineMs: 300 });
    const again = await impatient.reattach(target.config).catch((error: Error) => error.message);
    // One control connection at a time: a second one waits for the first to close.
    expect(again).toContain('no answer within');
    target.close();
    const second = await hypervisor.reattach(target.config);
    await expect(second.plug({ kind: 'block', id: 'd', path: disk, readOnly: true })).rejects.toThrow(
      'is plugged already',
    );
    const events: MachineEvent[] = [];
    second.onEvent((event) => events.push(event));
    await second.quit();
    expect((await process.exited).waitStatus).toBe(0);
    expect(events.map(({ type }) => type)).toContain('shutdown');
  }, 60_000);

  it('lists what was there at the start before the guest runs', async () => {
    const disk = join(dir, 'cold');
    writeFileSync(disk, '');
    truncateSync(disk, 1 << 20);
    const { machine: target } = await machine({
      devices: [{ kind: 'block', id: 'root', path: disk, readOnly: true }],
    });
    expect(await target.status()).toEqual({ running: true, state: 'running' });
    await expect(target.plug({ kind: 'block', id: 'root', path: disk, readOnly: true })).rejects.toThrow(
      'already',
    );
    await target.quit();
  });

  it('is a microvm on request', async () => {
    const { machine: target } = await machine({ type: 'microvm', ports: 0 });
    expect(await target.status()).toEqual({ running: true, state: 'running' });
    await target.quit();
  });

  it('is given the device of vsock instead of a socket for its agent', async () => {
    const own = config({ vsockCid: 70_000 });
    const { listen, files, agent, release } = await hypervisor.prepare(own);
    release();
    expect(listen).toEqual([{ path: join(own.dir, 'qmp.sock'), descriptor: 3 }]);
    expect(files).toContainEqual({ path: '/dev/vhost-vsock', flags: constants.O_RDWR, descriptor: 4 });
    expect(agent).toEqual({ path: 'vsock://70000:1024' });
  });

  it('says when QEMU ended instead of answering', async () => {
    const launch = await hypervisor.prepare(config({ image: { kernel: '/nowhere', initrd: '/nowhere' } }));
    await start(launch);
    await expect(hypervisor.attach(launch)).rejects.toThrow(/^vm pod-1: qemu's control socket/);
  });

  it.each<[string, Partial<MachineConfig>, string]>([
    ['memory', { size: { memoryMib: 16, vcpus: 1 } }, 'vm pod-1: memory 16 MiB: less than 48 MiB'],
    ['vcpus', { size: { memoryMib: 64, vcpus: 0 } }, 'vm pod-1: 0 vcpus: not a positive whole number'],
    ['ports', { ports: 65 }, 'vm pod-1: 65 ports: not between 0 and 64'],
    ['a directory', { dir: `/${'d'.repeat(100)}` }, 'too long for the path of a socket'],
    [
      'an IOMMU for nothing',
      { iommu: true },
      'vm pod-1: an IOMMU of the guest: is there for functions of the host, and the machine has none',
    ],
    [
      'a microvm with devices',
      { type: 'microvm', devices: [{ kind: 'block', id: 'a', path: '/x', readOnly: true }] },
      'machine microvm: takes no devices; use machine q35',
    ],
  ])('refuses a bad size: %s', async (_what, changes, reason) => {
    await expect(hypervisor.prepare(testConfig(changes))).rejects.toThrow(reason);
  });
});

describe('templates', () => {
  const privately = (): Promise<number[]> =>
    Promise.resolve(
      readdirSync(join(cache, 'templates'))
        .filter((name) => !name.endsWith('.lock'))
        .map((name) => name.length),
    );

  it('are built once, and machines begin as copies of them', async () => {
    const templates = store();
    const wanted = config();
    expect(await templates.find(wanted)).toBeUndefined();
    const [one, two] = await Promise.all([templates.ensure(wanted), templates.ensure(wanted)]);
    expect(one).toBe(two);
    expect(await store().ensure(config())).toEqual(one);
    expect(await privately()).toEqual([32]);
    for (const sharedMemory of [false, true]) {
      const { machine: clone, process } = await machine({ template: one, sharedMemory, credentials });
      expect(await clone.status()).toEqual({ running: true, state: 'running' });
      // Neither may a machine that has broken out write to what the next one begins as.
      const memory = openSync(`/proc/${process.pid}/fd/6`, constants.O_RDWR);
      const write = (): number => writeSync(memory, 'x', 0);
      if (sharedMemory) expect(write()).toBe(1);
      else expect(write).toThrow('EPERM');
      closeSync(memory);
      await clone.quit();
    }
  }, 60_000);

  const damage: [string, (template: string) => void, string][] = [
    [
      'a truncated memory',
      (path) => truncateSync(join(path, 'memory'), 1 << 20),
      'its memory has 1048576 bytes',
    ],
    ['no memory', (path) => rmSync(join(path, 'memory')), 'memory is missing'],
    ['a truncated state', (path) => truncateSync(join(path, 'state'), 100), 'its state has 100 bytes'],
    ['a changed state', (path) => scribble(join(path, 'state'), 5000), 'its state is damaged'],
    ['a changed memory', (path) => scribble(join(path, 'memory'), LOADED), 'its memory is damaged'],
    [
      "no manifest's end",
      (path) => truncateSync(join(path, 'manifest.json'), 20),
      'its manifest is not JSON',
    ],
    [
      'another manifest',
      (path) => writeFileSync(join(path, 'manifest.json'), '{"format":1}'),
      'its manifest is not complete',
    ],
  ];
  /** Where the kernel was loaded: not a hole. */
  const LOADED = 0x100000;

  it.each(damage)(
    'with %s are built anew, and the log says why',
    async (_what, harm, reason) => {
      const before = await store().ensure(config());
      hypervisor.templates.forget(before.memory);
      harm(join(before.memory, '..'));
      const log: string[] = [];
      const after = await store(log).ensure(config());
      expect(log[0]).toContain(reason);
      expect(log[0]).toContain('remove it, and it is built anew');
      const { machine: clone } = await machine({ template: after });
      await clone.quit();
    },
    60_000,
  );

  it('that QEMU cannot restore are one error', async () => {
    const image = await store().ensure(config());
    const state = join(dir, 'other-state');
    writeFileSync(state, 'QEVM garbage');
    const launch = await hypervisor.prepare(config({ template: { ...image, state } }));
    await start(launch);
    await expect(hypervisor.attach(launch)).rejects.toThrow(
      'vm pod-1: template: its state cannot be restored',
    );
  });

  describe('that cannot be built', () => {
    const openFiles = (): number => readdirSync('/proc/self/fd').length;
    let builders = 0;
    let process: Launched;
    const enospc = Object.assign(new Error('copy: no space left on device'), { code: 'ENOSPC' });

    interface Faults {
      by: QemuHypervisor;
      copySparse: Addon['copySparse'];
      probe: (launch: MachineLaunch) => Promise<void>;
    }
    const builder = (own: string, { by = hypervisor, copySparse, probe }: Partial<Faults>): TemplateStore =>
      new TemplateStore({
        cache: own,
        hypervisor: by,
        addon: {
          flock: (...args) => addon().flock(...args),
          copySparse: copySparse ?? ((...args) => addon().copySparse(...args)),
        },
        launch: async (launch) => {
          process = await start(launch);
          const { exited } = process;
          return { exited, kill: () => (process.over ? undefined : process.signal(SIGKILL)) };
        },
        probe: probe ?? (({ stdio }) => halted(stdio.stdout)),
      });
    const silentLater = async ({ stdio }: MachineLaunch): Promise<void> => {
      await halted(stdio.stdout);
      process.signal(SIGSTOP);
    };
    const impatient = new QemuHypervisor({ program, addon: addon(), launcher, deadlineMs: 300 });

    it.each<[string, Partial<Faults>, string]>([
      [
        'whose guest does not come up',
        { probe: () => Promise.reject(new Error('the agent is silent')) },
        'the agent is silent',
      ],
      [
        'whose guest ends',
        {
          probe: () => {
            process.signal(SIGKILL);
            return new Promise(() => {});
          },
        },
        'vm template: the guest has ended before its agent answered',
      ],
      [
        'whose QEMU falls silent',
        { by: impatient, probe: silentLater },
        'vm template: qemu (greeting|qmp_capabilities): no answer within 300 ms',
      ],
      [
        'for which the disk is too small',
        { copySparse: () => Promise.reject(enospc) },
        'copy: no space left on device',
      ],
    ])(
      '%s leave nothing',
      async (_what, faults, reason) => {
        // Others on this host build theirs in the same place.
        const own = join(dir, `t${builders++}`);
        mkdirSync(own, { mode: 0o755 });
        const failing = builder(join(own, 'cache'), faults);
        const wanted = config();
        const at = await failing.directory(wanted);
        const before = openFiles();
        vi.stubEnv('TMPDIR', own);
        const error = await failing.ensure(wanted).catch((thrown: Error) => thrown);
        expect((error as Error).message).toMatch(new RegExp(`^build template: ${at}: ${reason}$`));
        vi.unstubAllEnvs();
        await process.exited;
        expect(
          readdirSync(join(own, 'cache', 'templates')).filter((name) => !name.endsWith('.lock')),
        ).toEqual([]);
        expect(readdirSync(own)).toEqual(['cache']);
        // Those of machines before may have been closed meanwhile.
        expect(openFiles()).toBeLessThanOrEqual(before);
      },
      60_000,
    );

    it('before are in nobody’s way', async () => {
      const own = join(dir, `t${builders++}`);
      const templates = builder(own, {});
      const wanted = config();
      const at = await templates.directory(wanted);
      const others = join(own, 'templates');
      // One without a manifest, what a killed builder of another has left, and what one is at work on.
      for (const name of [at, join(others, 'killed.new'), join(others, 'busy.new')]) {
        mkdirSync(name, { recursive: true });
        writeFileSync(join(name, 'state'), 'x');
      }
      const lock = openSync(join(others, 'busy.lock'), constants.O_RDWR | constants.O_CREAT);
      addon().flock(lock, true);
      expect(await templates.ensure(wanted)).toMatchObject({ state: join(at, 'state') });
      closeSync(lock);
      expect(
        readdirSync(others)
          .filter((name) => !name.endsWith('.lock'))
          .toSorted(),
      ).toEqual([basename(at), 'busy.new'].toSorted());
    }, 60_000);

    it('because another process does are not waited for without end', async () => {
      const own = join(dir, `t${builders++}`);
      const wanted = config();
      const templates = new TemplateStore({
        cache: own,
        hypervisor,
        addon: addon(),
        launch: () => Promise.reject(new Error('launched')),
        probe: () => Promise.resolve(),
        bootDeadlineMs: 20,
      });
      const at = await templates.directory(wanted);
      mkdirSync(join(own, 'templates'), { recursive: true });
      const lock = openSync(`${at}.lock`, constants.O_RDWR | constants.O_CREAT);
      addon().flock(lock, true);
      const before = openFiles();
      await expect(templates.ensure(wanted)).rejects.toThrow(
        `build template: ${at}.lock: another process holds it, and has not built the template yet`,
      );
      expect(openFiles()).toBe(before);
      closeSync(lock);
      await expect(templates.ensure(wanted)).rejects.toThrow('launched');
    });
  });

  it('that another process has built anew are loaded anew', async () => {
    const own = join(dir, 'rebuilt');
    mkdirSync(own);
    const image = await store().ensure(config());
    const memory = join(own, 'memory');
    writeFileSync(memory, Buffer.alloc(8192, 'a'));
    const sumOf = async (): Promise<bigint> => {
      const [from, to] = [openSync(memory, 'r'), addon().memfd('sum', 8192)];
      const sum = await addon().copySparse(from, to, true, false);
      [from, to].forEach((fd) => closeSync(fd));
      return sum;
    };
    const first = { ...image, memory, memorySum: await sumOf() };
    const old = await hypervisor.templates.sealed(first);
    expect(await hypervisor.templates.sealed(first)).toBe(old);
    writeFileSync(memory, Buffer.alloc(8192, 'b'));
    const second = { ...first, memorySum: await sumOf() };
    const loaded = Buffer.alloc(1);
    readSync(await hypervisor.templates.sealed(second), loaded, 0, 1, 0);
    expect(loaded.toString()).toBe('b');
    hypervisor.templates.forget(memory);
  });

  it('that are discarded stay when they were built since', async () => {
    const templates = store();
    const wanted = config();
    const image = await templates.ensure(wanted);
    await templates.discard({ ...wanted, template: { ...image, memorySum: image.memorySum + 1n } });
    expect(existsSync(image.memory)).toBe(true);
    // A machine that is being launched from it still finds its memory.
    const launch = await hypervisor.prepare(config({ template: image }));
    await templates.discard({ ...wanted, template: image });
    expect(existsSync(image.memory)).toBe(false);
    const path = launch.files.find(({ descriptor }) => descriptor === 6)?.path ?? '';
    expect(readlinkSync(path)).toContain('bulkhead template');
    launch.release();
    expect(existsSync(path)).toBe(false);
  }, 60_000);

  it.each(['without a template', 'from a template, privately', 'from a template, shared'])(
    'a machine that cannot be prepared leaves no descriptor: %s',
    async (how) => {
      const template = how.startsWith('without') ? undefined : await store().ensure(config());
      const broken = config({ template, sharedMemory: how.endsWith('shared') });
      rmSync(broken.dir, { recursive: true });
      const before = openFilesNow();
      await expect(hypervisor.prepare(broken)).rejects.toThrow('no such file');
      expect(() => hypervisor.prepareTemplate({ ...broken, template: undefined })).toThrow('no such file');
      // The copy of a template's memory goes on, with descriptors of its own.
      await vi.waitFor(() => expect(openFilesNow()).toBe(before), { timeout: 60_000 });
    },
    60_000,
  );
  const openFilesNow = (): number => readdirSync('/proc/self/fd').length;

  it('are others for other kernels, sizes and machines', async () => {
    const templates = store();
    writeFileSync(join(dir, 'initrd2'), 'other');
    const all = await Promise.all(
      [
        config(),
        config({ size: { memoryMib: 128, vcpus: 1 } }),
        config({ size: { memoryMib: 64, vcpus: 2 } }),
        config({ ports: 3 }),
        config({ vsockCid: 70_000 }),
        config({ image: { kernel: join(dir, 'kernel'), initrd: join(dir, 'initrd2') } }),
        config({ image: { kernel: join(dir, 'kernel'), initrd: join(dir, 'initrd'), commandLine: 'x' } }),
      ].map((one) => templates.directory(one)),
    );
    expect(new Set(all).size).toBe(all.length);
    const same = config({ id: 'other', sharedMemory: true, credentials: { uid: 1, gid: 1 } });
    expect(await templates.directory(same)).toBe(all[0]);
    expect(await templates.directory(config({ vsockCid: 70_001 }))).toBe(all[4]);
  });
});

function scribble(path: string, at: number): void {
  const fd = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readFileSync(path).copy(byte, 0, at, at + 1);
  writeSync(fd, Buffer.from([(byte[0] ?? 0) ^ 0xff]), 0, 1, at);
  closeSync(fd);
}

describe('the trial of KVM', () => {
  const script = (text: string): string => {
    // The trial is nobody, as a machine is.
    chmodSync(dir, 0o755);
    const path = join(dir, `vmm${machines++}`);
    writeFileSync(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    return path;
  };
  const trial = (path: string, deadlineMs = 5000): Promise<string | undefined> =>
    tryKvm({ program: path, launcher, addon: addon(), deadlineMs });

  it('takes an end for a no', async () => {
    expect(await trial(script('exit 1'))).toBe('qemu ended');
  });

  it('is made without rights', async () => {
    const unlessNobody = script('[ "$(id -u)" != 0 ] || exec sleep 1000; exit 1');
    expect(await trial(unlessNobody)).toBe('qemu ended');
  });

  it('takes silence for a no, and ends it', async () => {
    expect(await trial(script('exec sleep 1000'), 200)).toMatch(/no answer within 200 ms/);
  });

  it('takes a missing program for a no', async () => {
    expect(await trial('/nowhere')).toBeDefined();
  });

  it('takes a greeting for a yes', async () => {
    const emulated = script(
      `shift 7; exec ${program} -nodefaults -display none -S -machine none -accel tcg "$@"`,
    );
    expect(await trial(emulated, 20_000)).toBeUndefined();
  });

  it('asks the host only what is safe', () => {
    const host = hostAccelerators({ program, launcher, addon: addon() });
    expect(host.cpuinfo()).toContain('processor');
    expect(host.hasDevice()).toBe(existsSync('/dev/kvm'));
  });
});
