/** `bulkhead guest logs|console`: what a pod's kernel and its hypervisor say. */
import { closeSync, existsSync, fstatSync, openSync, readSync, watch } from 'node:fs';
import { join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { consoleTail, plainText } from '../sandbox/vm/console.ts';
import { findSandbox } from '../sandbox/vm/find.ts';
import type { Arguments } from './flags.ts';
import { usageError } from './flags.ts';
import type { Session } from './session.ts';

const ALL = Number.MAX_SAFE_INTEGER;

/** Prints what the console said, at most `--lines` of it. */
export async function logs(session: Session, args: Arguments): Promise<number> {
  const { log } = consoleOf('guest logs', session, args);
  for (const line of consoleTail(log, lineCount(args))) session.print(`${line}\n`);
  return 0;
}

/** Prints what the console said and goes on until the pod ends. */
export async function follow(session: Session, args: Arguments): Promise<number> {
  const { dir, log } = consoleOf('guest console', session, args);
  let at = sizeOf(log);
  for (const line of consoleTail(log, lineCount(args))) session.print(`${line}\n`);
  await new Promise<void>((resolve) => {
    const watcher = watch(dir, () => {
      if (!existsSync(dir)) return watcher.close();
      at = printFrom(session, log, at);
    });
    watcher.on('error', () => watcher.close());
    watcher.on('close', resolve);
  });
  return 0;
}

function consoleOf(op: string, session: Session, args: Arguments): { dir: string; log: string } {
  const id = args.operands[1];
  if (id === undefined) throw usageError('guest', 'needs the id of a pod or a container');
  const root = session.env['BULKHEAD_ROOT'] || '/run/bulkhead';
  const { dir } = findSandbox(op, root, id);
  const log = join(dir, 'console.log');
  if (existsSync(log)) return { dir, log };
  throw new RuntimeError({ code: ErrorCode.NotFound, op, id, object: log, reason: 'nothing was said yet' });
}

function lineCount(args: Arguments): number {
  const lines = args.number('lines') ?? ALL;
  if (!Number.isInteger(lines) || lines < 0) throw usageError('guest', 'flag --lines: not a count');
  return lines === 0 ? ALL : lines;
}

function sizeOf(path: string): number {
  const fd = openSync(path, 'r');
  try {
    return fstatSync(fd).size;
  } finally {
    closeSync(fd);
  }
}

/** What was added since; where the engine cut the file meanwhile, from its end on. */
function printFrom(session: Session, path: string, at: number): number {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return at;
  }
  try {
    const { size } = fstatSync(fd);
    if (size <= at) return size;
    const buffer = Buffer.alloc(size - at);
    const count = readSync(fd, buffer, 0, buffer.length, at);
    session.print(plainText(buffer.toString('utf8', 0, count)));
    return at + count;
  } finally {
    closeSync(fd);
  }
}
