/**
 * Where plans are carried out. Three implementations: the monitor's channel (engine), the addon (command line), and
 * a guest's agent. A `key` names a process within one executor: "ID" for a container's init, "ID/EXEC" for an exec.
 */

export interface StdioPaths {
  /** Host paths of fifos or files; empty: /dev/null. */
  stdin: string;
  stdout: string;
  stderr: string;
  terminal: boolean;
  /** stdout and stderr are plain files that grow (file:// scheme). */
  append?: boolean;
  /** stdin gets its reader only when the gate "start" opens; for plans that have that gate. */
  stdinAtGate?: boolean;
}

export interface LaunchOptions {
  /** Key of a process that the launched one must not outlive: SIGKILL follows that one's end. */
  diesWith?: string;
}

export interface LaunchResult {
  pid: number;
  /** The gate at which the process waits; empty when execve has succeeded. */
  pausedAt: string;
}

export interface ProcessExit {
  key: string;
  pid: number;
  /** As waitpid(2) gives it. */
  waitStatus: number;
  /** CLOCK_REALTIME in nanoseconds. */
  exitedAtNs: number;
}

/** Why a launch failed: the failed step, or the operation around it when no step is to blame. */
export interface LaunchFailure {
  /** Index into the plan's steps; undefined when no step is to blame. */
  index?: number | undefined;
  /** Field number of the step in LaunchPlan's oneof; names it. */
  action?: number | undefined;
  path: string;
  errno: number;
  detail: string;
  /** Wait status of a hook, or of an init that died early. */
  status: number;
  /** "open stdio", "clone", "init died": only without a step. */
  op: string;
}

export class LaunchError extends Error {
  override readonly name = 'LaunchError';
  readonly failure: LaunchFailure;

  constructor(failure: LaunchFailure) {
    super(`launch failed at ${failure.index === undefined ? failure.op : `step ${failure.index}`}`);
    this.failure = failure;
  }
}

export interface Executor {
  /** Ends before what it launches, and so cannot keep `diesWith`: who needs that has to see to it himself. */
  readonly transient?: boolean;
  /** Carries out an encoded plan up to its first gate or execve. Rejects with LaunchError. */
  launch(key: string, plan: Uint8Array, stdio: StdioPaths, options?: LaunchOptions): Promise<LaunchResult>;
  /** Opens the gate at which the process waits. Rejects with LaunchError when a later step fails. */
  proceed(key: string): Promise<LaunchResult>;
  /** Rejects with an Error whose `code` is "ESRCH" when the process is gone. */
  signal(key: string, signum: number): Promise<void>;
  resize(key: string, width: number, height: number): Promise<void>;
  closeStdin(key: string): Promise<void>;
  /** Drops the record and the streams of an exited process. */
  forget(key: string): Promise<void>;
  /** Every launched process ends in exactly one exit, told after the launch's own answer. Returns what ends it. */
  onExit(listener: (exit: ProcessExit) => void): () => void;
}
