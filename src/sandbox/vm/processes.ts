/** Processes of a virtual machine on the host: helpers that do one thing, and ends. */
import { within } from '../../base/deadline.ts';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { encodePlan } from '../../plan/encode.ts';
import type { LaunchPlan } from '../../plan/inputs.ts';
import { endProcess, type Executor, type StdioPaths } from '../executor.ts';
import { SHARE_KEY } from './layout.ts';

/** A hypervisor with much memory, pinned for devices or on a loaded host, ends when the kernel has given all of it back. */
const DEADLINE_MS = 60_000;

export const NO_STDIO: StdioPaths = { stdin: '', stdout: '', stderr: '', terminal: false };

/**
 * Carries out a plan that ends in Exit; resolves when all its steps are done. Rejects with LaunchError, and with
 * DeadlineExceeded when a file system of the host keeps it waiting; it is killed then.
 * @param run.id of the container that it is for
 */
export async function runHelper(
  executor: Executor,
  run: { op: string; id: string; key: string },
  plan: LaunchPlan,
): Promise<void> {
  const { key } = run;
  const forget = executor.onExit((exit) => {
    if (exit.key !== key) return;
    forget();
    executor.forget(key).catch(() => {});
  });
  try {
    await within(DEADLINE_MS, executor.launch(key, encodePlan(plan), NO_STDIO), () => stuck(run));
  } catch (error) {
    forget();
    if (error instanceof RuntimeError) endProcess(executor, key).catch(() => {});
    throw error;
  }
}

function stuck({ op, id }: { op: string; id: string }): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op,
    id,
    object: 'files of the host',
    reason: `a file system does not answer within ${DEADLINE_MS / 1000} s`,
  });
}

/**
 * SIGKILL, then forgotten as soon as it has ended.
 * @throws RuntimeError DeadlineExceeded when it has not; whoever deletes the pod may try again
 */
export async function endLaunched(
  executor: Executor,
  { id, key }: { id: string; key: string },
  deadlineMs = DEADLINE_MS,
): Promise<void> {
  await endProcess(executor, key, deadlineMs).catch((error: unknown) => {
    throw lingers(id, key, deadlineMs, error);
  });
}

function lingers(id: string, key: string, deadlineMs: number, cause: unknown): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op: 'delete',
    id,
    object: key === SHARE_KEY ? 'share daemon' : 'hypervisor',
    reason: `has not ended within ${deadlineMs / 1000} s of SIGKILL`,
    cause,
  });
}
