/** How a failed verb ends: one sentence, and runc's exit status. */
import { asRuntimeError } from '../base/errors.ts';
import type { RuntimeError } from '../base/errors.ts';
import { stepNames } from '../plan/step_names.ts';
import { LaunchError } from '../sandbox/executor.ts';
import { logSink } from './session.ts';
import type { Globals } from './globals.ts';
import { createLogger } from '../base/log.ts';
import { writeAll } from './output.ts';

const ENOENT = 2;
const NOT_FOUND = 127;
const NOT_EXECUTABLE = 126;
const EXEC_FAILED = 255;

/** 127 and 126 as shells have them when the command itself cannot be run; else 255 for exec and 1. */
export function exitStatusOf(verb: string, error: RuntimeError): number {
  if (verb !== 'run' && verb !== 'exec') return 1;
  if (error.op !== 'hook' && error.cause instanceof LaunchError) {
    const { action, errno } = error.cause.failure;
    const step = action === undefined ? '' : stepNames[action];
    if (step === 'exec' || step === 'find executable') return errno === ENOENT ? NOT_FOUND : NOT_EXECUTABLE;
  }
  return verb === 'exec' ? EXEC_FAILED : 1;
}

/** As a log line on standard error, or with --log there and as a plain sentence on standard error. */
export function reportFailure(thrown: unknown, verb: string, globals: Globals | undefined): number {
  const error = asRuntimeError(thrown, verb);
  const log = createLogger(logSink(globals?.log), 'error', globals?.logFormat);
  try {
    log.error(error.message);
  } catch (cause) {
    writeAll(2, `bulkhead: ${globals?.log}: ${String(cause)}\n`);
  }
  if (globals?.log !== undefined) writeAll(2, `bulkhead: ${error.message}\n`);
  if (globals?.debug && thrown instanceof Error) writeAll(2, `${thrown.stack ?? ''}\n`);
  return exitStatusOf(verb, error);
}
