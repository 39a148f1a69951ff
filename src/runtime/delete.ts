/** delete: everything a stopped (or never started) container left on the host goes away. */
import type { Container, ContainerProcess, ExitStatus } from './container.ts';
import { saveProgress, type RuntimeContext } from './context.ts';
import { unprepareExec } from './exec.ts';
import { runHooks } from './hooks.ts';
import { Status, transition } from './lifecycle.ts';

const SIGKILL = 9;

/**
 * Removes the container's resources and resolves with its init's exit. FailedPrecondition while it runs, unless
 * `force`. The state on disk stays until `forgetContainer`, so that a repeated delete finds the same answer.
 */
export async function deleteContainer(
  ctx: RuntimeContext,
  container: Container,
  force = false,
): Promise<ExitStatus> {
  const { init } = container;
  if (!force) transition('delete', init.record.status, container.id);
  const execs = [...container.execs.values()];
  await Promise.all(execs.filter(isUnstarted).map((exec) => unprepareExec(container, exec).catch(() => {})));
  // With its pid namespace's first process the kernel has ended all others; a look at every cgroup costs 0.7 ms.
  const over = init.isStopped && container.record.privatePidNamespace === true;
  if (!over) await container.backend.killAll(container.record, container.executor);
  if (!init.isStopped && init.pid !== 0) {
    await container.executor.signal(init.key, SIGKILL).catch(() => {});
    await init.exited;
  }
  container.stopOomWatch();
  const forget = async (): Promise<void> => {
    for (const { key } of execs) void container.executor.forget(key).catch(() => {});
    await container.executor.forget(init.key).catch(() => {});
  };
  // On the host both go on at once. A process that lives on has to be ended first, and a guest by its own rules.
  const forgotten = over && container.backend.wall !== 'vm' ? forget() : undefined;
  await container.backend.destroy(container.record, container.executor);
  // Waited for: the container's file systems are unmounted then, and its snapshot can be mounted again.
  await (forgotten ?? forget());
  await runHooks(ctx, container, 'poststop');
  init.record.status = Status.STATUS_STOPPED;
  return init.exitStatus;
}

/** Forgets an exec that ended or was never started; resolves with its exit. FailedPrecondition while it runs. */
export async function deleteExec(
  ctx: RuntimeContext,
  container: Container,
  exec: ContainerProcess,
): Promise<ExitStatus> {
  transition('delete', exec.record.status, exec.key);
  if (isUnstarted(exec)) await unprepareExec(container, exec);
  // It goes out before whatever may want its key again, and need not be waited for but for a late reader's sake.
  const forgotten = container.executor.forget(exec.key).catch(() => {});
  if (exec.outputWaits) await forgotten;
  container.removeExec(exec);
  saveProgress(ctx, container.record);
  return exec.exitStatus;
}

function isUnstarted(exec: ContainerProcess): boolean {
  return exec.record.status === Status.STATUS_CREATED;
}

/** Drops the state on disk, after the delete has been answered. */
export function forgetContainer(ctx: RuntimeContext, container: Container): void {
  ctx.store.remove(container.record.namespace ?? '', container.id);
}
