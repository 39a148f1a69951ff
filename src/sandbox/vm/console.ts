/**
 * What a guest's kernel, its hypervisor and the daemon of its share say: they write to fifos whose other ends the monitor
 * holds, so that up to 64 KiB wait for an engine (pipe(7)); the engine moves them to files of limited size. A guest can
 * say what it likes, and have said what it likes, and fills no disk.
 */
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  appendFileSync,
} from 'node:fs';
import { Socket } from 'node:net';
import { cut } from '../../base/text.ts';
import type { SandboxPaths } from './layout.ts';

/** The file is cut to its latter half when it is longer. */
const LIMIT = 128 * 1024;
const CHUNK = 16 * 1024;
/** As much is read at once; then there is a pause. */
const BURST = 1024 * 1024;
const PAUSE_MS = 200;

export class GuestConsole {
  readonly #path: string;
  #fd: number;
  #socket: Socket | undefined;
  #size: number;
  #burst = 0;

  private constructor(fd: number, path: string, size: number) {
    this.#fd = fd;
    this.#path = path;
    this.#size = size;
  }

  /**
   * Reads from a fifo, which somebody else holds open for writing, into a file. What an earlier engine has put into the
   * file stays. Throws a system error when the fifo is not there.
   */
  static open(fifo: string, path: string): GuestConsole {
    const fd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const console = new GuestConsole(fd, path, lengthOf(path));
      console.#listen();
      return console;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** The last lines, without what moves a terminal's cursor; what waits in the fifo is among them. */
  tail(lines: number): string[] {
    this.#drain();
    return consoleTail(this.#path, lines);
  }

  /** Reads what is there, and no more. Idempotent. */
  close(): void {
    this.#drain();
    this.#fd = -1;
    this.#socket?.destroy();
  }

  /** A pipe's reading end as a stream waits in epoll and takes no thread. */
  #listen(): void {
    const socket = new Socket({ fd: this.#fd, readable: true, writable: false });
    socket.on('data', (chunk) => {
      this.#keep(chunk);
      this.#pace(socket, chunk.length);
    });
    // The last writer is gone; nothing more comes.
    socket.on('end', () => (this.#fd = -1));
    socket.on('error', () => (this.#fd = -1));
    socket.unref();
    this.#socket = socket;
  }

  /** A guest that never stops talking waits; everybody else's turn comes. */
  #pace(socket: Socket, length: number): void {
    this.#burst += length;
    if (this.#burst < BURST) return;
    this.#burst = 0;
    socket.pause();
    setTimeout(() => socket.resume(), PAUSE_MS).unref();
  }

  #drain(): void {
    const buffer = Buffer.alloc(CHUNK);
    // What is said meanwhile need not be waited for.
    for (let left = BURST / CHUNK; left > 0 && this.#fd >= 0; left--) {
      let count: number;
      try {
        count = readSync(this.#fd, buffer);
      } catch {
        // EAGAIN: empty.
        return;
      }
      if (count === 0) return;
      this.#keep(buffer.subarray(0, count));
    }
  }

  #keep(chunk: Buffer): void {
    try {
      this.#append(chunk);
    } catch {
      // The directory is gone with its pod, or the disk is full: a pod does not end for want of a log.
    }
  }

  #append(chunk: Buffer): void {
    if (this.#size + chunk.length > LIMIT) {
      const kept = Buffer.concat([readFileSync(this.#path), chunk]).subarray(-LIMIT / 2);
      writeFileSync(this.#path, kept, { mode: 0o600 });
      this.#size = kept.length;
      return;
    }
    appendFileSync(this.#path, chunk, { mode: 0o600 });
    this.#size += chunk.length;
  }
}

/** Text without what would move or colour a terminal that shows it: a guest chose it. */
export function plainText(text: string): string {
  return text
    .replace(/\x1b(?:\[[0-9;?]*[A-Za-z]|[@-Z\\-_])/g, '')
    .replace(/\r+\n?|\n\r+/g, '\n')
    .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '');
}

/** The last lines of a console's file; none when there is no such file. */
export function consoleTail(path: string, lines: number): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return [];
  }
  return plainText(text)
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-lines);
}

/** How many last words are worth showing. */
const LAST_LINES = 20;
/** As long as what a kernel says when it gives up. */
const DUMP_LINES = 100;
/** Characters of a line, and of all of them. */
const MAX_LINE = 300;
const MAX_WORDS = 3000;
/** What virtiofsd says of every life. */
const ROUTINE = /^virtio_(session_mount|loop): /;

type Lines = Pick<GuestConsole, 'tail'>;

/**
 * What a machine said last, in one line: of its console, from where a kernel says why it gives up (registers and stack
 * come behind that), else the last lines; of the share daemon's log when the console is silent.
 */
export function lastWords(console: Lines | undefined, share: Lines | undefined): string {
  const lines = console?.tail(DUMP_LINES) ?? [];
  const at = lines.findLastIndex((line) => /Kernel panic|\bBUG:|\bOops:/.test(line));
  const said = at < 0 ? lines.slice(-LAST_LINES) : lines.slice(at, at + LAST_LINES);
  const words = said.length > 0 ? said : (share?.tail(LAST_LINES) ?? []);
  const told = words.filter((line) => !ROUTINE.test(line)).map((line) => cut(line, MAX_LINE));
  return cut(told.join(' | '), MAX_WORDS);
}

/** All that a machine says. */
export class MachineLogs {
  readonly #paths: SandboxPaths;
  readonly #warn: (error: string) => void;
  #console: GuestConsole | undefined;
  #share: GuestConsole | undefined;

  /** @param warn hears why something is not listened to; the machine needs no log */
  constructor(paths: SandboxPaths, warn: (error: string) => void) {
    this.#paths = paths;
    this.#warn = warn;
  }

  /** For when those who write are there. Idempotent. */
  open(hasShare: boolean): void {
    const { console, consoleLog, shareOutput, shareLog } = this.#paths;
    this.#console ??= this.#listen(console, consoleLog);
    if (hasShare) this.#share ??= this.#listen(shareOutput, shareLog);
  }

  lastWords(): string {
    return lastWords(this.#console, this.#share);
  }

  close(): void {
    this.#console?.close();
    this.#share?.close();
  }

  #listen(fifo: string, log: string): GuestConsole | undefined {
    try {
      return GuestConsole.open(fifo, log);
    } catch (error) {
      this.#warn((error as Error).message);
      return undefined;
    }
  }
}

function lengthOf(path: string): number {
  try {
    return readFileSync(path).length;
  } catch {
    return 0;
  }
}
