/**
 * Reading config.json of a bundle, which anybody may have written: a fifo must not make us wait, a device or a huge
 * file must not fill our memory.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { errnoText } from '../base/errno.ts';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { MAX_CONFIG_BYTES } from '../oci/validate/index.ts';

const { O_RDONLY, O_NONBLOCK, O_NOCTTY } = constants;

/** The bytes of a bundle's config.json. NotFound or InvalidArgument, naming the file. */
export function readConfigFile(op: string, id: string, bundle: string): Buffer {
  const path = join(bundle, 'config.json');
  const refuse = (reason: string, cause?: unknown): RuntimeError => {
    const errno = (cause as NodeJS.ErrnoException | undefined)?.code;
    const missing = errno === 'ENOENT';
    return new RuntimeError({
      code: missing ? ErrorCode.NotFound : ErrorCode.InvalidArgument,
      op,
      id,
      object: shorten(path),
      reason,
      remedy: missing ? 'make one with `bulkhead spec`' : undefined,
      path,
      errno,
      cause,
    });
  };
  let fd: number;
  try {
    // O_NONBLOCK: opening a fifo without a writer waits for one.
    fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  } catch (error) {
    const { errno, code, message } = error as NodeJS.ErrnoException;
    throw refuse(
      errno === undefined ? (code === 'ERR_INVALID_ARG_VALUE' ? 'not a path' : message) : errnoText(-errno),
      error,
    );
  }
  try {
    const info = fstatSync(fd);
    if (!info.isFile()) throw refuse(info.isDirectory() ? 'is a directory' : 'not a regular file');
    if (info.size > MAX_CONFIG_BYTES) throw refuse(`larger than ${MAX_CONFIG_BYTES} bytes`);
    return readUpTo(fd, info.size, MAX_CONFIG_BYTES + 1, refuse);
  } finally {
    closeSync(fd);
  }
}

/** A file's size is a guess: those of procfs have none, and it may grow. */
function readUpTo(
  fd: number,
  size: number,
  limit: number,
  refuse: (reason: string, cause?: unknown) => RuntimeError,
): Buffer {
  const chunks: Buffer[] = [];
  for (let length = 0; length < limit;) {
    const chunk = Buffer.allocUnsafe(length < size ? size + 1 : 64 * 1024);
    let got: number;
    try {
      got = readSync(fd, chunk, 0, chunk.length, null);
    } catch (error) {
      throw refuse(errnoText(-((error as NodeJS.ErrnoException).errno ?? 0)), error);
    }
    if (got === 0) return Buffer.concat(chunks);
    chunks.push(chunk.subarray(0, got));
    length += got;
  }
  throw refuse(`larger than ${MAX_CONFIG_BYTES} bytes`);
}

/** A path may be 4096 bytes long; its end is what tells files apart. */
function shorten(path: string): string {
  return path.length > 256 ? `…${path.slice(-255)}` : path;
}
