/**
 * A process behind Kata's agent, held as the monitor holds its own (Executor.hold). Its output is asked for piece by
 * piece; when both streams have ended it is waited for, and its exit is told. In that order: the agent closes the
 * streams of a process that was waited for.
 *
 *   launch ── created (waits) ── proceed ── running ── output ended ── WaitProcess ── exited ── forget
 */
import { statSync } from 'node:fs';
import { ErrorCode, type RuntimeError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { HeldProcess, LaunchResult, ProcessExit, StdioPaths } from '../../executor.ts';
import { openInput, openOutput, pumpInput, pumpOutput, type Input, type Output } from './streams.ts';
import type { KataRpc } from './rpc.ts';

const SIGKILL = 9;
/** Wait status of "killed by SIGKILL", for a process that nobody saw end. */
const LOST = SIGKILL;
/** Exit status of a process whose own the agent does not know. */
const UNKNOWN_STATUS = 255;
/** How long the output of a killed process may still take: its reader may have stopped, its children may hold it. */
const LAST_WORDS_MS = 10_000;

export interface ProcessInput {
  rpc: KataRpc;
  containerId: string;
  /** Of an exec; '' for a container's first process. */
  execId: string;
  /** That the host knows it by: the machine's. */
  pid: number;
  stdio: StdioPaths;
  /** What "start" is. */
  start: () => Promise<unknown>;
  /** Keeps for the next engine whether it was started; false: it is forgotten. */
  note: (key: string, started: boolean) => void;
  log: Logger;
}

export class KataProcess implements HeldProcess {
  readonly key: string;
  readonly #input: ProcessInput;
  readonly #address: { containerId: string; execId: string };
  readonly #outputs: { name: 'ReadStdout' | 'ReadStderr'; output: Output }[];
  #stdin: Input | undefined;
  #started = false;
  #watched = false;
  #exited = false;
  #hurry: () => void = () => {};
  readonly #hurried = new Promise<void>((resolve) => (this.#hurry = resolve));
  #hurryTimer: NodeJS.Timeout | undefined;
  #tell: (exit: Omit<ProcessExit, 'key'>) => void = () => {};

  /** Opens the output's ends. @throws Error of open(2) or stat(2) */
  constructor(input: ProcessInput) {
    const { containerId, execId, stdio } = input;
    this.#input = input;
    this.key = execId === '' ? containerId : `${containerId}/${execId}`;
    this.#address = { containerId, execId: execId === '' ? containerId : execId };
    if (stdio.stdin !== '') statSync(stdio.stdin);
    const { stdout, append = false } = stdio;
    // With a terminal there is one stream.
    this.#outputs = [{ name: 'ReadStdout', output: openOutput(stdout, append) }];
    if (stdio.terminal) return;
    try {
      this.#outputs.push({ name: 'ReadStderr', output: openOutput(stdio.stderr, append) });
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  get isExec(): boolean {
    return this.#input.execId !== '';
  }

  /** @param tell takes its exit */
  heldBy(tell: (exit: Omit<ProcessExit, 'key'>) => void): void {
    this.#tell = tell;
  }

  /** The agent has the process: it is watched from now on. */
  watch(): void {
    if (this.#watched) return;
    this.#watched = true;
    void this.#run();
  }

  async proceed(): Promise<LaunchResult> {
    const { start, pid } = this.#input;
    await start();
    this.running();
    return { pid, pausedAt: '' };
  }

  /** Its input flows from now on. */
  running(): void {
    if (this.#started) return;
    this.#started = true;
    this.#input.note(this.key, true);
    this.watch();
    const { stdio } = this.#input;
    if (stdio.stdin !== '') this.#feed(stdio.stdin);
    // A terminal's input has no end of its own: closing it would close the terminal.
    else if (!stdio.terminal) void this.#endOfInput().catch(() => {});
  }

  #feed(path: string): void {
    try {
      const input = openInput(path);
      this.#stdin = input;
      const send = async (data: Uint8Array): Promise<number> => {
        const { length } = await this.#input.rpc.call(
          'WriteStdin',
          { ...this.#address, data },
          this.#scope('write'),
        );
        return length;
      };
      void pumpInput(input, send, () => this.#endOfInput());
    } catch (error) {
      this.#input.log.warning('no input', { id: this.key, path, error: (error as Error).message });
    }
  }

  async #endOfInput(): Promise<void> {
    if (this.#input.stdio.terminal) return;
    await this.#input.rpc.call('CloseStdin', this.#address, this.#scope('close-io'));
  }

  async #run(): Promise<void> {
    const { rpc } = this.#input;
    const pumps = this.#outputs.map(({ name, output }) =>
      pumpOutput(async (length) => {
        const { data } = await rpc.call(name, { ...this.#address, length }, this.#scope('read'));
        return data;
      }, output),
    );
    await Promise.race([Promise.all(pumps), this.#hurried]);
    let waitStatus: number;
    try {
      const { status } = await rpc.call('WaitProcess', this.#address, this.#scope('wait'));
      waitStatus = (status & 0xff) << 8;
    } catch (error) {
      const isGone = (error as RuntimeError).code === ErrorCode.Unavailable;
      waitStatus = isGone ? LOST : UNKNOWN_STATUS << 8;
      if (!isGone)
        this.#input.log.warning('exit not known', { id: this.key, error: (error as Error).message });
    }
    this.#exit(waitStatus);
  }

  #exit(waitStatus: number): void {
    if (this.#exited) return;
    this.#exited = true;
    clearTimeout(this.#hurryTimer);
    this.#stdin?.release();
    for (const { output } of this.#outputs) output.end();
    this.#tell({ pid: this.#input.pid, waitStatus, exitedAtNs: Date.now() * 1e6 });
  }

  /** Rejects with code ESRCH when it has ended, or is not there yet. */
  async signal(signum: number): Promise<void> {
    if (this.#exited || !this.#watched) throw noSuchProcess();
    const { rpc } = this.#input;
    try {
      await rpc.call('SignalProcess', { ...this.#address, signal: signum }, this.#scope('kill'));
    } catch (error) {
      throw (error as RuntimeError).code === ErrorCode.NotFound ? noSuchProcess() : error;
    } finally {
      if (signum === SIGKILL) this.hurry();
    }
  }

  /** It has been killed: its output is waited for no longer than a while. */
  hurry(): void {
    this.#hurryTimer ??= setTimeout(() => this.#hurry(), LAST_WORDS_MS).unref();
  }

  async resize(width: number, height: number): Promise<void> {
    if (this.#exited) throw noSuchProcess();
    await this.#input.rpc.call(
      'TtyWinResize',
      { ...this.#address, row: height, column: width },
      this.#scope('resize'),
    );
  }

  closeStdin(): Promise<void> {
    this.#stdin?.closeKeeper();
    return Promise.resolve();
  }

  /** Rejects with code EBUSY while it runs. */
  forget(): Promise<void> {
    if (this.#watched && !this.#exited)
      return Promise.reject(Object.assign(new Error('it has not ended'), { code: 'EBUSY' }));
    this.#release();
    this.#input.note(this.key, false);
    return Promise.resolve();
  }

  /** It was not made. */
  abandon(): void {
    this.#exited = true;
    this.#release();
  }

  #release(): void {
    this.#stdin?.release();
    for (const { output } of this.#outputs) {
      output.end();
      output.release();
    }
  }

  #scope(op: string): { op: string; id: string } {
    return { op, id: this.key };
  }
}

function noSuchProcess(): Error {
  return Object.assign(new Error('no such process'), { code: 'ESRCH' });
}
