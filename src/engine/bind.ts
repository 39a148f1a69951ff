/**
 * Binds the Task service to a router, under both names containerd uses; their messages are the same on the wire.
 * The peer of a call says whose containers it is about.
 */
import { asRuntimeError } from '../base/errors.ts';
import { containerd, google } from '../gen/containerd.js';
import type { Decoder, Encoder } from '../rpc/codec.ts';
import type { CallContext, Peer } from '../rpc/context.ts';
import type { Router } from '../rpc/router.ts';
import type { TaskService } from '../task/service.ts';

export interface TaskPeer extends Peer {
  /** Resolves when containers of a former engine have been found again; calls wait for it. */
  readonly ready: Promise<void>;
  readonly tasks: TaskService;
}

export const TASK_SERVICES = ['containerd.task.v2.Task', 'containerd.task.v3.Task'] as const;

interface Method {
  request: Decoder<never>;
  response: Encoder<never>;
  handler: (tasks: TaskService, request: never, call: CallContext<TaskPeer>) => unknown;
}

function method<Request, Response>(
  request: Decoder<Request>,
  response: Encoder<Response>,
  handler: (
    tasks: TaskService,
    request: Request,
    call: CallContext<TaskPeer>,
  ) => Promise<Response> | Response,
): Method {
  return { request, response, handler } as unknown as Method;
}

const t = containerd.task.v3;
const Empty = google.protobuf.Empty;

const methods: Record<string, Method> = {
  State: method(t.StateRequest, t.StateResponse, (tasks, request) => tasks.state(request)),
  Create: method(t.CreateTaskRequest, t.CreateTaskResponse, (tasks, request, call) =>
    tasks.create(request, call.signal),
  ),
  Start: method(t.StartRequest, t.StartResponse, (tasks, request) => tasks.start(request)),
  Delete: method(t.DeleteRequest, t.DeleteResponse, (tasks, request) => tasks.delete(request)),
  Pids: method(t.PidsRequest, t.PidsResponse, (tasks, request) => tasks.pids(request)),
  Pause: method(t.PauseRequest, Empty, (tasks, request) => tasks.pause(request)),
  Resume: method(t.ResumeRequest, Empty, (tasks, request) => tasks.resume(request)),
  Checkpoint: method(t.CheckpointTaskRequest, Empty, (tasks, request) => tasks.checkpoint(request)),
  Kill: method(t.KillRequest, Empty, (tasks, request) => tasks.kill(request)),
  Exec: method(t.ExecProcessRequest, Empty, (tasks, request) => tasks.exec(request)),
  ResizePty: method(t.ResizePtyRequest, Empty, (tasks, request) => tasks.resizePty(request)),
  CloseIO: method(t.CloseIORequest, Empty, (tasks, request) => tasks.closeIo(request)),
  Update: method(t.UpdateTaskRequest, Empty, (tasks, request) => tasks.update(request)),
  Wait: method(t.WaitRequest, t.WaitResponse, (tasks, request, call) => tasks.wait(request, call.signal)),
  Stats: method(t.StatsRequest, t.StatsResponse, (tasks, request) => tasks.stats(request)),
  Connect: method(t.ConnectRequest, t.ConnectResponse, (tasks, request) => tasks.connect(request)),
  Shutdown: method(t.ShutdownRequest, Empty, (tasks) => tasks.shutdown()),
};

/** Registers every method of the Task service. */
export function bindTaskService<P extends TaskPeer>(router: Router<P>): void {
  for (const service of TASK_SERVICES) {
    for (const [name, { request, response, handler }] of Object.entries(methods)) {
      router.register<unknown, unknown>({
        service,
        method: name,
        request,
        response: response,
        handler: async (call, message) => {
          await call.peer.ready;
          try {
            return await handler(call.peer.tasks, message as never, call);
          } catch (error) {
            throw asRuntimeError(error, name.toLowerCase(), (message as { id?: string }).id);
          }
        },
      });
    }
  }
}
