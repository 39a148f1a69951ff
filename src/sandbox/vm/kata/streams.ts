/**
 * Standard streams of a process behind Kata's agent: containerd's fifos (or files) on this side, and on the other calls
 * that ask for the next piece or hand one over.
 *
 * The reading end of an output fifo is held besides the writing one: the process's last words stay in the fifo until a
 * reader comes, also when the writing end is closed, which is what a reader takes for the end.
 */
import { closeSync, constants, createReadStream, openSync, statSync, write } from 'node:fs';
import { Socket } from 'node:net';

const { O_APPEND, O_CREAT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY } = constants;
/** What a pipe holds (pipe(7)). */
export const PIECE = 65536;

/** Where output goes. */
export interface Output {
  /** Resolves when it takes more; never rejects: without a reader the process runs on. */
  write(data: Uint8Array): Promise<void>;
  /** The reader sees the end. */
  end(): void;
  /** What nobody has read is given up. */
  release(): void;
}

/**
 * @param path of a fifo, or of a file that is appended to; '' for none
 * @param make the file, if it is not there
 * @throws Error of open(2), with its code and the path
 */
export function openOutput(path: string, make: boolean): Output {
  if (path === '') return nowhere;
  if (statSync(path, { throwIfNoEntry: false })?.isFIFO() === true) return fifoOutput(openFifo(path));
  return fileOutput(openSync(path, O_WRONLY | O_APPEND | (make ? O_CREAT : 0), 0o644));
}

const nowhere: Output = { write: () => Promise.resolve(), end: () => {}, release: () => {} };

interface Ends {
  writer: number;
  reader: number;
}

function openFifo(path: string): Ends {
  // It does not wait for a writer, and a writer after it not for a reader.
  const reader = openSync(path, O_RDONLY | O_NONBLOCK);
  try {
    return { writer: openSync(path, O_WRONLY | O_NONBLOCK), reader };
  } catch (error) {
    closeSync(reader);
    throw error;
  }
}

function fifoOutput({ writer, reader }: Ends): Output {
  const socket = new Socket({ fd: writer, readable: false, writable: true });
  socket.on('error', () => {});
  let release = (): void => {
    closeSync(reader);
    release = () => {};
  };
  return {
    write: (data) =>
      new Promise((resolve) => {
        const done = (): void => {
          socket.off('close', done);
          resolve();
        };
        socket.once('close', done);
        socket.write(data, done);
      }),
    end: () => void socket.destroy(),
    release: () => release(),
  };
}

function fileOutput(fd: number): Output {
  let open = true;
  return {
    write: (data) =>
      new Promise((resolve) => {
        const from = (offset: number): void => {
          if (!open || offset >= data.length) return resolve();
          write(fd, data, offset, data.length - offset, null, (error, length) =>
            error === null ? from(offset + length) : resolve(),
          );
        };
        from(0);
      }),
    end: () => {
      if (open) closeSync(fd);
      open = false;
    },
    release: () => {},
  };
}

/** Where input comes from. */
export interface Input {
  /** Pieces of at most 64 KiB, until the end. */
  readonly pieces: AsyncIterable<Uint8Array>;
  /** No client that comes later is waited for: the end is when the last one has gone. */
  closeKeeper(): void;
  /** Nothing more is read. */
  release(): void;
}

/** @param path of a fifo or file. @throws Error of open(2), with its code and the path */
export function openInput(path: string): Input {
  if (!statSync(path).isFIFO()) return fileInput(path);
  // A writer of our own, so that a client that detaches is no end of file.
  let keeper: number | undefined = openSync(path, O_RDWR | O_NONBLOCK);
  const closeKeeper = (): void => {
    if (keeper !== undefined) closeSync(keeper);
    keeper = undefined;
  };
  let reader: number;
  try {
    reader = openSync(path, O_RDONLY | O_NONBLOCK);
  } catch (error) {
    closeKeeper();
    throw error;
  }
  const pieces = new Socket({ fd: reader, readable: true, writable: false });
  pieces.on('error', () => {});
  return {
    pieces: pieces as AsyncIterable<Uint8Array>,
    closeKeeper,
    release: () => {
      closeKeeper();
      pieces.destroy();
    },
  };
}

function fileInput(path: string): Input {
  const pieces = createReadStream(path, { highWaterMark: PIECE });
  pieces.on('error', () => {});
  return {
    pieces: pieces as AsyncIterable<Uint8Array>,
    closeKeeper: () => {},
    release: () => void pieces.destroy(),
  };
}

/** Moves output until its end. Never rejects. @param read the next piece; empty, or rejected: there is no more */
export async function pumpOutput(
  read: (length: number) => Promise<Uint8Array>,
  output: Output,
): Promise<void> {
  try {
    for (;;) {
      const piece = await read(PIECE);
      // More than was asked for is no answer to it.
      if (piece.length === 0 || piece.length > PIECE) return;
      await output.write(piece);
    }
  } catch {
    // The process or the machine has gone; which of them, its exit tells.
  } finally {
    output.end();
  }
}

/**
 * Moves input until its end, and tells of that. Never rejects.
 * @param send resolves with how much was taken
 */
export async function pumpInput(
  input: Input,
  send: (piece: Uint8Array) => Promise<number>,
  end: () => Promise<unknown>,
): Promise<void> {
  try {
    for await (const piece of input.pieces) {
      for (let sent = 0; sent < piece.length;) {
        const length = await send(piece.subarray(sent));
        if (length <= 0 || length > piece.length - sent) return;
        sent += length;
      }
    }
    await end();
  } catch {
    // It takes no more input, or is gone.
  } finally {
    input.release();
  }
}
