/** A container whose monitor is gone: what the record names is killed and removed. */
import type { RuntimeContext } from './context.ts';

/** Resolves with the init's pid when there was a record, else undefined. Idempotent. */
export async function removeLeftovers(
  ctx: RuntimeContext,
  namespace: string,
  id: string,
): Promise<{ pid: number } | undefined> {
  if (!ctx.store.exists(namespace, id)) return undefined;
  const record = ctx.store.load(namespace, id);
  const backend = ctx.backends.get(record.wall ?? '', 'delete', id);
  await backend.killAll(record);
  await backend.destroy(record);
  ctx.store.remove(namespace, id);
  return { pid: record.init?.pid ?? 0 };
}
