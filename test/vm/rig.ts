/**
 * A virtual machine with the real hypervisor, kernel and agent, without containerd: what a test needs to see how
 * devices and networks arrive in a guest. Programs for the guest come on a disk, which is a test of its own.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { CLONE_NEWNET } from '../../src/base/constants.ts';
import { bulkhead } from '../../src/gen/bulkhead.js';
import { addon } from '../../src/native/index.ts';
import { Launcher, type Launched } from '../../src/native/launcher.ts';
import { encodePlan } from '../../src/plan/encode.ts';
import type { Machine, MachineConfig } from '../../src/sandbox/vm/hypervisor/hypervisor.ts';
import { machinePlan } from '../../src/sandbox/vm/hypervisor/machine_plan.ts';
import { QemuHypervisor } from '../../src/sandbox/vm/hypervisor/qemu/driver.ts';
import { HostSession } from '../contract/agent/harness.ts';
import { until } from '../contract/monitor/harness.ts';
import { guestAssets } from './assets.ts';

const { LaunchPlan } = bulkhead.plan.v1;

const ROOT = resolve(import.meta.dirname, '../..');
const TOOLS = '/run/tools';
const APPLETS = [
  'sh',
  'ip',
  'nc',
  'ping',
  'ping6',
  'cat',
  'md5sum',
  'dd',
  'mount',
  'umount',
  'sync',
  'sort',
  'sleep',
  'ls',
  'wc',
  'head',
  'tftp',
  'echo',
  'mkdir',
  'httpd',
  'wget',
  'timeout',
  'chroot',
  'uname',
  'stat',
  'grep',
  'arping',
  'seq',
  'tail',
  'printf',
];
const BOOT_DEADLINE_MS = 60_000;

export interface RunResult {
  /** Exit status; 128 and the signal's number when one ended it. */
  status: number;
  out: string;
}

export interface RigOptions {
  /** Path of the network namespace that the hypervisor is in. */
  netns?: string;
  sharedMemory?: boolean;
  ports?: number;
}

/** An ext4 image of a directory, at least 2 MiB larger than its content. */
export function ext4Image(path: string, from: string, mib: number): void {
  execFileSync('mke2fs', [
    '-q',
    '-t',
    'ext4',
    '-O',
    '^has_journal',
    '-b',
    '4096',
    '-d',
    from,
    path,
    `${mib}m`,
  ]);
}

export class VmRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'bh-vm-'));
  readonly tools = join(this.dir, 'tools.img');
  machine!: Machine;
  host!: HostSession;
  pid = 0;
  #launched: Launched | undefined;
  #socket: Socket | undefined;
  #runs = 0;
  #console = -1;

  static async boot(options: RigOptions = {}): Promise<VmRig> {
    const rig = new VmRig();
    try {
      await rig.#boot(options);
      return rig;
    } catch (error) {
      await rig.dispose();
      throw error;
    }
  }

  async #boot({ netns, sharedMemory = false, ports = 8 }: RigOptions): Promise<void> {
    const { kernel, initrd } = guestAssets();
    const hypervisor = new QemuHypervisor({ program: '/usr/bin/qemu-system-x86_64', addon: addon() });
    const config: MachineConfig = {
      id: 'test',
      dir: this.dir,
      image: { kernel, initrd },
      size: { memoryMib: 256, maxMemoryMib: 1024, vcpus: 1 },
      type: 'q35',
      accelerator: 'tcg',
      sharedMemory,
      ports,
    };
    const launch = await hypervisor.prepare(config);
    // The reading end has to be there before the hypervisor opens the fifo.
    this.#console = openSync(join(this.dir, 'console'), constants.O_RDWR | constants.O_NONBLOCK);
    const steps = netns === undefined ? [] : [{ joinNamespace: { path: netns, types: CLONE_NEWNET } }];
    const plan = machinePlan(launch, { id: 'vm', steps });
    this.#launched = new Launcher(join(ROOT, 'build/native/bulkhead-init')).launch({
      plan: encodePlan(plan),
    });
    this.pid = (await this.#launched.advance()).pid;
    launch.release();
    this.machine = await hypervisor.attach(launch);
    this.#socket = connect(launch.agent.path);
    this.host = new HostSession(this.#socket);
    await until('the agent', () => this.host.messages.find(({ hello }) => hello), BOOT_DEADLINE_MS);
    await this.#giveTools();
  }

  async #giveTools(): Promise<void> {
    const tree = join(this.dir, 'tools');
    mkdirSync(join(tree, 'bin'), { recursive: true });
    copyFileSync('/bin/busybox', join(tree, 'bin/busybox'));
    chmodSync(join(tree, 'bin/busybox'), 0o755);
    for (const name of APPLETS) symlinkSync('busybox', join(tree, 'bin', name));
    ext4Image(this.tools, tree, 8);
    await this.machine.plug({ kind: 'block', id: 'tools', path: this.tools, readOnly: true });
    await this.call({ mount: { device: { blockSerial: 'tools' }, target: TOOLS, fstype: 'ext4', flags: 1 } });
  }

  async call(call: bulkhead.agent.v1.ICall): Promise<bulkhead.agent.v1.CallReply> {
    const { errno, reply } = await this.host.call(call, 20_000);
    if (errno === 0) return reply;
    const { op, path } = reply.failure ?? {};
    throw new Error(`guest: ${op ?? ''} ${path ?? ''}: errno ${errno}`);
  }

  /** Starts a shell script in the guest. */
  start(script: string): { done: Promise<RunResult> } {
    this.#runs++;
    const key = `run-${this.#runs}`;
    const stream = this.#runs;
    const plan = LaunchPlan.encode({
      version: 1,
      id: key,
      steps: [
        {
          exec: { file: `${TOOLS}/bin/sh`, args: ['sh', '-c', script], env: [`PATH=${TOOLS}/bin`] },
        },
      ],
    }).finish();
    this.host.launch(key, plan, { stdout: stream, stderr: 0 });
    const done = (async () => {
      await this.host.answer('launched', key, 120_000);
      const waitStatus = (await this.host.answer('exited', key, 120_000)).waitStatus ?? 0;
      await until('the end of its output', () => this.host.incoming(stream).eof);
      const signal = waitStatus & 0x7f;
      return { status: signal === 0 ? waitStatus >> 8 : 128 + signal, out: this.host.incoming(stream).text };
    })();
    return { done };
  }

  run(script: string): Promise<RunResult> {
    return this.start(script).done;
  }

  /** What the guest's kernel has said since the last call. */
  consoleText(): string {
    const buffer = Buffer.alloc(1 << 16);
    try {
      return buffer.toString('utf8', 0, readSync(this.#console, buffer));
    } catch {
      return '';
    }
  }

  async dispose(): Promise<void> {
    this.machine?.close();
    this.#socket?.destroy();
    if (this.#launched !== undefined) {
      try {
        this.#launched.signal(9);
      } catch {
        // It has ended.
      }
      await this.#launched.exited;
    }
    if (this.#console >= 0) closeSync(this.#console);
    this.#console = -1;
    this.#launched = undefined;
    rmSync(this.dir, { recursive: true, force: true });
  }
}
