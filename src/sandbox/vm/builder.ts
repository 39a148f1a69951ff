/** Runs the machine that becomes a template: as a child of the engine, without a pod, and not longer than the engine. */
import { closeSync, constants, openSync } from 'node:fs';
import { CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS } from '../../base/constants.ts';
import type { Launcher } from '../../native/launcher.ts';
import { encodePlan } from '../../plan/encode.ts';
import type { MachineLaunch } from './hypervisor/hypervisor.ts';
import { machinePlan } from './hypervisor/machine_plan.ts';
import type { BuilderProcess } from './hypervisor/qemu/template.ts';

const SIGKILL = 9;

export async function launchBuilder(launcher: Launcher, launch: MachineLaunch): Promise<BuilderProcess> {
  // Both ends: opening the console for writing does not wait, and nobody has to read it.
  const console = openSync(launch.stdio.stdout, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    const namespaces = CLONE_NEWNET + CLONE_NEWIPC + CLONE_NEWUTS;
    const plan = encodePlan(machinePlan(launch, { id: 'template', namespaces, diesWithParent: true }));
    const launched = launcher.launch({ plan, stdio: [-1, console, console] });
    await launched.advance();
    const exited = launched.exited.finally(() => closeSync(console));
    return {
      exited,
      kill: () => {
        try {
          launched.signal(SIGKILL);
        } catch {
          // It has ended already.
        }
      },
    };
  } catch (error) {
    closeSync(console);
    throw error;
  } finally {
    launch.release();
  }
}
