/** Processes of a virtual machine on the host: helpers that do one thing, and ends. */
import { encodePlan } from '../../plan/encode.ts';
import type { LaunchPlan } from '../../plan/inputs.ts';
import type { Executor, StdioPaths } from '../executor.ts';

const SIGKILL = 9;
const DEADLINE_MS = 10_000;

export const NO_STDIO: StdioPaths = { stdin: '', stdout: '', stderr: '', terminal: false };

/** Carries out a plan that ends in Exit; resolves when all its steps are done. Rejects with LaunchError. */
export async function runHelper(executor: Executor, key: string, plan: LaunchPlan): Promise<void> {
  const forget = executor.onExit((exit) => {
    if (exit.key !== key) return;
    forget();
    executor.forget(key).catch(() => {});
  });
  try {
    await executor.launch(key, encodePlan(plan), NO_STDIO);
  } catch (error) {
    forget();
    throw error;
  }
}

/** SIGKILL, then forgotten as soon as it has ended. Rejects after 10 s with the executor's last refusal. */
export async function endLaunched(executor: Executor, key: string): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    // Each time: what the first one hit may have been the outer stage, just after it had cloned.
    await executor.signal(key, SIGKILL).catch(() => {});
    try {
      await executor.forget(key);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      if (Date.now() >= deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}
