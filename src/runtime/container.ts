/**
 * A container in memory: its record (what is on disk), its processes, and who launches for it. Owned by one shim
 * service or one command-line invocation; the verbs beside this file change it.
 */
import type { Backend } from '../sandbox/backend.ts';
import type { Executor, LaunchResult, ProcessExit } from '../sandbox/executor.ts';
import type { ContainerRecord, ProcessRecord } from '../state/index.ts';
import { exitCodeOf } from '../base/proc.ts';
import { Status, transition } from './lifecycle.ts';

export interface ExitStatus {
  pid: number;
  /** Shell convention: 128 + signal. */
  exitCode: number;
  exitedAtNs: number;
}

/** An init (execId "") or an exec. `exited` resolves once and never rejects. */
export class ContainerProcess {
  readonly containerId: string;
  readonly record: ProcessRecord;
  readonly exited: Promise<ExitStatus>;
  #settle: (status: ExitStatus) => void = () => {};
  /** Settled when a start in flight has been answered: an exit seen before is told after it. */
  starting: Promise<unknown> | undefined;
  /** Of an exec: its launch up to the gate, which may begin before its start is asked for. */
  launch: Promise<LaunchResult> | undefined;
  /** Pid of an exec that waits at its gate; 0 when none does. */
  waitingPid = 0;
  /** Its output has had no reader when it ended: its delete is not answered before one has come. */
  outputWaits = false;

  constructor(containerId: string, record: ProcessRecord) {
    this.containerId = containerId;
    this.record = record;
    this.exited = new Promise((resolve) => (this.#settle = resolve));
    if (record.status === Status.STATUS_STOPPED) this.#settle(this.exitStatus);
  }

  get execId(): string {
    return this.record.id ?? '';
  }

  /** What the executor calls this process. */
  get key(): string {
    return this.execId === '' ? this.containerId : `${this.containerId}/${this.execId}`;
  }

  get pid(): number {
    return this.record.pid ?? 0;
  }

  get isStopped(): boolean {
    return this.record.status === Status.STATUS_STOPPED;
  }

  get exitStatus(): ExitStatus {
    return {
      pid: this.pid,
      exitCode: this.record.exitCode ?? 0,
      exitedAtNs: this.record.exitedAtNs ?? 0,
    };
  }

  /** Records the exit. The waiters hear of it by `announceExit`, so that state is on disk and events are out first. */
  recordExit(exit: ProcessExit): void {
    this.record.status = transition('exit', this.record.status, this.key);
    this.record.exitCode = exitCodeOf(exit.waitStatus);
    this.record.exitedAtNs = exit.exitedAtNs;
    this.outputWaits = exit.outputWaits === true;
  }

  announceExit(): void {
    this.#settle(this.exitStatus);
  }
}

export class Container {
  readonly record: ContainerRecord;
  readonly backend: Backend;
  readonly executor: Executor;
  readonly init: ContainerProcess;
  readonly execs = new Map<string, ContainerProcess>();
  /** Ends the watch for kills by the memory limit. */
  stopOomWatch: () => void = () => {};

  constructor(record: ContainerRecord, backend: Backend, executor: Executor) {
    this.record = record;
    this.backend = backend;
    this.executor = executor;
    record.init ??= {};
    this.init = new ContainerProcess(this.id, record.init);
    for (const exec of record.execs ?? []) this.execs.set(exec.id ?? '', new ContainerProcess(this.id, exec));
  }

  get id(): string {
    return this.record.id ?? '';
  }

  get status(): Status {
    return this.init.record.status ?? Status.STATUS_UNKNOWN;
  }

  /** The init for "", else the exec; undefined when there is none. */
  process(execId: string): ContainerProcess | undefined {
    return execId === '' ? this.init : this.execs.get(execId);
  }

  addExec(record: ProcessRecord): ContainerProcess {
    const process = new ContainerProcess(this.id, record);
    this.execs.set(process.execId, process);
    (this.record.execs ??= []).push(record);
    return process;
  }

  removeExec(process: ContainerProcess): void {
    this.execs.delete(process.execId);
    this.record.execs = (this.record.execs ?? []).filter((record) => record !== process.record);
  }
}
