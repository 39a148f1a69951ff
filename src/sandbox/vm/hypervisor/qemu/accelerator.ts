/**
 * Whether machines run on the processor's own virtualization (KVM) or are emulated (TCG, some ten times slower). KVM is
 * tried, not believed: there are hosts whose /dev/kvm opens and cannot run a guest, and some where opening it never
 * returns. The trial is a QEMU without a machine in a process that is killed, and left behind when not even that helps.
 */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Addon } from '../../../../native/index.ts';
import type { Launched, Launcher } from '../../../../native/launcher.ts';
import { encodePlan } from '../../../../plan/encode.ts';
import type { LaunchPlan } from '../../../../plan/inputs.ts';
import { kvmGroups, machineCredentials } from '../credentials.ts';
import type { Accelerator } from '../hypervisor.ts';
import { machinePlan } from '../machine_plan.ts';
import { Qmp } from './qmp.ts';

export interface AcceleratorChoice {
  accelerator: Accelerator;
  /** Why, for the log: "no /dev/kvm". */
  reason: string;
}

/** What the choice asks the host; replaced in tests. */
export interface AcceleratorHost {
  /** /proc/cpuinfo */
  cpuinfo: () => string;
  hasDevice: () => boolean;
  /** Resolves with undefined when a QEMU came up on KVM, else with why it did not. Never rejects, never hangs. */
  tryKvm: () => Promise<string | undefined>;
}

/** "kvm" and "tcg" are taken at their word. */
export async function chooseAccelerator(
  wanted: Accelerator | 'auto',
  host: AcceleratorHost,
): Promise<AcceleratorChoice> {
  if (wanted !== 'auto') return { accelerator: wanted, reason: 'configured' };
  const no = (reason: string): AcceleratorChoice => ({ accelerator: 'tcg', reason });
  if (!host.hasDevice()) return no('there is no /dev/kvm');
  // Without them a /dev/kvm is not the processor's (PVM), and runs only guests that were made for it.
  if (!/^flags\s*:.*\b(?:vmx|svm)\b/m.test(host.cpuinfo()))
    return no('the processor shows no virtualization');
  const failure = await host.tryKvm();
  return failure === undefined
    ? { accelerator: 'kvm', reason: 'works' }
    : no(`KVM does not work: ${failure}`);
}

export interface KvmTrial {
  program: string;
  launcher: Launcher;
  addon: Pick<Addon, 'connectUnix' | 'sendFdOver'>;
  deadlineMs?: number;
}

/**
 * The first QEMU after a boot comes from the disk, and on a busy host this has taken longer than ten seconds; emulating where
 * KVM works costs every pod of the engine far more. A /dev/kvm that hangs costs this once an engine.
 */
const TRIAL_DEADLINE_MS = 30_000;
const END_DEADLINE_MS = 1_000;
const SIGKILL = 9;

export function hostAccelerators(trial: KvmTrial): AcceleratorHost {
  return {
    cpuinfo: () => readFileSync('/proc/cpuinfo', 'utf8'),
    hasDevice: () => statSync('/dev/kvm', { throwIfNoEntry: false }) !== undefined,
    tryKvm: () => tryKvm(trial),
  };
}

/** QEMU greets on QMP once its accelerator is set up; when that fails it ends. */
export async function tryKvm({
  program,
  launcher,
  addon,
  deadlineMs = TRIAL_DEADLINE_MS,
}: KvmTrial): Promise<string | undefined> {
  const dir = mkdtempSync(join(tmpdir(), 'bulkhead-kvm-'));
  const socket = join(dir, 'qmp.sock');
  const launched = launcher.launch({ plan: encodePlan(trialPlan(program, socket)) });
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`no answer within ${deadlineMs} ms`), deadlineMs);
  });
  const ended = launched.exited.then(() => 'qemu ended');
  const greeted = launched.advance().then(async () => {
    const options = {
      id: 'kvm trial',
      deadlineMs,
      connect: (path: string) => addon.connectUnix(path),
      sendFd: (fd: number, sent: number, message: string) => addon.sendFdOver(fd, sent, message),
    };
    (await Qmp.connect(socket, options)).close();
    return undefined;
  });
  try {
    return await Promise.race([greeted.catch(() => ended), ended, expired]);
  } catch (error) {
    return (error as Error).message;
  } finally {
    clearTimeout(timer);
    await end(launched);
    rmSync(dir, { recursive: true, force: true });
  }
}

/** A process that waits in the kernel does not even end by SIGKILL: it is left to end when it can. */
async function end(launched: Launched): Promise<void> {
  try {
    launched.signal(SIGKILL);
  } catch {
    // It has ended already.
  }
  await Promise.race([launched.exited, sleep(END_DEADLINE_MS, undefined, { ref: false })]);
  if (!launched.over) launched.release();
}

/** As a machine's own QEMU will be: without rights. That root can open the device proves nothing. */
function trialPlan(program: string, socket: string): LaunchPlan {
  const args = ['qemu', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
  const monitor = [
    '-chardev',
    'socket,id=monitor,fd=3,server=on,wait=off',
    '-mon',
    'chardev=monitor,mode=control',
  ];
  return machinePlan(
    {
      program,
      args: [...args, '-machine', 'none', '-accel', 'kvm', ...monitor],
      env: [],
      listen: [{ path: socket, descriptor: 3 }],
      files: [],
      ...(process.getuid?.() === 0 ? { credentials: machineCredentials('kvm', 'trial', kvmGroups()) } : {}),
    },
    { id: 'kvm trial' },
  );
}
