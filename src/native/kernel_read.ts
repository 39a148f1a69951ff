/**
 * Reads files of the kernel that may not answer, as kernel_write.ts writes them: by a launched process, which is killed when
 * its time is up. It says which file comes next before it reads it; what it was at then is passed over by its successor.
 */
import { closeSync, fstatSync, readSync } from 'node:fs';
import { dirname } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { compileHelper } from '../plan/helper.ts';
import { encodePlan } from '../plan/encode.ts';
import { addon } from './index.ts';
import type { Launcher } from './launcher.ts';

/** These files of every directory in `dir`. */
export interface Attributes {
  dir: string;
  files: readonly string[];
}

export interface Answers {
  /** By path; undefined: there is none, or it cannot be read. */
  texts: ReadonlyMap<string, string | undefined>;
  /** Directories with a file that did not answer in time. */
  stuck: readonly string[];
}

const SIGKILL = 9;
/** Milliseconds for one file; hundreds of devices take a process a few of them. */
export const KERNEL_READ_DEADLINE_MS = 10_000;
/** So many times longer may a process take that has not said anything: an emulated machine loads Node for seconds. */
const STARTING = 6;
/** Somebody waits for the answer: a host with more devices that are stuck than this has other troubles. */
const MOST_STUCK = 3;

/** For node -e: of every line one path, and again with its text when it is there. */
const PROGRAM = `
const { readdirSync, readFileSync, writeSync } = require('node:fs');
const [attributes, skip] = JSON.parse(process.argv[1]);
const quietly = (run) => { try { return run(); } catch { return undefined; } };
const say = (...line) => writeSync(1, JSON.stringify(line) + '\\n');
for (const { dir, files } of attributes) {
  for (const name of (quietly(() => readdirSync(dir)) ?? []).sort()) {
    if (skip.includes(dir + '/' + name)) continue;
    for (const file of files) {
      const path = dir + '/' + name + '/' + file;
      say(path);
      say(path, quietly(() => readFileSync(path, 'utf8')) ?? null);
    }
  }
}
say('');
`;

/** Resolves with what answered. DeadlineExceeded when the process did not come to its end for another reason. */
export async function readApart(
  launcher: Launcher,
  attributes: readonly Attributes[],
  deadlineMs: number = KERNEL_READ_DEADLINE_MS,
): Promise<Answers> {
  const texts = new Map<string, string | undefined>();
  const stuck: string[] = [];
  for (;;) {
    const lines = await oneProcess(launcher, [attributes, stuck], deadlineMs);
    for (const [path = '', text] of lines) {
      if (text !== undefined) texts.set(path, text ?? undefined);
    }
    const last = lines.at(-1)?.[0];
    if (last === '') return { texts, stuck };
    if (last === undefined || stuck.length >= MOST_STUCK) throw noAnswer([...stuck, last ?? ''], deadlineMs);
    stuck.push(dirname(last));
  }
}

type Line = [path: string, text?: string | null];

async function oneProcess(launcher: Launcher, argument: unknown, deadlineMs: number): Promise<Line[]> {
  const plan = compileHelper({
    id: 'kernel read',
    path: process.execPath,
    args: [process.execPath, '-e', PROGRAM, JSON.stringify(argument)],
    cwd: '/',
  });
  const output = addon().memfd('kernel read', 0);
  try {
    const launched = launcher.launch({ plan: encodePlan(plan), stdio: [-1, output, -1] });
    const ended = launched.exited.then(() => true);
    let size = 0;
    for (let waited = 1; !(await within(ended, deadlineMs)); waited += 1) {
      const before = size;
      size = fstatSync(output).size;
      if (size > before || (size === 0 && waited < STARTING)) continue;
      try {
        launched.signal(SIGKILL);
      } catch (error) {
        // It has ended since.
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
      // One that waits in the kernel ends when that lets go of it.
      launched.release();
      break;
    }
    return parse(contents(output));
  } finally {
    closeSync(output);
  }
}

/** False when the time was up first. */
async function within(ended: Promise<boolean>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  try {
    return await Promise.race([ended, late]);
  } finally {
    clearTimeout(timer);
  }
}

function contents(fd: number): string {
  const buffer = Buffer.alloc(fstatSync(fd).size);
  readSync(fd, buffer, 0, buffer.length, 0);
  return buffer.toString();
}

/** The last line may be half of one. */
function parse(text: string): Line[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Line);
}

function noAnswer(paths: readonly string[], deadlineMs: number): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op: 'read',
    object: paths.filter((path) => path !== '').join(', ') || 'attributes of devices',
    reason: `the kernel did not answer within ${deadlineMs} ms`,
    remedy: 'see what waits in it with: echo w > /proc/sysrq-trigger && dmesg',
    errno: 'ETIMEDOUT',
  });
}
