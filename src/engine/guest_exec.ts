/**
 * `bulkhead guest exec`: a process in a pod's guest, outside of its containers, for as long as the command's connection
 * stands. An engine that ends takes the connection with it, and so the command; the process then ends with its pod.
 */
import { asRuntimeError, ErrorCode, RuntimeError } from '../base/errors.ts';
import type { bulkhead } from '../gen/bulkhead.js';
import { launchSentence } from '../runtime/launch_sentence.ts';
import type { LaunchResult } from '../sandbox/executor.ts';
import type { GuestProcess } from '../sandbox/vm/pod_agent.ts';
import type { MonitorSession } from './monitor_session.ts';

type IGuestExec = bulkhead.executor.v1.IGuestExec;
type IGuestExecEnd = bulkhead.executor.v1.IGuestExecEnd;
type IGuestExecInput = bulkhead.executor.v1.IGuestExecInput;

const SIGKILL = 9;
const OP = 'guest exec';

/** VmBackend's. */
export type RunInGuest = (
  pod: { namespace: string; group: string },
  executor: MonitorSession['executor'],
  process: GuestProcess,
) => Promise<LaunchResult>;

let serial = 0;

export class GuestExec {
  readonly #session: MonitorSession | undefined;
  readonly #request: IGuestExec;
  readonly #run: RunInGuest;
  /** Of this engine and no other: an earlier one's process may still be there. */
  readonly #key = `/vm/exec-${process.pid}-${(serial += 1)}`;
  #gone = false;
  #launched = false;
  /** What came before there was a process. */
  readonly #early: IGuestExecInput[] = [];

  /** @param session of the pod that is named; undefined: there is none */
  constructor(session: MonitorSession | undefined, request: IGuestExec, run: RunInGuest) {
    this.#session = session;
    this.#request = request;
    this.#run = run;
  }

  /** Resolves when it has ended, or could not be executed. */
  async end(): Promise<IGuestExecEnd> {
    const { namespace, group } = this.#request;
    const pod = { namespace: namespace ?? '', group: group ?? '' };
    try {
      if (this.#session === undefined) throw notThere(pod.group);
      return { waitStatus: await this.#execute(this.#session, pod) };
    } catch (error) {
      return { error: asRuntimeError(launchSentence(OP, pod.group, error), OP, pod.group).message };
    }
  }

  async #execute({ executor, lost }: MonitorSession, pod: Parameters<RunInGuest>[0]): Promise<number> {
    const { args, env, cwd, program, stdio, width, height } = this.#request;
    const { stdin, stdout, stderr, terminal } = stdio ?? {};
    const key = this.#key;
    let stop = (): void => {};
    const exited = new Promise<number>((resolve) => {
      stop = executor.onExit((exit) => exit.key === key && resolve(exit.waitStatus));
    });
    try {
      await this.#run(pod, executor, {
        key,
        args: args ?? [],
        env: env ?? [],
        cwd: cwd || '/',
        program: program ?? new Uint8Array(),
        stdio: {
          stdin: stdin ?? '',
          stdout: stdout ?? '',
          stderr: stderr ?? '',
          terminal: terminal === true,
        },
        size: { width: width ?? 0, height: height ?? 0 },
      });
      this.#launched = true;
      if (this.#gone) this.#kill();
      for (const input of this.#early) this.input(input);
      const status = await Promise.race([exited, lost]);
      if (status === undefined) throw notThere(pod.group);
      return status;
    } finally {
      stop();
      void executor.forget(key).catch(() => {});
    }
  }

  input(input: IGuestExecInput): void {
    if (!this.#launched) {
      this.#early.push(input);
      return;
    }
    const { closeStdin, width, height } = input;
    const executor = this.#session?.executor;
    if (closeStdin === true) executor?.closeStdin(this.#key).catch(() => {});
    if ((width ?? 0) > 0) executor?.resize(this.#key, width ?? 0, height ?? 0).catch(() => {});
  }

  /** Nobody waits for it any more. */
  abandon(): void {
    this.#gone = true;
    this.#kill();
  }

  #kill(): void {
    this.#session?.executor.signal(this.#key, SIGKILL).catch(() => {});
  }
}

function notThere(id: string): RuntimeError {
  const code = ErrorCode.NotFound;
  return new RuntimeError({ code, op: OP, id, object: 'virtual machine', reason: 'is not there any more' });
}
