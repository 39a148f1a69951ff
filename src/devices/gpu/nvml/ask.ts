/** Starts the probe of NVIDIA's management library and waits for its answer, for so long and no longer. */
// eslint-disable-next-line no-restricted-imports -- of the command `bulkhead devices` only: no container and no engine is near
import { execFile } from 'node:child_process';
import { decodeNvml, type NvmlFacts } from './facts.ts';

export interface AskOptions {
  /** The probe's program (main.ts, bundled). */
  program: string;
  /** Default: as the loader finds libnvidia-ml.so.1. */
  library?: string | undefined;
  /** Milliseconds; default 10 s: a driver that is not persistent initialises its GPUs first. */
  deadlineMs?: number | undefined;
}

export type NvmlAnswer = { facts: NvmlFacts } | { unavailable: string };

const DEADLINE_MS = 10_000;
const LONGEST = 1 << 20;

/** Never rejects: what the library does to its process is a reason, and discovery goes on without. */
export function askNvml({ program, library, deadlineMs = DEADLINE_MS }: AskOptions): Promise<NvmlAnswer> {
  const args = [program, ...(library === undefined ? [] : [library])];
  const options = {
    timeout: deadlineMs,
    killSignal: 'SIGKILL',
    maxBuffer: LONGEST,
    // Nothing that would make the loader or Node do something else.
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
    cwd: '/',
  } as const;
  return new Promise((resolve) => {
    execFile(process.execPath, args, options, (error, stdout) =>
      resolve(answerOf(error, stdout, deadlineMs)),
    );
  });
}

type ExecError = Error & { killed?: boolean; signal?: string | null; code?: number | string | null };

function answerOf(error: ExecError | null, stdout: string, deadlineMs: number): NvmlAnswer {
  if (error?.killed === true && error.signal === 'SIGKILL')
    return { unavailable: `no answer within ${deadlineMs / 1000} s` };
  if (typeof error?.signal === 'string') return { unavailable: `its process was ended by ${error.signal}` };
  const said = errorIn(stdout);
  if (said !== undefined) return { unavailable: said };
  if (error !== null) return { unavailable: `its process failed: ${error.code ?? error.message}` };
  try {
    return { facts: decodeNvml(stdout) };
  } catch (cause) {
    return { unavailable: `an answer that is none: ${(cause as Error).message}` };
  }
}

function errorIn(stdout: string): string | undefined {
  try {
    const { error } = JSON.parse(stdout) as { error?: unknown };
    return typeof error === 'string' ? error : undefined;
  } catch {
    return undefined;
  }
}
