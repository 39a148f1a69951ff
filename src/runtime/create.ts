/**
 * create: from a bundle to a process that waits at the start gate (runtime-spec, lifecycle steps 1-7).
 *
 *   read and check config.json, add devices asked for by name → record on disk (CREATING, with all that must be undone) → backend.create: plan,
 *   executor, hooks → record on disk (CREATED)
 *
 * When anything fails, what was made is undone in reverse and the record goes.
 */
import { CleanupStack } from '../base/cleanup.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { processStartTime } from '../base/proc.ts';
import type { CreateOptions, RootfsMount, Wall } from '../sandbox/backend.ts';
import { asksForDevices, injectDevices } from '../sandbox/devices.ts';
import { endProcess } from '../sandbox/executor.ts';
import type { Executor, StdioPaths } from '../sandbox/executor.ts';
import type { Spec } from '../oci/types.ts';
import type { ContainerRecord } from '../state/index.ts';
import { readBundle, rootfsPath } from './bundle.ts';
import { Container } from './container.ts';
import type { RuntimeContext } from './context.ts';
import { runHooks } from './hooks.ts';
import { launchSentence } from './launch_sentence.ts';
import { Status } from './lifecycle.ts';

export interface CreateRequest {
  id: string;
  namespace: string;
  /** Absolute path. */
  bundle: string;
  wall: Wall;
  rootfsMounts: RootfsMount[];
  stdio: StdioPaths;
  options: CreateOptions;
  executor: Executor;
  /** Pod the container belongs to; its own id when alone. */
  group: string;
  startFifo?: string | undefined;
  /** CDI devices beside those that the configuration's annotations name. */
  devices?: readonly string[] | undefined;
  owner?: string | undefined;
  /** Aborted when nobody waits any more: what runs for the create is killed, and the create fails and undoes. */
  signal?: AbortSignal | undefined;
}

/** AlreadyExists for an id in use; else the first thing that failed, in one sentence, with nothing left behind. */
export async function createContainer(ctx: RuntimeContext, request: CreateRequest): Promise<Container> {
  const { id, namespace, bundle, stdio, executor } = request;
  const backend = ctx.backends.get(request.wall, 'create', id);
  const read = readBundle('create', id, bundle, ctx.parsedAhead);
  // Awaited first: between the look at what exists and the record on disk nothing may come.
  const asks = asksForDevices(read.spec, request.devices);
  const { spec, json, functions } = asks
    ? await withDevices(ctx, request, read.spec)
    : { ...read, functions: [] };
  if (ctx.store.exists(namespace, id, 'create')) {
    throw new RuntimeError({
      code: ErrorCode.AlreadyExists,
      op: 'create',
      id,
      reason: 'container with this id exists',
      remedy: `delete it first: bulkhead delete ${id}`,
    });
  }
  const record: ContainerRecord = {
    id,
    namespace,
    bundle,
    rootfs: rootfsPath(bundle, spec),
    wall: request.wall,
    createdAtNs: ctx.now() * 1e6,
    ociVersion: spec.ociVersion,
    annotations: spec.annotations ?? {},
    group: request.group,
    startFifo: request.startFifo ?? '',
    owner: request.owner ?? '',
    spec: json,
    init: { status: Status.STATUS_CREATING, ...stdio },
    execs: [],
  };
  const container = new Container(record, backend, executor);
  await using undo = new CleanupStack((what, error) =>
    ctx.log.warning('clean-up failed', { id, what, error: String(error) }),
  );
  undo.defer('state', () => ctx.store.remove(namespace, id));
  undo.defer('resources', () => backend.destroy(record, executor));
  let ending: Promise<void> | undefined;
  const abort = (): void => {
    ending = endProcess(executor, id).catch(() => {});
  };
  request.signal?.addEventListener('abort', abort, { once: true });
  try {
    await backend.create(record, {
      spec,
      rootfsMounts: request.rootfsMounts,
      stdio,
      options: request.options,
      executor,
      startFifo: request.startFifo,
      functions,
      journal: (completed) => ctx.store.save(completed),
      runCreateHooks: (pid) => {
        container.init.record.pid = pid;
        return runHooks(ctx, container, 'create', request.signal);
      },
    });
    throwIfAborted(request);
  } catch (error) {
    await endProcess(executor, id).catch((left: unknown) => {
      ctx.log.warning('clean-up failed', { id, what: 'process', error: String(left) });
    });
    throwIfAborted(request, error);
    throw launchSentence('create', id, error, json);
  } finally {
    request.signal?.removeEventListener('abort', abort);
    // Before anybody may launch under this name again.
    await ending;
  }
  container.init.record.pidStartTime = processStartTime(container.init.pid) ?? 0;
  if (!container.init.isStopped) container.init.record.status = Status.STATUS_CREATED;
  ctx.store.save(record);
  undo.move();
  return container;
}

/** The configuration with the devices asked for, the bytes to keep of it, and what is left for the wall to add. */
async function withDevices(
  ctx: RuntimeContext,
  { id, wall, devices }: CreateRequest,
  spec: Spec,
): Promise<{ spec: Spec; json: Buffer; functions: string[] }> {
  const injected = await injectDevices(spec, {
    op: 'create',
    id,
    wall,
    names: devices,
    specDirs: ctx.cdiSpecDirs,
    read: ctx.readDevices,
  });
  return { ...injected, json: Buffer.from(JSON.stringify(injected.spec)) };
}

function throwIfAborted({ id, signal }: CreateRequest, cause?: unknown): void {
  if (signal?.aborted !== true) return;
  const reason = 'given up: nobody waits for it any more';
  throw new RuntimeError({ code: ErrorCode.Canceled, op: 'create', id, reason, cause });
}
