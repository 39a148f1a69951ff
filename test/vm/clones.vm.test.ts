/**
 * Twenty machines from one template, with the real guest: what the kernel gives out at random differs although none of
 * them has been told anything yet; names and clocks differ once they are set up.
 */
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/native/index.ts';
import { Launcher, type Launched } from '../../src/native/launcher.ts';
import { encodePlan } from '../../src/plan/encode.ts';
import { probeAgent } from '../../src/sandbox/vm/agent_probe.ts';
import { machineCredentials } from '../../src/sandbox/vm/hypervisor/credentials.ts';
import type {
  Machine,
  MachineConfig,
  MachineLaunch,
  TemplateImage,
} from '../../src/sandbox/vm/hypervisor/hypervisor.ts';
import { machinePlan } from '../../src/sandbox/vm/hypervisor/machine_plan.ts';
import { QemuHypervisor } from '../../src/sandbox/vm/hypervisor/qemu/driver.ts';
import { TemplateStore } from '../../src/sandbox/vm/hypervisor/qemu/template.ts';
import { HostSession } from '../contract/agent/harness.ts';
import { until } from '../contract/monitor/harness.ts';
import { guestAssets } from './assets.ts';

const CLONES = 20;
const AT_ONCE = 4;
const SIGKILL = 9;
const ANSWER_MS = 60_000;
const LOOK_MS = 50;
/** A guest that idles has done what its work queues held; a host that is busy may not have let it. */
const IDLE_MS = 100;
const IDLES = 3;
const RANDOM = '/proc/sys/kernel/random/uuid';
const ROOT = resolve(import.meta.dirname, '../..');

const launcher = new Launcher(join(ROOT, 'build/native/bulkhead-init'));
const hypervisor = new QemuHypervisor({ program: '/usr/bin/qemu-system-x86_64', addon: addon(), launcher });

let dir: string;
let template: TemplateImage;
const launched: Launched[] = [];

async function start(launch: MachineLaunch): Promise<Launched> {
  const console = openSync(launch.stdio.stdout, constants.O_RDWR | constants.O_NONBLOCK);
  const plan = machinePlan(launch, { id: 'vm', diesWithParent: true });
  const process = launcher.launch({ plan: encodePlan(plan), stdio: [-1, console, console] });
  launched.push(process);
  void process.exited.then(() => closeSync(console));
  await process.advance();
  launch.release();
  return process;
}

function kill(process: Launched): Promise<unknown> {
  if (!process.over) process.signal(SIGKILL);
  return process.exited;
}

function config(name: string, changes: Partial<MachineConfig> = {}): MachineConfig {
  const { kernel, initrd } = guestAssets();
  mkdirSync(join(dir, name), { recursive: true });
  return {
    id: name,
    dir: join(dir, name),
    image: { kernel, initrd },
    size: { memoryMib: 256, vcpus: 1 },
    type: 'q35',
    accelerator: 'tcg',
    sharedMemory: false,
    ports: 8,
    ...changes,
  };
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'bh-clones-'));
  const store = new TemplateStore({
    cache: join(dir, 'cache'),
    hypervisor,
    addon: addon(),
    launch: async (launch) => {
      const process = await start(launch);
      return { exited: process.exited, kill: () => void kill(process) };
    },
    probe: (launch, deadlineMs) => probeAgent(launch.agent.path, 'template', deadlineMs),
  });
  template = await store.ensure(config('template'));
});

afterAll(async () => {
  await Promise.all(launched.map(kill));
  rmSync(dir, { recursive: true, force: true });
});

interface Told {
  /** Before the guest was told anything. */
  random: string;
  /** As soon as it was told. */
  seeded: string;
  machineId: string;
  hostname: string;
  /** How far the guest's clock is from ours, in seconds. */
  clockError: number;
}

/**
 * The kernel hears of its generation (vmgenid) by an interrupt of ACPI, the only one here, and carries it on through its work
 * queues: an agent may be asked before it has arrived.
 */
async function generationTold(read: (path: string) => Promise<string[]>): Promise<void> {
  const deadline = Date.now() + ANSWER_MS;
  for (;;) {
    const [interrupts = ''] = await read('/proc/interrupts');
    if (/^ *\d+: +[1-9]\d* .* acpi$/m.test(interrupts)) break;
    if (Date.now() > deadline) throw new Error(`no interrupt of ACPI:\n${interrupts}`);
    await setTimeout(LOOK_MS);
  }
  for (let n = 0; n < IDLES; n++) {
    await setTimeout(IDLE_MS);
    await read('/proc/uptime');
  }
}

async function tell(index: number): Promise<Told> {
  const name = `clone-${index}`;
  const credentials = process.getuid?.() === 0 ? machineCredentials('test', name) : undefined;
  const launch = await hypervisor.prepare(
    config(name, { template, sharedMemory: index % 2 === 1, credentials }),
  );
  const clone = await start(launch);
  const socket = connect(launch.agent.path);
  const host = new HostSession(socket);
  let machine: Machine | undefined;
  try {
    machine = await hypervisor.attach(launch);
    await until('the agent', () => host.messages.find(({ hello }) => hello), ANSWER_MS);
    const read = async (...paths: string[]): Promise<string[]> => {
      const { reply } = await host.call({ readFiles: { paths } }, ANSWER_MS);
      return (reply.files ?? []).map(({ data }) =>
        Buffer.from(data ?? [])
          .toString()
          .trim(),
      );
    };
    await generationTold(read);
    const [random = ''] = await read(RANDOM);
    const setup = {
      hostname: name,
      clockRealtimeNs: Date.now() * 1e6,
      entropy: randomBytes(64),
      machineId: randomBytes(16).toString('hex'),
    };
    await host.call({ setup }, ANSWER_MS);
    const [seeded = ''] = await read(RANDOM);
    const asked = Date.now() / 1000;
    const [machineId = '', hostname = '', stat = '', uptime = ''] = await read(
      '/etc/machine-id',
      '/proc/sys/kernel/hostname',
      '/proc/stat',
      '/proc/uptime',
    );
    const booted = Number(/^btime (\d+)$/m.exec(stat)?.[1]);
    const clockError = booted + Number(uptime.split(' ')[0]) - asked;
    return { random, seeded, machineId, hostname, clockError };
  } finally {
    machine?.close();
    socket.destroy();
    await kill(clone);
  }
}

describe('clones of one template', () => {
  it('share no random numbers, names or clocks', async () => {
    const all: Told[] = [];
    for (let first = 0; first < CLONES; first += AT_ONCE) {
      const batch = Array.from({ length: AT_ONCE }, (_, index) => tell(first + index));
      all.push(...(await Promise.all(batch)));
    }
    const distinct = (of: (told: Told) => string): number => new Set(all.map(of)).size;
    expect(all).toHaveLength(CLONES);
    expect(all.every(({ random }) => /^[0-9a-f-]{36}$/.test(random))).toBe(true);
    expect(distinct(({ random }) => random)).toBe(CLONES);
    expect(distinct(({ seeded }) => seeded)).toBe(CLONES);
    expect(distinct(({ machineId }) => machineId)).toBe(CLONES);
    expect(distinct(({ hostname }) => hostname)).toBe(CLONES);
    // btime has whole seconds, and a loaded machine is late.
    expect(all.map(({ clockError }) => Math.abs(clockError)).filter((error) => !(error < 10))).toEqual([]);
  });
});
