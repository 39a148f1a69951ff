/** pause and resume: the freezer, on the container's whole cgroup. */
import type { Container } from './container.ts';
import type { RuntimeContext } from './context.ts';
import { transition } from './lifecycle.ts';

/** FailedPrecondition unless the container runs, also when it ends meanwhile. */
export async function pauseContainer(ctx: RuntimeContext, container: Container): Promise<void> {
  const next = transition('pause', container.status, container.id);
  await container.backend.pause(container.record, container.executor);
  if (container.init.isStopped) transition('pause', container.status, container.id);
  container.init.record.status = next;
  ctx.store.save(container.record);
}

/** FailedPrecondition unless the container is paused, also when it ends meanwhile. */
export async function resumeContainer(ctx: RuntimeContext, container: Container): Promise<void> {
  const next = transition('resume', container.status, container.id);
  await container.backend.resume(container.record, container.executor);
  if (container.init.isStopped) transition('resume', container.status, container.id);
  container.init.record.status = next;
  ctx.store.save(container.record);
}
