/**
 * The Executor of the command line: launches through the addon, in this process. Knows two kinds of processes: those it
 * launched, and those of earlier invocations, which it reaches by pid and start time only.
 */
import { closeSync, constants, openSync } from 'node:fs';
import type { Addon } from '../native/addon.d.ts';
import { LaunchFailedError, Launcher } from '../native/launcher.ts';
import type { Launched } from '../native/launcher.ts';
import { LaunchError } from '../sandbox/executor.ts';
import type { Executor, LaunchResult, ProcessExit, StdioPaths } from '../sandbox/executor.ts';
import { openStartGate } from './start_fifo.ts';

const SIGKILL = 9;
const { O_RDONLY, O_WRONLY, O_CREAT, O_APPEND, O_NOCTTY } = constants;

/** A process that an earlier invocation launched. */
export interface ForeignProcess {
  pid: number;
  /** Clock ticks since boot. */
  startTime: number;
  /** Fifo that opens its start gate. */
  startFifo?: string | undefined;
}

/** The process that gets descriptors of this invocation instead of paths. */
export interface Inheritance {
  key: string;
  stdio: [number, number, number];
  /** Become 3, 4, … of the process. */
  extraFds: number[];
  /** Takes the pty master, and closes it. Called before the launch is answered. */
  onConsole?: ((master: number) => void) | undefined;
}

export interface LocalExecutorOptions {
  addon: Addon;
  /** bulkhead-init. */
  initPath: string;
  inherit?: Inheritance | undefined;
  foreign?: ReadonlyMap<string, ForeignProcess> | undefined;
  /** Told what a step passed over. */
  onWarning?: (key: string, action: number, path: string, errno: number) => void;
}

export class LocalExecutor implements Executor {
  readonly transient = true;
  readonly #o: LocalExecutorOptions;
  readonly #launcher: Launcher;
  readonly #launched = new Map<string, Launched>();
  readonly #exitListeners = new Set<(exit: ProcessExit) => void>();

  constructor(options: LocalExecutorOptions) {
    this.#o = options;
    this.#launcher = new Launcher(options.initPath, () => options.addon);
  }

  async launch(key: string, plan: Uint8Array, stdio: StdioPaths): Promise<LaunchResult> {
    if (this.#launched.has(key)) throw refused('duplicate key', 'EEXIST', 17);
    const { inherit } = this.#o;
    const inherited = inherit?.key === key ? inherit : undefined;
    const opened = inherited === undefined ? openStdio(stdio) : [];
    let launched: Launched;
    try {
      launched = this.#launch(key, {
        plan,
        stdio: inherited?.stdio ?? stdioOf(opened),
        extraFds: inherited?.extraFds ?? [],
      });
    } finally {
      for (const fd of opened) if (fd >= 0) closeSync(fd);
    }
    this.#launched.set(key, launched);
    void launched.exited.then((exit) => this.#tell({ key, ...exit }));
    try {
      return await this.#advance(launched, inherited);
    } catch (error) {
      this.#launched.delete(key);
      await endProcess(launched);
      throw error;
    }
  }

  async proceed(key: string): Promise<LaunchResult> {
    const launched = this.#launched.get(key);
    if (launched !== undefined) {
      try {
        launched.proceed();
      } catch (error) {
        // It died at its gate; how is what #advance says.
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
      return await this.#advance(launched, undefined);
    }
    const foreign = this.#o.foreign?.get(key);
    if (foreign?.startFifo === undefined || foreign.startFifo === '') throw refused('continue', 'ESRCH', 3);
    await openStartGate(foreign.startFifo);
    return { pid: foreign.pid, pausedAt: '' };
  }

  async signal(key: string, signum: number): Promise<void> {
    const launched = this.#launched.get(key);
    if (launched !== undefined) {
      launched.signal(signum);
      return;
    }
    const foreign = this.#o.foreign?.get(key);
    if (foreign === undefined || foreign.pid === 0) {
      throw Object.assign(new Error('no such process'), { code: 'ESRCH', errno: 3 });
    }
    this.#o.addon.pidfdSendSignal(foreign.pid, BigInt(foreign.startTime), signum);
  }

  /** The terminal is with whoever took the master. */
  async resize(): Promise<void> {}

  async closeStdin(): Promise<void> {}

  async forget(key: string): Promise<void> {
    this.#launched.delete(key);
  }

  onExit(listener: (exit: ProcessExit) => void): () => void {
    this.#exitListeners.add(listener);
    return () => this.#exitListeners.delete(listener);
  }

  /** Lets every process that was launched live on after this one. */
  release(): void {
    for (const launched of this.#launched.values()) launched.release();
    this.#launched.clear();
  }

  #launch(
    key: string,
    input: { plan: Uint8Array; stdio: [number, number, number]; extraFds: number[] },
  ): Launched {
    try {
      return this.#launcher.launch({
        ...input,
        onWarning: (failure) => this.#o.onWarning?.(key, failure.action, failure.path, failure.errno),
      });
    } catch (error) {
      const { errno, syscall, path } = error as NodeJS.ErrnoException;
      if (errno === undefined || syscall === undefined) throw error;
      throw new LaunchError({ path: path ?? '', errno, detail: '', status: 0, op: syscall });
    }
  }

  async #advance(launched: Launched, inherited: Inheritance | undefined): Promise<LaunchResult> {
    try {
      const progress = await launched.advance();
      if (launched.console !== undefined) {
        const master = launched.console;
        launched.console = undefined;
        if (inherited?.onConsole === undefined) closeSync(master);
        else inherited.onConsole(master);
      }
      return progress;
    } catch (error) {
      if (launched.console !== undefined) closeSync(launched.console);
      launched.console = undefined;
      throw error instanceof LaunchFailedError ? launchError(error) : error;
    }
  }

  #tell(exit: ProcessExit): void {
    for (const listener of this.#exitListeners) listener(exit);
  }
}

/** A process whose launch failed is ending by itself, or must be made to; what it is in cannot be removed before. */
async function endProcess(launched: Launched): Promise<void> {
  try {
    launched.signal(SIGKILL);
  } catch {
    // It has ended already.
  }
  await launched.exited;
}

function launchError({ failure }: LaunchFailedError): LaunchError {
  const { index, action, path, errno, detail, status } = failure;
  if (action === 0) return new LaunchError({ path, errno, detail, status, op: 'init died' });
  return new LaunchError({ index, action, path, errno, detail, status, op: '' });
}

function refused(op: string, code: string, errno: number): LaunchError {
  return Object.assign(new LaunchError({ path: '', errno, detail: '', status: 0, op }), { code });
}

/** Descriptors for three paths, -1 for an empty one. LaunchError names the path that cannot be opened. */
function openStdio(stdio: StdioPaths): number[] {
  const opened: number[] = [];
  const paths = [stdio.stdin, stdio.stdout, stdio.stderr];
  for (const [index, path] of paths.entries()) {
    const flags = index === 0 ? O_RDONLY : O_WRONLY | O_CREAT | O_APPEND;
    try {
      opened.push(path === '' ? -1 : openSync(path, flags | O_NOCTTY, 0o644));
    } catch (error) {
      for (const fd of opened) if (fd >= 0) closeSync(fd);
      const errno = -((error as NodeJS.ErrnoException).errno ?? 0);
      throw new LaunchError({ path, errno, detail: '', status: 0, op: 'open stdio' });
    }
  }
  return opened;
}

function stdioOf(fds: number[]): [number, number, number] {
  const [stdin = -1, stdout = -1, stderr = -1] = fds;
  return [stdin, stdout, stderr];
}
