/** What the launcher (`containerd-shim-bulkhead-v2 start|delete|-info`) asks the engine; shim contract, "invocation". */
import { asRuntimeError } from '../base/errors.ts';
import { cgroupLayout, makeHelperCgroup } from '../cgroups/index.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import { containerd, google } from '../gen/containerd.js';
import type { Features } from '../oci/features.ts';
import type { RuntimeContext } from '../runtime/context.ts';
import { readConfigFile } from '../runtime/config_file.ts';
import { removeLeftovers } from '../runtime/leftovers.ts';
import { shimOptions } from '../task/options.ts';
import { timestamp } from '../task/convert.ts';
import { parseBootstrap } from './bootstrap.ts';
import type { MonitorSession } from './monitor_session.ts';

type IShimRequest = bulkhead.executor.v1.IShimRequest;
type IShimReply = bulkhead.executor.v1.IShimReply;

/** Annotations that put several containers behind one monitor, in order of preference. */
const GROUP_ANNOTATIONS = ['io.containerd.runc.v2.group', 'io.kubernetes.cri.sandbox-id'];
const KILLED = 137;

export interface ShimActionDeps {
  ctx: RuntimeContext;
  protocol: 'ttrpc' | 'grpc';
  version: string;
  features: () => Features;
  sessionFor: (namespace: string, id: string) => MonitorSession | undefined;
  /** The monitor of a container that is deleted has not said hello yet, if there is one. */
  deletedUnseen: (namespace: string, id: string) => void;
}

/** Answers one request; errors come back as the sentence to print. */
export async function answerShim(deps: ShimActionDeps, request: IShimRequest): Promise<IShimReply> {
  try {
    if (request.action === 'start') return await start(deps, request);
    if (request.action === 'delete') return await remove(deps, request);
    if (request.action === 'info') return info(deps, request);
    return { error: `unknown action "${request.action}"` };
  } catch (error) {
    return { error: asRuntimeError(error, request.action ?? '', request.id ?? '').message };
  }
}

async function start(deps: ShimActionDeps, request: IShimRequest): Promise<IShimReply> {
  const id = request.id ?? '';
  const bootstrap = parseBootstrap(request.stdin ?? new Uint8Array(), id, request.namespace ?? '');
  const options = await shimOptions('start', id, bootstrap.options);
  const protocol = options.protocol ?? deps.protocol;
  return {
    group: groupOf(request.bundle ?? '', id),
    shimCgroup: options.shimCgroup
      ? makeHelperCgroup('start', id, options.shimCgroup, cgroupLayout()).join('\n')
      : '',
    bootstrap:
      protocol === 'grpc'
        ? Buffer.from('{"version":2,"address":"@ADDRESS@","protocol":"grpc"}')
        : Buffer.alloc(0),
  };
}

/** A bundle that cannot be read is no error here: create says what is wrong with it, where the user sees it. */
function groupOf(bundle: string, id: string): string {
  try {
    const json = readConfigFile('start', id, bundle);
    // Spelt with \u escapes they would be missed; nobody writes them so, and then a container is alone.
    if (!GROUP_ANNOTATIONS.some((name) => json.includes(name))) return id;
    const config = JSON.parse(json.toString('utf8')) as { annotations?: Record<string, unknown> };
    for (const name of GROUP_ANNOTATIONS) {
      const group = config.annotations?.[name];
      if (typeof group === 'string' && group !== '') return group;
    }
  } catch {
    return id;
  }
  return id;
}

/** Runs after every lost connection, also after a proper end: then there is nothing left to do. */
async function remove(deps: ShimActionDeps, request: IShimRequest): Promise<IShimReply> {
  const namespace = request.namespace ?? '';
  const id = request.id ?? '';
  const session = deps.sessionFor(namespace, id);
  if (session === undefined) deps.deletedUnseen(namespace, id);
  // containerd gave up on a create that hangs.
  await session?.tasks.abandonCreate(id);
  const container = session?.tasks.containers.get(id);
  let response: containerd.task.v3.IDeleteResponse = {
    exitStatus: KILLED,
    exitedAt: timestamp(Date.now() * 1e6),
  };
  const exit =
    session !== undefined && container !== undefined
      ? await Promise.race([session.tasks.remove(container, true), session.lost]).catch(() => undefined)
      : undefined;
  if (exit !== undefined) {
    response = { pid: exit.pid, exitStatus: exit.exitCode, exitedAt: timestamp(exit.exitedAtNs) };
  } else {
    const left = await removeLeftovers(deps.ctx, namespace, id);
    if (left !== undefined) response = { ...response, pid: left.pid };
  }
  session?.endWhenUnused();
  return { stdout: containerd.task.v3.DeleteResponse.encode(response).finish() };
}

function info(deps: ShimActionDeps, request: IShimRequest): IShimReply {
  const any = request.stdin?.length ? google.protobuf.Any.decode(request.stdin) : undefined;
  const runtimeInfo = {
    name: `io.containerd.bulkhead${request.wall === 'namespace' ? '' : `-${request.wall}`}.v2`,
    version: { version: deps.version },
    ...(any ? { options: any } : {}),
    features: {
      typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/features/Features',
      value: Buffer.from(JSON.stringify(deps.features())),
    },
  };
  return { stdout: containerd.types.RuntimeInfo.encode(runtimeInfo).finish() };
}
