/** Runs the programs that building a guest takes: tar, make, strip, apt-get. */
// eslint-disable-next-line no-restricted-imports -- a build tool of the command line: no container and no engine is near
import { spawn } from 'node:child_process';
import { openSync, closeSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../base/errors.ts';

export interface RunOptions {
  cwd?: string;
  /** Standard input, written whole. */
  input?: Uint8Array;
  /** File that standard output and error are appended to; without it they are collected. */
  logFile?: string;
  /** Bytes of standard output that are too many. */
  limit?: number;
  env?: Record<string, string>;
}

const DEFAULT_LIMIT = 64 * 1024;
/** What is kept of standard error for the error's text. */
const ERROR_TAIL = 2000;

/**
 * Runs a program and resolves with its standard output (empty with `logFile`). FailedPrecondition when there is no such
 * program or it fails; the error names the program and its last words, or the log file.
 */
export function run(
  op: string,
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Buffer> {
  const log = options.logFile === undefined ? undefined : openSync(options.logFile, 'a', 0o644);
  return new Promise<Buffer>((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env,
      stdio: [options.input === undefined ? 'ignore' : 'pipe', log ?? 'pipe', log ?? 'pipe'],
    });
    const fail = (reason: string, remedy?: string): void =>
      reject(new RuntimeError({ code: ErrorCode.FailedPrecondition, op, object: program, reason, remedy }));
    const limit = options.limit ?? DEFAULT_LIMIT;
    const chunks: Buffer[] = [];
    let size = 0;
    let errors = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= limit) chunks.push(chunk);
      else child.kill('SIGKILL');
    });
    child.stderr?.on('data', (chunk: Buffer) => (errors = (errors + chunk.toString()).slice(-ERROR_TAIL)));
    // A program that ends before it has read everything says why itself.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input);
    child.on('error', (error: NodeJS.ErrnoException) =>
      fail(error.code === 'ENOENT' ? 'no such program' : error.message, installHint(program)),
    );
    child.on('close', (status, signal) => {
      if (size > limit) return fail(`more than ${limit} bytes of output`);
      if (status === 0) return resolve(Buffer.concat(chunks));
      const words = errors.trim().split('\n').slice(-3).join(' | ');
      const how = signal === null ? `exit status ${status}` : `killed by ${signal}`;
      fail(words === '' ? how : `${how}: ${words}`, options.logFile && `see ${options.logFile}`);
    });
  }).finally(() => {
    if (log !== undefined) closeSync(log);
  });
}

function installHint(program: string): string {
  return `install it (tools/setup.sh names Debian’s packages): ${program}`;
}
