/**
 * A container's terminal in the foreground: what comes from its pty goes to our standard output, what comes from our
 * standard input goes to it, its size follows ours.
 */
import { isatty, ReadStream } from 'node:tty';
import type { Addon } from '../native/addon.d.ts';
import { writeAll } from './output.ts';

/** How long output may still come after the process ended, while another holds the terminal open. */
const DRAIN_MS = 200;

export class TerminalRelay {
  readonly #addon: Addon;
  readonly #master: number;
  readonly #pty: ReadStream;
  readonly #ended: Promise<void>;
  #raw: { restore(): void } | undefined;
  readonly #resize = (): void => this.#copySize();

  /** Takes the master. `fixedSize`: config.json gives one (process.consoleSize). */
  constructor(addon: Addon, master: number, fixedSize: boolean) {
    this.#addon = addon;
    this.#master = master;
    if (!fixedSize) this.#copySize();
    this.#pty = new ReadStream(master);
    this.#pty.on('data', (chunk: Buffer) => writeAll(1, chunk));
    this.#ended = new Promise((resolve) => {
      this.#pty.once('end', resolve);
      // EIO: the last process that had the terminal open is gone.
      this.#pty.on('error', () => resolve());
    });
    this.#readInput();
    process.on('SIGWINCH', this.#resize);
  }

  /** Takes what is still to come, and gives our terminal back as it was. */
  async finish(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const quiet = new Promise<void>((resolve) => {
      const arm = (): void => {
        clearTimeout(timer);
        timer = setTimeout(resolve, DRAIN_MS);
      };
      arm();
      this.#pty.on('data', arm);
    });
    await Promise.race([this.#ended, quiet]);
    clearTimeout(timer);
    this.restore();
  }

  restore(): void {
    process.off('SIGWINCH', this.#resize);
    process.stdin.pause();
    this.#pty.destroy();
    this.#raw?.restore();
    this.#raw = undefined;
  }

  #readInput(): void {
    if (isatty(0)) this.#raw = this.#addon.setRawMode(0);
    process.stdin.on('error', () => {});
    process.stdin.on('data', (chunk: Buffer) => {
      if (!this.#pty.destroyed && !this.#pty.write(chunk)) {
        process.stdin.pause();
        this.#pty.once('drain', () => process.stdin.resume());
      }
    });
  }

  #copySize(): void {
    const ours = [0, 1, 2].find((fd) => isatty(fd));
    if (ours === undefined) return;
    const { width, height } = this.#addon.getWinsize(ours);
    this.#addon.setWinsize(this.#master, width, height);
  }
}
