import { spawn } from 'node:child_process';
import { isVm } from './paths.ts';

export interface RunOptions {
  /** What the command reads, then end of file. Without it the command reads /dev/null. */
  stdin?: string | Uint8Array;
  /** Ends stdin only when the command has printed something. */
  endStdinAfterOutput?: boolean;
  /** Keeps stdin open, as a person at a terminal does, after `stdin` has been written. */
  keepStdinOpen?: boolean;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Milliseconds until the whole process group is killed; 60 s unless told. */
  timeout?: number;
}

export interface RunResult {
  /** Exit code, or null when a signal ended the command. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** Wall time in milliseconds. */
  ms: number;
  timedOut: boolean;
}

/**
 * Times every deadline below and of the callers. A deadline ends a test that hangs; none is a promise of the runtime, and
 * the machine that the tests run on may be slow and busy. The lab's is emulated.
 */
export const patience = Number(process.env.BULKHEAD_TEST_PATIENCE ?? '4');

/** Runs a command to its end; never rejects for an exit code. */
export const run = (command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> =>
  new Promise((resolve, reject) => {
    const started = performance.now();
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: options.env,
      detached: true,
      stdio: [options.stdin === undefined && !options.keepStdinOpen ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let timedOut = false;
    const timer = setTimeout(
      () => {
        timedOut = true;
        killGroup(child.pid);
      },
      (options.timeout ?? 60_000) * patience,
    );
    child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({
        code,
        signal,
        stdout: Buffer.concat(out).toString(),
        stderr: Buffer.concat(err).toString(),
        ms: performance.now() - started,
        timedOut,
      });
    });
    if (child.stdin) {
      const { stdin } = child;
      // The command may end before it has read everything.
      stdin.on('error', () => undefined);
      if (options.stdin !== undefined) stdin.write(options.stdin);
      if (options.endStdinAfterOutput) child.stdout?.once('data', () => stdin.end());
      else if (!options.keepStdinOpen) stdin.end();
    }
  });

const killGroup = (pid: number | undefined): void => {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // It has just ended.
  }
};

/** Quotes one word for sh. */
export const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

/** Wraps a command so that it runs on a terminal of the given size; its exit code is passed on. */
export const onTerminal = (
  command: string,
  args: readonly string[],
  rows = 24,
  columns = 80,
): [string, string[]] => {
  const line = [command, ...args].map(quote).join(' ');
  return ['script', ['-qefc', `stty rows ${rows} cols ${columns}; exec ${line}`, '/dev/null']];
};

/** Polls until `probe` gives something other than undefined or false; the error names what was waited for. */
export const eventually = async <T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  timeout = isVm ? 30_000 : 10_000,
): Promise<T> => {
  const end = performance.now() + timeout * patience;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > end) throw new Error(`waited ${timeout * patience} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
