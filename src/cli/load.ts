/** A container of an earlier invocation, ready for a verb. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { addon } from '../native/index.ts';
import { Container } from '../runtime/container.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import { Status } from '../runtime/lifecycle.ts';
import type { Wall } from '../sandbox/backend.ts';
import { BackendRegistry } from '../sandbox/registry.ts';
import { NamespaceBackend } from '../sandbox/namespace/backend.ts';
import { backendHost } from '../sandbox/host.ts';
import type { DevicePassing } from '../sandbox/passing.ts';
import { deviceReader, hostPassing } from '../sandbox/passing_host.ts';
import { isSupervisorKey, SentryBackend } from '../sandbox/sentry/backend.ts';
import { sentryHost } from '../sandbox/sentry/host.ts';
import { LocalExecutor } from './local_executor.ts';
import type { ForeignProcess, Inheritance } from './local_executor.ts';
import { NAMESPACE } from './session.ts';
import type { Session } from './session.ts';
import { loadRecord } from './record.ts';
import { currentStatus } from './status.ts';
import { walls } from './wall.ts';

/** A helper beside the bundle (installed), or in the tree that it was built in (from dist/ or src/cli/). */
function findProgram(name: string): string {
  const here = import.meta.dirname;
  const beside = join(here, name);
  if (existsSync(beside)) return beside;
  const built = join(here, '..', 'build', 'native', name);
  return existsSync(built) ? built : join(here, '..', '..', 'build', 'native', name);
}

/** The backend of a wall of this command, for what only it can: compile without carrying out. */
export function hostBackend(session: Session, wall: Wall): NamespaceBackend | SentryBackend {
  const host = backendHost((id, message) => session.log.warning(message, { id }));
  if (wall !== 'sentry') return new NamespaceBackend(host, passingOf(session));
  return new SentryBackend(host, sentryHost(findProgram('bulkhead-sentry'), session.store.paths.root));
}

export function passingOf({ store, log }: Session): DevicePassing {
  return hostPassing({ root: store.paths.root, initPath: findProgram('bulkhead-init'), store, log });
}

export function readDevices(): ReturnType<typeof deviceReader> {
  return deviceReader(findProgram('bulkhead-init'));
}

function backends(session: Session): BackendRegistry {
  const registry = new BackendRegistry();
  for (const wall of walls) registry.register(hostBackend(session, wall));
  return registry;
}

export function runtimeContext(session: Session): RuntimeContext {
  const { store, log } = session;
  return { store, backends: backends(session), log, now: Date.now, readDevices: readDevices() };
}

export function newExecutor(
  session: Session,
  inherit?: Inheritance,
  foreign?: ReadonlyMap<string, ForeignProcess>,
): LocalExecutor {
  return new LocalExecutor({
    addon: addon(),
    initPath: findProgram('bulkhead-init'),
    inherit,
    foreign,
    onWarning: (key, action, path, errno) => {
      const level = isSupervisorKey(key) ? 'debug' : 'warning';
      session.log[level]('step passed over', { id: key, action, path, errno });
    },
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
