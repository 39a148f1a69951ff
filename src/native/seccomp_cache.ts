/**
 * Compiled seccomp programs on disk, for the command line: it is a new process each time, and a default profile takes
 * libseccomp about 6 ms. One file a program, its name says everything that it was made of; written aside and renamed, so
 * that a reader sees a whole file or none. A file that is not what it should be is made again.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface StoredProgram {
  program: Uint8Array;
  warnings: string[];
}

/** Programs kept; a host uses few profiles, but a test suite may make many. */
const LIMIT = 128;
const INSTRUCTION = 8;
const HEADER_END = 0x0a;

const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');

/** The program stored under `key` (a file name) in `dir`, or undefined. A directory that others may write to is not used. */
export function readProgram(dir: string, key: string): StoredProgram | undefined {
  try {
    if (!isPrivate(dir)) return undefined;
    const bytes = readFileSync(join(dir, key));
    const end = bytes.indexOf(HEADER_END);
    const header = JSON.parse(bytes.toString('utf8', 0, end)) as { sha256?: unknown; warnings?: unknown };
    const program = bytes.subarray(end + 1);
    const whole =
      program.length > 0 && program.length % INSTRUCTION === 0 && header.sha256 === sha256(program);
    if (!whole || !isStrings(header.warnings)) return undefined;
    return { program, warnings: header.warnings };
  } catch {
    // Absent, unreadable or no JSON: the same to the caller, who compiles.
    return undefined;
  }
}

/** Stores a program under `key`; what cannot be written (read-only, full) is not stored. */
export function writeProgram(dir: string, key: string, { program, warnings }: StoredProgram): void {
  const path = join(dir, key);
  const aside = `${path}.${process.pid}`;
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    if (!isPrivate(dir)) return;
    const header = `${JSON.stringify({ sha256: sha256(program), warnings })}\n`;
    writeFileSync(aside, Buffer.concat([Buffer.from(header), program]), { mode: 0o600 });
    renameSync(aside, path);
    dropOldest(dir);
  } catch {
    // Nothing depends on it: the next process compiles again.
  }
}

/** Whoever can write there decides what containers may call. */
function isPrivate(dir: string): boolean {
  const { uid, mode } = statSync(dir);
  return uid === process.geteuid?.() && (mode & 0o022) === 0;
}

function dropOldest(dir: string): void {
  const names = readdirSync(dir);
  if (names.length <= LIMIT) return;
  const byAge = names
    .map((name) => ({ path: join(dir, name), mtime: statSync(join(dir, name)).mtimeMs }))
    .sort((a, b) => a.mtime - b.mtime);
  for (const { path } of byAge.slice(0, names.length - LIMIT)) rmSync(path, { force: true });
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((element) => typeof element === 'string');
}
