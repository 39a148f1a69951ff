/**
 * A monitor came back to a new engine: its containers are built again from the records on disk and from what the
 * monitor says of its processes. The monitor is right about processes, the record about everything else.
 */
import type { bulkhead } from '../gen/bulkhead.js';
import { Container } from '../runtime/container.ts';
import type { ContainerProcess } from '../runtime/container.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import { Status } from '../runtime/lifecycle.ts';
import { endProcess } from '../sandbox/executor.ts';
import type { ContainerRecord } from '../state/index.ts';
import type { MonitorSession } from './monitor_session.ts';

type IProcessState = bulkhead.executor.v1.IProcessState;

/** Wait status of "killed by SIGKILL", for a process that nobody saw end. */
const LOST = 9;

/**
 * Adopts the containers of a monitor. Never rejects: a record that cannot be used is logged and left.
 * @param isHeld whether another monitor has the container: its record is not even read
 */
export async function recoverContainers(
  ctx: RuntimeContext,
  session: MonitorSession,
  states: IProcessState[],
  isHeld: (namespace: string, id: string) => boolean,
): Promise<void> {
  const records = ctx.store
    .list(session.namespace, (error) => ctx.log.error('state not usable', { error: error.message }), isHeld)
    .filter((record) => record.group === session.group);
  if (records.length === 0) return;
  const byKey = new Map(states.map((state) => [state.key ?? '', state]));
  for (const record of records) {
    try {
      await recoverContainer(ctx, session, record, byKey);
    } catch (error) {
      ctx.log.error('container not recovered', { id: record.id ?? '', error: String(error) });
    }
  }
}

async function recoverContainer(
  ctx: RuntimeContext,
  session: MonitorSession,
  record: ContainerRecord,
  states: Map<string, IProcessState>,
): Promise<void> {
  const backend = ctx.backends.get(record.wall ?? '', 'recover', record.id ?? '');
  const container = new Container(record, backend, session.executor);
  if (record.deleted === true) {
    session.tasks.adoptDeleted(container);
    return;
  }
  if (container.status === Status.STATUS_CREATING) {
    await undoCreate(ctx, container);
    return;
  }
  session.tasks.adopt(container);
  await recall(session, container, states);
  for (const process of [container.init, ...container.execs.values()]) {
    await applyState(session, container, process, states.get(process.key));
  }
  for (const process of [...container.execs.values(), container.init])
    announce(session, container, process, states.get(process.key));
}

/** Of processes that the wall holds itself the monitor knows nothing. */
async function recall(
  session: MonitorSession,
  container: Container,
  states: Map<string, IProcessState>,
): Promise<void> {
  const held = await container.backend.recall?.(container.record, session.executor);
  for (const state of held ?? []) states.set(state.key, state);
}

/** The create was cut short; containerd's request will come again and start from nothing. */
async function undoCreate(ctx: RuntimeContext, container: Container): Promise<void> {
  await endProcess(container.executor, container.id);
  await container.backend.destroy(container.record, container.executor);
  ctx.store.remove(container.record.namespace ?? '', container.id);
}

/**
 * A start may have got through without its answer being recorded: it is told now, and the request that comes again is
 * answered. One that was cut short before execve is undone, and the request that comes again starts anew.
 */
async function applyState(
  session: MonitorSession,
  container: Container,
  process: ContainerProcess,
  state: IProcessState | undefined,
): Promise<void> {
  if (state === undefined || process.record.status !== Status.STATUS_CREATED) return;
  if (state.running === true) {
    // An init in a guest is known to the host by another pid, which is on record.
    if (process.pid === 0) process.record.pid = state.pid ?? 0;
    process.record.status = Status.STATUS_RUNNING;
    session.tasks.adoptStart(container, process);
  } else if (process.execId !== '' && state.exited !== true) {
    await endProcess(session.executor, process.key);
  }
}

/** Exits that nobody has been told of yet; a process the monitor does not know any more was lost with its exit. */
function announce(
  session: MonitorSession,
  container: Container,
  process: ContainerProcess,
  state: IProcessState | undefined,
): void {
  if (process.isStopped) {
    if (process.record.exitPublished !== true) session.tasks.publishExit(container, process);
    process.announceExit();
    return;
  }
  const { key, pid } = process;
  if (state?.exited === true) {
    session.tasks.exited({ key, pid, waitStatus: state.waitStatus ?? 0, exitedAtNs: state.exitedAtNs ?? 0 });
  } else if (state === undefined && pid !== 0) {
    session.tasks.exited({ key, pid, waitStatus: LOST, exitedAtNs: Date.now() * 1e6 });
  }
}
