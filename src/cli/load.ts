/** A container of an earlier invocation, ready for a verb. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { addon } from '../native/index.ts';
import { Container } from '../runtime/container.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import { Status } from '../runtime/lifecycle.ts';
import { BackendRegistry } from '../sandbox/registry.ts';
import { NamespaceBackend } from '../sandbox/namespace/backend.ts';
import { backendHost } from '../sandbox/host.ts';
import { LocalExecutor } from './local_executor.ts';
import type { ForeignProcess, Inheritance } from './local_executor.ts';
import { NAMESPACE } from './session.ts';
import type { Session } from './session.ts';
import { loadRecord } from './record.ts';
import { currentStatus } from './status.ts';

const INIT = 'bulkhead-init';

/** bulkhead-init beside the bundle (installed), or in the tree that it was built in (from dist/ or src/cli/). */
function findInit(): string {
  const here = import.meta.dirname;
  const beside = join(here, INIT);
  if (existsSync(beside)) return beside;
  const built = join(here, '..', 'build', 'native', INIT);
  return existsSync(built) ? built : join(here, '..', '..', 'build', 'native', INIT);
}

export function namespaceBackend(session: Session): NamespaceBackend {
  return new NamespaceBackend(backendHost((id, message) => session.log.warning(message, { id })));
}

export function runtimeContext(session: Session): RuntimeContext {
  const backends = new BackendRegistry();
  backends.register(namespaceBackend(session));
  return { store: session.store, backends, log: session.log, now: Date.now };
}

export function newExecutor(
  session: Session,
  inherit?: Inheritance,
  foreign?: ReadonlyMap<string, ForeignProcess>,
): LocalExecutor {
  return new LocalExecutor({
    addon: addon(),
    initPath: findInit(),
    inherit,
    foreign,
    onWarning: (key, action, path, errno) =>
      session.log.warning('step passed over', { id: key, action, path, errno }),
  });
}

/** Holds the container's lock until disposed; waits for another invocation's. Leaves no lock of a container that is none. */
export function lockContainer(session: Session, id: string): Disposable {
  const lock = session.store.lock(NAMESPACE, id, (fd, nonBlocking) => addon().flock(fd, nonBlocking));
  return {
    [Symbol.dispose]: () => {
      if (!session.store.exists(NAMESPACE, id)) session.store.remove(NAMESPACE, id);
      lock[Symbol.dispose]();
    },
  };
}

/**
 * The container with its status as of now. NotFound when there is none. Call with the lock held: a record that says
 * CREATING is then one whose create was cut short, and counts as stopped.
 */
export function loadContainer(
  session: Session,
  ctx: RuntimeContext,
  op: string,
  id: string,
  inherit?: Inheritance,
): Container {
  const record = loadRecord(session, op, id);
  const { pid, pidStartTime } = record.init ?? {};
  const foreign = new Map<string, ForeignProcess>();
  if (pid) foreign.set(id, { pid, startTime: pidStartTime ?? 0, startFifo: record.startFifo ?? undefined });
  const status = currentStatus(record);
  record.init ??= {};
  record.init.status = status === Status.STATUS_CREATING ? Status.STATUS_STOPPED : status;
  const backend = ctx.backends.get(record.wall ?? '', op, id);
  return new Container(record, backend, newExecutor(session, inherit, foreign));
}
