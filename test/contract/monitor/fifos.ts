/** The client's ends of a process's fifos, none of which ever blocks the test. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { until } from './harness.ts';

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;

export class FifoReader {
  readonly fd: number;
  text = '';
  ended = false;
  readonly #close: () => void;

  constructor(fd: number, close: () => void) {
    this.fd = fd;
    this.#close = close;
  }
  poll(): string {
    const chunk = Buffer.alloc(65536);
    for (;;) {
      try {
        const got = readSync(this.fd, chunk);
        if (got === 0) {
          this.ended = true;
          return this.text;
        }
        this.text += chunk.subarray(0, got).toString('latin1');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return this.text;
        throw error;
      }
    }
  }
  until(what: string, check: (text: string) => boolean): Promise<boolean> {
    return until(what, () => check(this.poll()), 120_000);
  }
  /** The end of file; only to be asked for once somebody has the other end, without whom it looks the same. */
  toEnd(): Promise<boolean> {
    this.ended = false;
    return until('end of file', () => {
      this.poll();
      return this.ended;
    });
  }
  close(): void {
    this.#close();
  }
}

/** Fifos in a directory, and what the test has open of them. */
export class Fifos {
  readonly #dir: string;
  readonly #open = new Set<number>();

  constructor(dir: string) {
    this.#dir = dir;
  }
  make(name: string): string {
    const path = join(this.#dir, name);
    execFileSync('mkfifo', [path]);
    return path;
  }
  reader(path: string): FifoReader {
    const fd = this.#track(openSync(path, O_RDONLY | O_NONBLOCK));
    return new FifoReader(fd, () => this.close(fd));
  }
  writer(path: string): number {
    return this.#track(openSync(path, O_WRONLY | O_NONBLOCK));
  }
  close(fd: number): void {
    if (this.#open.delete(fd)) closeSync(fd);
  }
  dispose(): void {
    for (const fd of [...this.#open]) this.close(fd);
  }
  #track(fd: number): number {
    this.#open.add(fd);
    return fd;
  }
}
