/**
 * A virtual machine with functions of the host, by our driver, as far as its kernel looks at its PCI buses. Emulated by an
 * emulated processor, a pod's start would take minutes; this needs no answer of the guest within any time.
 */
import { closeSync, constants, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { addon } from '../../src/native/index.ts';
import { Launcher, type Launched } from '../../src/native/launcher.ts';
import { encodePlan } from '../../src/plan/encode.ts';
import { machineCredentials } from '../../src/sandbox/vm/hypervisor/credentials.ts';
import type { Machine, MachineConfig, PassedFunction } from '../../src/sandbox/vm/hypervisor/hypervisor.ts';
import { machinePlan } from '../../src/sandbox/vm/hypervisor/machine_plan.ts';
import { QemuHypervisor } from '../../src/sandbox/vm/hypervisor/qemu/driver.ts';
import { eventually } from '../e2e/lib/exec.ts';
import { peers } from '../e2e/lib/paths.ts';
import { guestAssets } from '../vm/assets.ts';

/** Debian 12's own QEMU 7.2 knows no iommufd. */
const QEMU = join(peers, 'lab-qemu/usr/bin/qemu-system-x86_64');
const INIT = join(import.meta.dirname, '../../build/native/bulkhead-init');
const SIGKILL = 9;
/** Nothing here is about time; the first answer of QEMU comes when the guest's memory is mapped for the functions. */
const DEADLINE_MS = 15 * 60_000;
/** Times BULKHEAD_TEST_PATIENCE. */
const CONSOLE_MS = 2 * 60_000;
const CHUNK = 64 << 10;

export class EnumeratingMachine {
  readonly #process: Launched;
  readonly #machine: Machine;
  readonly #console: number;
  #text = '';

  private constructor(process: Launched, machine: Machine, console: number) {
    this.#process = process;
    this.#machine = machine;
    this.#console = console;
  }

  /** Resolves when QEMU runs, with all of the functions. */
  static async boot(dir: string, functions: readonly PassedFunction[]): Promise<EnumeratingMachine> {
    const launcher = new Launcher(INIT);
    const hypervisor = new QemuHypervisor({
      program: QEMU,
      addon: addon(),
      launcher,
      deadlineMs: DEADLINE_MS,
    });
    const launch = await hypervisor.prepare(config(dir, functions));
    const console = openSync(launch.stdio.stdout, constants.O_RDWR | constants.O_NONBLOCK);
    const plan = machinePlan(launch, { id: 'vm', diesWithParent: true });
    const process = launcher.launch({ plan: encodePlan(plan), stdio: [-1, console, console] });
    try {
      await process.advance();
      const ended = process.exited.then(() => {
        throw new Error(`QEMU ended: ${read(console)}`);
      });
      const machine = await Promise.race([hypervisor.attach(launch), ended]);
      ended.catch(() => {});
      return new EnumeratingMachine(process, machine, console);
    } catch (error) {
      await kill(process);
      closeSync(console);
      throw error;
    } finally {
      launch.release();
    }
  }

  /** Waits for a line of the guest's console. */
  says(line: RegExp): Promise<unknown> {
    return eventually(
      `${line} on the console`,
      () => {
        if (this.#process.over) throw new Error(`QEMU ended: ${this.#text.slice(-2000)}`);
        this.#text += read(this.#console);
        return line.test(this.#text);
      },
      CONSOLE_MS,
    );
  }

  /** Paths that QEMU has open. */
  openFiles(): string[] {
    const fds = `/proc/${this.#process.pid}/fd`;
    return readdirSync(fds).map((fd) => readlinkSync(join(fds, fd)));
  }

  async end(): Promise<void> {
    this.#machine.close();
    await kill(this.#process);
    closeSync(this.#console);
  }
}

const config = (dir: string, functions: readonly PassedFunction[]): MachineConfig => ({
  id: 'lab',
  dir,
  // Behind the driver's "quiet": what the kernel finds is said.
  image: { ...guestAssets(), commandLine: 'loglevel=7' },
  size: { memoryMib: 128, vcpus: 1 },
  type: 'q35',
  accelerator: 'tcg',
  sharedMemory: false,
  ports: 8,
  functions,
  credentials: machineCredentials('lab', 'lab'),
});

async function kill(process: Launched): Promise<void> {
  if (!process.over) process.signal(SIGKILL);
  await process.exited;
}

/** What a fifo holds; it is not waited for. */
function read(fd: number): string {
  const chunk = Buffer.alloc(CHUNK);
  try {
    return chunk.toString('utf8', 0, readSync(fd, chunk));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return '';
    throw error;
  }
}
