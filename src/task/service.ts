/**
 * containerd's Task service for the containers of one shim (one monitor, one pod): translates, guards, and publishes
 * events in the order containerd relies on. What containers do is in src/runtime.
 *
 *   TaskCreate < TaskStart < TaskExit < TaskDelete;  TaskExecAdded < TaskExecStarted < TaskExit(exec);
 *   the init's TaskExit is the last exit of a container.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { containerd, google } from '../gen/containerd.js';
import type { Container, ContainerProcess, ExitStatus } from '../runtime/container.ts';
import { saveProgress, type RuntimeContext } from '../runtime/context.ts';
import { parseResources } from '../oci/validate/index.ts';
import { createContainer } from '../runtime/create.ts';
import { deleteContainer, deleteExec, forgetContainer } from '../runtime/delete.ts';
import { addExec, prepareExec, startExec } from '../runtime/exec.ts';
import { killProcess } from '../runtime/kill.ts';
import { Status } from '../runtime/lifecycle.ts';
import { pauseContainer, resumeContainer } from '../runtime/pause.ts';
import { startContainer } from '../runtime/start.ts';
import { updateContainer } from '../runtime/update.ts';
import type { Executor, ProcessExit, Wall } from '../runtime/types.ts';
import {
  connectResponse,
  deleteResponse,
  processDetails,
  rootfsMount,
  stateResponse,
  text,
  timestamp,
} from './convert.ts';
import type { TaskEvents } from './events.ts';
import { stdioPaths } from './io.ts';
import { LeftAnswers, type LeaveAnswer } from './left_answers.ts';
import { createOptions } from './options.ts';
import { orAborted, orAfter } from './waiting.ts';

type Task = typeof containerd.task.v3;
type Req<K extends keyof Task> = Task[K] extends { decode(...args: never[]): infer M } ? M : never;
type Empty = google.protobuf.IEmpty;
const empty: Empty = {};

/** A monitor repeats what was not answered as soon as it has a new engine; after this long it will not. */
const REPEATED_DELETE_MS = 10_000;

/** An exec's launch takes 2 ms, or for ever when its container is frozen. */
const LAUNCH_MS = 1000;

export interface TaskServiceOptions {
  ctx: RuntimeContext;
  executor: Executor;
  events: TaskEvents;
  namespace: string;
  group: string;
  wall: Wall;
  monitorPid: number;
  log: Logger;
  leaveAnswer: LeaveAnswer;
  /** Ends the monitor; called after the answer of Shutdown went out. */
  shutdown: () => void;
}

export class TaskService {
  readonly #o: TaskServiceOptions;
  readonly #answers: LeftAnswers;
  readonly #containers = new Map<string, Container>();
  /** Exits of processes whose create has not returned yet. */
  readonly #earlyExits = new Map<string, ProcessExit>();
  readonly #creating = new Map<string, AbortController>();
  /** Containers found again after an engine was restarted: a repeated request for them is answered, not refused. */
  readonly #adopted = new Set<string>();
  /** Processes that a former engine started; containerd sends the start again if it had no answer. */
  readonly #adoptedStarts = new Set<ContainerProcess>();

  /** Deleted, but the record is still there: until the answer has left, a new engine may have to give it again. */
  readonly #forgetting = new Map<string, Container>();

  constructor(options: TaskServiceOptions) {
    this.#o = options;
    this.#answers = new LeftAnswers(options.leaveAnswer, options.monitorPid);
    options.executor.onExit((exit) => this.exited(exit));
  }

  get containers(): ReadonlyMap<string, Container> {
    return this.#containers;
  }

  /** Takes over a container that a former engine made. */
  adopt(container: Container): void {
    this.#containers.set(container.id, container);
    this.#adopted.add(container.id);
    this.#answers.leaveConnect(container);
    for (const process of [container.init, ...container.execs.values()]) {
      if (process.record.status !== Status.STATUS_CREATED) this.#adoptedStarts.add(process);
      this.#answers.leaveState(container, process);
    }
    this.#watchOom(container);
  }

  /** A delete that a former engine did, and perhaps did not answer. */
  adoptDeleted(container: Container): void {
    this.#forgetting.set(container.id, container);
    this.#adopted.add(container.id);
    setTimeout(() => this.#forget(container), REPEATED_DELETE_MS).unref();
  }

  /** Tells a start that a former engine did not; the request for it will come again. */
  adoptStart(container: Container, process: ContainerProcess): void {
    this.#adoptedStarts.add(process);
    this.#answers.leaveState(container, process);
    this.#publishStart(container, process);
  }

  /** `waiting` is aborted when the caller gives up; then the create fails and leaves nothing behind. */
  async create(
    request: Req<'CreateTaskRequest'>,
    waiting?: AbortSignal,
  ): Promise<containerd.task.v3.ICreateTaskResponse> {
    const { id, bundle } = request;
    const { ctx, executor, namespace, group, wall } = this.#o;
    const known = this.#containers.get(id);
    if (known !== undefined && this.#adopted.has(id)) return { pid: known.init.pid };
    if (request.checkpoint !== '') throw this.#unimplemented('create', id, 'restoring from a checkpoint');
    const stdio = stdioPaths('create', id, request);
    const options = await createOptions(id, request.options);
    const deleted = this.#forgetting.get(id);
    if (deleted !== undefined) this.#forget(deleted);
    if (this.#creating.has(id)) throw this.#underWay('create', id);
    const abort = new AbortController();
    const signal = waiting === undefined ? abort.signal : AbortSignal.any([abort.signal, waiting]);
    this.#creating.set(id, abort);
    try {
      const rootfsMounts = (request.rootfs ?? []).map(rootfsMount);
      const create = { id, namespace, bundle, wall, rootfsMounts, stdio, options, executor, group, signal };
      const container = await createContainer(ctx, create);
      this.#containers.set(id, container);
      // After the answer: nothing runs before `start`.
      setImmediate(() => this.#watchOom(container));
      const io = {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
      };
      this.#o.events.publish('create', {
        containerId: id,
        bundle,
        rootfs: request.rootfs,
        io,
        pid: container.init.pid,
      });
      this.#answers.leaveState(container, container.init);
      this.#answers.leaveConnect(container);
      return { pid: container.init.pid };
    } finally {
      this.#creating.delete(id);
      const exit = this.#earlyExits.get(id);
      this.#earlyExits.delete(id);
      if (exit !== undefined) this.exited(exit);
    }
  }

  /** True when there is no container, and none is being made. */
  get isEmpty(): boolean {
    return this.#containers.size === 0 && this.#creating.size === 0;
  }

  /** True while the container is being made. */
  isCreating(id: string): boolean {
    return this.#creating.has(id);
  }

  /** Ends a create that is under way; resolves when it has undone what it did. */
  async abandonCreate(id: string): Promise<void> {
    this.#creating.get(id)?.abort();
    while (this.#creating.has(id)) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async start(request: Req<'StartRequest'>): Promise<containerd.task.v3.IStartResponse> {
    const container = this.#container('start', request.id);
    const process = this.#process('start', container, request.execId);
    if (this.#adoptedStarts.delete(process)) return { pid: process.pid };
    const started = this.#start(container, process);
    process.starting = started.catch(() => {});
    return { pid: await started };
  }

  async #start(container: Container, process: ContainerProcess): Promise<number> {
    if (process.execId === '') await startContainer(this.#o.ctx, container);
    else await startExec(this.#o.ctx, container, process);
    this.#answers.leaveState(container, process);
    this.#publishStart(container, process);
    return process.pid;
  }

  #publishStart(container: Container, process: ContainerProcess): void {
    const containerId = container.id;
    const { pid, execId } = process;
    if (execId === '') this.#o.events.publish('start', { containerId, pid });
    else this.#o.events.publish('exec-started', { containerId, execId, pid });
  }

  async delete(request: Req<'DeleteRequest'>): Promise<containerd.task.v3.IDeleteResponse> {
    const deleted = this.#forgetting.get(request.id);
    if (deleted !== undefined && request.execId === '' && this.#adopted.has(request.id)) {
      this.#publishDelete(deleted);
      return deleteResponse(deleted.init.exitStatus);
    }
    const container = this.#container('delete', request.id);
    const process = this.#process('delete', container, request.execId);
    if (process.execId !== '') {
      const exit = await deleteExec(this.#o.ctx, container, process);
      this.#answers.takeStateBack(container, process);
      return deleteResponse(exit);
    }
    return deleteResponse(await this.remove(container, false));
  }

  /** Deletes a container, forced or not, and forgets it. */
  async remove(container: Container, force: boolean): Promise<ExitStatus> {
    const { ctx } = this.#o;
    if (container.init.isStopped) await container.init.exited;
    const exit = await deleteContainer(ctx, container, force);
    container.record.deleted = true;
    ctx.store.save(container.record);
    for (const process of [container.init, ...container.execs.values()])
      this.#answers.takeStateBack(container, process);
    this.#answers.takeConnectBack(container);
    this.#publishDelete(container);
    this.#containers.delete(container.id);
    this.#adopted.delete(container.id);
    this.#forgetting.set(container.id, container);
    // The answer leaves in this turn of the event loop.
    setImmediate(() => this.#forget(container));
    return exit;
  }

  #publishDelete(container: Container): void {
    const { pid, exitCode, exitedAtNs } = container.init.exitStatus;
    const exitedAt = timestamp(exitedAtNs);
    this.#o.events.publish('delete', { containerId: container.id, pid, exitStatus: exitCode, exitedAt });
  }

  #forget(container: Container): void {
    if (this.#forgetting.get(container.id) !== container) return;
    this.#forgetting.delete(container.id);
    this.#adopted.delete(container.id);
    forgetContainer(this.#o.ctx, container);
  }

  state(request: Req<'StateRequest'>): containerd.task.v3.IStateResponse {
    const container = this.#container('state', request.id);
    return stateResponse(container, this.#process('state', container, request.execId));
  }

  async pids(request: Req<'PidsRequest'>): Promise<containerd.task.v3.IPidsResponse> {
    const container = this.#container('pids', request.id);
    const execs = [...container.execs.values()];
    // Launched, but not started yet: not there as far as containerd is concerned.
    await orAfter(LAUNCH_MS, Promise.allSettled(execs.map((exec) => exec.launch ?? Promise.resolve())));
    const all = await container.backend.pids(container.record, container.executor);
    const execOf = new Map(execs.map((exec) => [exec.pid, exec.execId]));
    const waiting = new Set(execs.map((exec) => exec.waitingPid));
    const pids = all.filter((pid) => !waiting.has(pid));
    const processes = pids.map((pid) => {
      const execId = execOf.get(pid);
      return execId === undefined ? { pid } : { pid, info: processDetails(execId) };
    });
    return { processes };
  }

  async pause(request: Req<'PauseRequest'>): Promise<Empty> {
    const container = this.#container('pause', request.id);
    await pauseContainer(this.#o.ctx, container);
    this.#answers.leaveState(container, container.init);
    this.#o.events.publish('paused', { containerId: container.id });
    return empty;
  }

  async resume(request: Req<'ResumeRequest'>): Promise<Empty> {
    const container = this.#container('resume', request.id);
    await resumeContainer(this.#o.ctx, container);
    this.#answers.leaveState(container, container.init);
    this.#o.events.publish('resumed', { containerId: container.id });
    return empty;
  }

  checkpoint(request: Req<'CheckpointTaskRequest'>): Empty {
    this.#container('checkpoint', request.id);
    throw this.#unimplemented('checkpoint', request.id, 'checkpoint');
  }

  async kill(request: Req<'KillRequest'>): Promise<Empty> {
    const container = this.#container('kill', request.id);
    const process = this.#process('kill', container, request.execId);
    await killProcess(container, process, request.signal, request.all);
    return empty;
  }

  exec(request: Req<'ExecProcessRequest'>): Empty {
    const container = this.#container('exec', request.id);
    const { execId } = request;
    if (this.#adopted.has(container.id) && container.execs.has(execId)) return empty;
    const stdio = stdioPaths('exec', `${container.id}/${execId}`, request);
    const added = addExec(this.#o.ctx, container, execId, text(request.spec?.value), stdio);
    this.#answers.leaveState(container, added);
    this.#o.events.publish('exec-added', { containerId: container.id, execId });
    // The answer leaves in this turn of the event loop; the start will be a while in coming.
    setImmediate(() => prepareExec(container, added));
    return empty;
  }

  async resizePty(request: Req<'ResizePtyRequest'>): Promise<Empty> {
    const container = this.#container('resize', request.id);
    const process = this.#process('resize', container, request.execId);
    if (process.record.terminal !== true) return empty;
    await container.executor.resize(process.key, request.width, request.height);
    return empty;
  }

  async closeIo(request: Req<'CloseIORequest'>): Promise<Empty> {
    const container = this.#container('close io', request.id);
    const process = this.#process('close io', container, request.execId);
    if (request.stdin && process.pid !== 0 && !process.isStopped)
      await container.executor.closeStdin(process.key);
    return empty;
  }

  async update(request: Req<'UpdateTaskRequest'>): Promise<Empty> {
    const container = this.#container('update', request.id);
    await updateContainer(container, parseResources(text(request.resources?.value), container.id));
    return empty;
  }

  async wait(request: Req<'WaitRequest'>, signal: AbortSignal): Promise<containerd.task.v3.IWaitResponse> {
    const container = this.#container('wait', request.id);
    const process = this.#process('wait', container, request.execId);
    const exit = await orAborted(process.exited, signal);
    return { exitStatus: exit.exitCode, exitedAt: timestamp(exit.exitedAtNs) };
  }

  async stats(request: Req<'StatsRequest'>): Promise<containerd.task.v3.IStatsResponse> {
    const container = this.#container('stats', request.id);
    return { stats: await container.backend.stats(container.record, container.executor) };
  }

  /** Succeeds for an unknown id too: containerd uses it as a health check. */
  connect(request: Pick<Req<'ConnectRequest'>, 'id'>): containerd.task.v3.IConnectResponse {
    return connectResponse(this.#o.monitorPid, this.#containers.get(request.id)?.init.pid ?? 0);
  }

  shutdown(): Empty {
    for (const container of [...this.#forgetting.values()]) this.#forget(container);
    if (this.isEmpty) setImmediate(() => this.#o.shutdown());
    return empty;
  }

  /** A process ended: recorded, told as an event, then to those who wait. */
  exited(exit: ProcessExit): void {
    this.#onExit(exit).catch((error: unknown) => {
      this.#o.log.error('exit not recorded', { id: exit.key, error: String(error) });
    });
  }

  async #onExit(exit: ProcessExit): Promise<void> {
    const [containerId = '', execId = ''] = exit.key.split('/', 2);
    const container = this.#containers.get(containerId);
    const process = container?.process(execId);
    if (container === undefined && this.#creating.has(containerId)) this.#earlyExits.set(exit.key, exit);
    if (container === undefined || process === undefined || process.isStopped) return;
    if (exit.executed === true) this.#startedBefore(container, process, exit.pid);
    if (process !== container.init && !(await this.#hasStarted(process))) return;
    if (process.isStopped) return;
    process.recordExit(exit);
    await process.starting;
    if (process === container.init) await this.#afterInit(container);
    this.#answers.leaveState(container, process);
    saveProgress(this.#o.ctx, container.record, true);
    this.publishExit(container, process);
    process.announceExit();
  }

  /** A former engine has let it through, and did not live to see it start: it had not when this engine was told of it. */
  #startedBefore(container: Container, process: ContainerProcess, pid: number): void {
    const { record, starting } = process;
    const created = record.status === Status.STATUS_CREATED;
    if (!created || starting !== undefined || !this.#adopted.has(container.id)) return;
    if (process.pid === 0) record.pid = pid;
    record.status = Status.STATUS_RUNNING;
    this.adoptStart(container, process);
  }

  /** An exec is launched before its start is asked for: the end of one that never started is nobody's business. */
  async #hasStarted(exec: ContainerProcess): Promise<boolean> {
    await exec.starting;
    return exec.record.status !== Status.STATUS_CREATED;
  }

  /** Tells an exit that is on record. Until it has arrived, a new engine would tell it again. */
  publishExit(container: Container, process: ContainerProcess): void {
    const { pid, exitCode, exitedAtNs } = process.exitStatus;
    this.#o.events.publish('exit', {
      containerId: container.id,
      id: process.execId === '' ? container.id : process.execId,
      pid,
      exitStatus: exitCode,
      exitedAt: timestamp(exitedAtNs),
    });
    void this.#o.events.flush().then(() => {
      process.record.exitPublished = true;
      if (this.#containers.get(container.id) === container) saveProgress(this.#o.ctx, container.record);
    });
  }

  /** What else runs in the container ends with its init; their exits are told first. */
  async #afterInit(container: Container): Promise<void> {
    container.stopOomWatch();
    if (container.record.privatePidNamespace !== true) {
      await container.backend.killAll(container.record, container.executor).catch((error: unknown) => {
        this.#o.log.warning('processes left after init ended', { id: container.id, error: String(error) });
      });
    }
    const running = [...container.execs.values()].filter((exec) => exec.pid !== 0);
    await Promise.all(running.map((exec) => exec.exited));
  }

  #watchOom(container: Container): void {
    if (container.init.isStopped || this.#containers.get(container.id) !== container) return;
    const { id, backend, record, executor } = container;
    const onOom = (): void => this.#o.events.publish('oom', { containerId: id });
    try {
      container.stopOomWatch = backend.watchOom(record, onOom, executor);
    } catch (error) {
      this.#o.log.warning('memory limit events are not watched', { id, error: String(error) });
    }
  }

  #container(op: string, id: string): Container {
    const container = this.#containers.get(id);
    if (container !== undefined) return container;
    throw new RuntimeError({ code: ErrorCode.NotFound, op, id, reason: 'no such container' });
  }

  #process(op: string, container: Container, execId: string): ContainerProcess {
    const process = container.process(execId);
    if (process !== undefined) return process;
    throw new RuntimeError({
      code: ErrorCode.NotFound,
      op,
      id: container.id,
      object: `exec ${execId}`,
      reason: 'no such process',
    });
  }

  #underWay(op: string, id: string): RuntimeError {
    return new RuntimeError({
      code: ErrorCode.AlreadyExists,
      op,
      id,
      reason: 'a create of this container is under way',
    });
  }

  #unimplemented(op: string, id: string, what: string): RuntimeError {
    return new RuntimeError({
      code: ErrorCode.Unimplemented,
      op,
      id,
      object: what,
      reason: 'not supported by this version',
    });
  }
}
