/** Ends a launched process for good: what undoing needs, in recovery and when a create fails half-way. */
import type { Executor } from '../sandbox/executor.ts';

const SIGKILL = 9;
const DEADLINE_MS = 10_000;

/**
 * Kills the process and has the executor forget it, which it does as soon as the process has ended. A process that is
 * gone already, or was never there, is no error. Rejects after 10 s with the executor's last refusal.
 */
export async function endProcess(executor: Executor, key: string): Promise<void> {
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
