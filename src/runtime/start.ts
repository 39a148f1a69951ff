/** start: opens the gate at which the container's init waits (runtime-spec, lifecycle steps 8-11). */
import { processStartTime } from '../base/proc.ts';
import type { Container } from './container.ts';
import { saveProgress, type RuntimeContext } from './context.ts';
import { runHooks } from './hooks.ts';
import { transition } from './lifecycle.ts';
import { launchSentence } from './launch_sentence.ts';

/**
 * Resolves with the init's pid after execve. FailedPrecondition unless the container is created; when execve fails the
 * error names the object (InvalidArgument/NotFound) and the init has exited.
 */
export async function startContainer(ctx: RuntimeContext, container: Container): Promise<number> {
  const { init } = container;
  const next = transition('start', init.record.status, container.id);
  await container.backend.beforeStart?.(container.record, container.executor);
  await container.executor.proceed(init.key).catch((error: unknown) => {
    throw launchSentence('start', container.id, error, container.record.spec);
  });
  if (!init.isStopped) {
    init.record.status = next;
    init.record.pidStartTime ??= processStartTime(init.pid) ?? 0;
  }
  saveProgress(ctx, container.record);
  await runHooks(ctx, container, 'poststart');
  return init.pid;
}
