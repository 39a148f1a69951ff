/**
 * Records on disk, one file a container, replaced atomically (tmp + rename). Synchronous on purpose: on a tmpfs a save
 * costs tens of microseconds, less than a trip through the thread pool, and the caller may answer right after it.
 * No fsync: a record outlives the engine, not the machine, and neither does the container it describes.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  rmdirSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { StatePaths } from './paths.ts';
import { decodeRecord, encodeRecord, type ContainerRecord } from './schema.ts';

/** flock(2) LOCK_EX, with LOCK_NB when `nonBlocking` (then throws an error whose code is "EAGAIN"). */
export type Flock = (fd: number, nonBlocking: boolean) => void;

const stateFile = 'state.pb';

/** Longer than most containers that only run a command: what is gone by then costs no write at all. */
const saveDelayMs = 50;

export class StateStore {
  readonly paths: StatePaths;
  /** Records to be saved in a moment, and who hears when that fails. */
  readonly #later = new Map<ContainerRecord, (error: unknown) => void>();
  #timer: NodeJS.Timeout | undefined;
  #soon: NodeJS.Immediate | undefined;

  /** @param root the instance's state root; made when missing, 0700: records hold environment and arguments. */
  constructor(root: string) {
    this.paths = new StatePaths(root);
  }

  /** True when there is a record. */
  exists(namespace: string, id: string, op = 'find'): boolean {
    return existsSync(this.#file(op, namespace, id));
  }

  /** The record of a container. NotFound, or an error that names the file when it cannot be used. */
  load(namespace: string, id: string): ContainerRecord {
    const file = this.#file('load', namespace, id);
    let bytes: Uint8Array;
    try {
      bytes = readFileSync(file);
    } catch (error) {
      throw ioError('load', id, file, error);
    }
    return decodeRecord(bytes, file, namespace, id);
  }

  /** Writes a record; `id` and `namespace` in it say where. What a reader sees is the old record or the new one. */
  save(record: ContainerRecord): void {
    this.#later.delete(record);
    const id = record.id ?? '';
    const directory = this.paths.container('save', record.namespace ?? '', id);
    const file = `${directory}/${stateFile}`;
    const bytes = encodeRecord(record);
    try {
      try {
        writeFileSync(`${file}.tmp`, bytes, { mode: 0o600 });
      } catch (error) {
        if (errorCode(error) !== 'ENOENT') throw error;
        mkdirSync(directory, { recursive: true, mode: 0o700 });
        writeFileSync(`${file}.tmp`, bytes, { mode: 0o600 });
      }
      renameSync(`${file}.tmp`, file);
    } catch (error) {
      throw ioError('save', id, file, error);
    }
  }

  /**
   * Saves in `saveDelayMs`, or at the end of this turn of the event loop when that is `soon`, once for all that changes
   * until then, unless it is removed first.
   */
  saveLater(record: ContainerRecord, onError: (error: unknown) => void, soon = false): void {
    if (soon && this.#soon === undefined) this.#soon = setImmediate(() => this.flush());
    if (!soon) this.#timer ??= setTimeout(() => this.flush(), saveDelayMs);
    this.#later.set(record, onError);
  }

  /** Saves now what was to be saved later. */
  flush(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#soon);
    this.#timer = this.#soon = undefined;
    for (const [record, onError] of this.#later) {
      try {
        this.save(record);
      } catch (error) {
        onError(error);
      }
    }
    this.#later.clear();
  }

  /** Removes a container's directory and lock. Idempotent. */
  remove(namespace: string, id: string): void {
    for (const record of this.#later.keys())
      if (record.id === id && record.namespace === namespace) this.#later.delete(record);
    const directory = this.paths.container('remove', namespace, id);
    try {
      removeDirectory(directory);
      removeFile(this.paths.lock('remove', namespace, id));
    } catch (error) {
      throw ioError('remove', id, directory, error);
    }
  }

  /** Namespaces that have a directory, sorted. */
  namespaces(): string[] {
    return directoryNames(this.paths.tasks);
  }

  /**
   * The records of one namespace (of all when undefined), by id, but for those that `passOver` names. One that cannot be used goes to `onError` and is left
   * out: a single damaged file must not hide the other containers. A directory without a record is passed over: a
   * create or a remove in flight, or one cut short by a crash.
   */
  list(
    namespace: string | undefined,
    onError: (error: RuntimeError) => void,
    passOver: (namespace: string, id: string) => boolean = () => false,
  ): ContainerRecord[] {
    const records: ContainerRecord[] = [];
    for (const name of namespace === undefined ? this.namespaces() : [namespace]) {
      for (const id of directoryNames(this.paths.namespace('list', name))) {
        if (passOver(name, id)) continue;
        try {
          records.push(this.load(name, id));
        } catch (error) {
          if (!(error instanceof RuntimeError)) throw error;
          if (error.code !== ErrorCode.NotFound) onError(error);
        }
      }
    }
    return records;
  }

  /**
   * Takes the container's lock for a verb of the command line (the engine is one process and needs none).
   * Disposing gives it back. With `nonBlocking`, Unavailable when another holds it.
   */
  lock(namespace: string, id: string, flock: Flock, nonBlocking = false): Disposable {
    const file = this.paths.lock('lock', namespace, id);
    try {
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
      for (;;) {
        const fd = openSync(file, 'a', 0o600);
        try {
          flock(fd, nonBlocking);
        } catch (error) {
          closeSync(fd);
          throw error;
        }
        if (isSameFile(fd, file)) return { [Symbol.dispose]: () => closeSync(fd) };
        // Its last holder removed the container while we waited: the name now means another file.
        closeSync(fd);
      }
    } catch (error) {
      throw ioError('lock', id, file, error);
    }
  }

  /** Removes directories that a crash left without a record, and half-written records. */
  sweep(): void {
    for (const namespace of this.namespaces()) {
      for (const id of directoryNames(this.paths.namespace('sweep', namespace))) {
        const file = this.#file('sweep', namespace, id);
        rmSync(`${file}.tmp`, { force: true });
        if (!existsSync(file)) this.remove(namespace, id);
      }
    }
  }

  #file(op: string, namespace: string, id: string): string {
    return `${this.paths.container(op, namespace, id)}/${stateFile}`;
  }
}

/** Names of the sub-directories that could be ours, sorted; none when there is no such directory. */
function directoryNames(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && /^[A-Za-z0-9_+.-]+$/.test(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw ioError('list', undefined, path, error);
  }
}

function isSameFile(fd: number, path: string): boolean {
  const held = fstatSync(fd);
  const named = statSync(path, { throwIfNoEntry: false });
  return named !== undefined && held.ino === named.ino && held.dev === named.dev;
}

function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

const codes: Record<string, ErrorCode> = {
  ENOENT: ErrorCode.NotFound,
  EACCES: ErrorCode.PermissionDenied,
  EPERM: ErrorCode.PermissionDenied,
  EAGAIN: ErrorCode.Unavailable,
  ENOSPC: ErrorCode.ResourceExhausted,
};

const reasons: Record<string, string> = {
  ENOENT: 'container does not exist',
  EAGAIN: 'another command is at work on this container',
};

function ioError(op: string, id: string | undefined, path: string, error: unknown): RuntimeError {
  if (error instanceof RuntimeError) return error;
  const errno = errorCode(error);
  return new RuntimeError({
    code: codes[errno ?? ''] ?? ErrorCode.Internal,
    op,
    id,
    object: errno !== undefined && errno in reasons ? undefined : path,
    reason: reasons[errno ?? ''] ?? (error instanceof Error ? error.message : String(error)),
    path,
    errno,
    cause: error,
  });
}

/** Files and no directories are in it. rmSync would cost 1 ms at its first use in a process. */
function removeDirectory(path: string): void {
  try {
    for (const name of readdirSync(path)) removeFile(`${path}/${name}`);
    rmdirSync(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}
