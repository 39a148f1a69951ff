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
  /** Name of the guest in which the plan is carried out; pids and the paths of the plan are the guest's then. */
  guest?: string;
  /**
   * The process's end is told before the file systems of its mount namespace are unmounted (an overlay's unmount writes
   * its upper file system back); `forget` is answered once they are. Not for guests.
   */
  holdMounts?: boolean;
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
  /** Its output has had no reader yet: `forget` waits for one, and a delete is not to be answered before. */
  outputWaits?: boolean;
  /** Its execve had succeeded. */
  executed?: boolean;
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

/** Why a guest did not do what was asked of it. */
export class GuestError extends Error {
  override readonly name = 'GuestError';
  /** Name of the errno: the agent's own, or ENOTCONN, ECONNRESET, ETIMEDOUT, EBUSY of its channel. */
  readonly code: string;
  readonly errno: number;
  /** What was waited for: "connect", "handshake", "channel", "call", "monitor"; empty when the agent itself refused. */
  readonly what: string;
  /** The agent's answer, encoded; empty without one. */
  readonly reply: Uint8Array;

  constructor(message: string, fields: { code: string; errno: number; what: string; reply: Uint8Array }) {
    super(message);
    this.code = fields.code;
    this.errno = fields.errno;
    this.what = fields.what;
    this.reply = fields.reply;
  }
}

/** The guests to whose agents this executor holds the channels. Every rejection is a GuestError. */
export interface Guests {
  /**
   * Waits until the agent behind the socket has said Hello; resolves with that (bulkhead.agent.v1.AgentHello). The
   * wait ends with the process `diesWith` (key of the hypervisor) too: ECONNRESET.
   */
  connect(guest: string, socketPath: string, deadlineMs: number, diesWith?: string): Promise<Uint8Array>;
  /** An encoded bulkhead.agent.v1.Call; resolves with the CallReply. Default deadline: 30 s. */
  call(guest: string, call: Uint8Array, deadlineMs?: number): Promise<Uint8Array>;
  /** False once the channel is gone, which it is for good. */
  isConnected(guest: string): boolean;
  /** Encoded bulkhead.agent.v1.Event; returns what ends it. */
  onEvent(listener: (guest: string, event: Uint8Array) => void): () => void;
  /** The channel is gone: all that ran in the guest has been told as killed. Returns what ends it. */
  onClosed(listener: (guest: string, reason: string) => void): () => void;
}

/**
 * A process that the wall itself holds, because the agent of its guest has a protocol of its own. Methods are those of
 * the executor without the key.
 */
export interface HeldProcess {
  proceed(): Promise<LaunchResult>;
  signal(signum: number): Promise<void>;
  resize(width: number, height: number): Promise<void>;
  closeStdin(): Promise<void>;
  forget(): Promise<void>;
}

/** One of them that an earlier engine had started to hold. */
export interface HeldState {
  key: string;
  pid: number;
  /** It was started; false: it waits for that. */
  running: boolean;
}

export interface Executor {
  /**
   * Puts a process under its key: the methods below lead to it from now on, until it is forgotten. Returns how its exit
   * is told. Undefined: this executor ends before its processes.
   */
  hold?(key: string, process: HeldProcess): (exit: Omit<ProcessExit, 'key'>) => void;
  /** Undefined: this executor has no way into guests. */
  readonly guests?: Guests;
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

const SIGKILL = 9;
/** For so long the end is asked for often: somebody waits. */
const SOON_MS = 1000;

/**
 * Kills a launched process and has the executor forget it, which it does as soon as the process has ended. A process that
 * is gone already, or was never there, is no error. Rejects after `deadlineMs` with the executor's last refusal.
 */
export async function endProcess(executor: Executor, key: string, deadlineMs = 30_000): Promise<void> {
  const began = Date.now();
  for (;;) {
    // Each time: what the first one hit may have been the outer stage, just after it had cloned.
    await executor.signal(key, SIGKILL).catch(() => {});
    try {
      await executor.forget(key);
      return;
    } catch (error) {
      const waited = Date.now() - began;
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      if (waited >= deadlineMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, waited < SOON_MS ? 2 : 50));
    }
  }
}
