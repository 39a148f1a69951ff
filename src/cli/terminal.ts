/**
 * A container's terminal in the foreground: what comes from its pty goes to our standard output, what comes from our
 * standard input goes to it, its size follows ours.
 */
import { closeSync } from 'node:fs';
import { isatty, ReadStream } from 'node:tty';
import type { Addon } from '../native/addon.d.ts';
import { writeAll } from './output.ts';

/** How long output may still come after the process ended, while another holds the terminal open. */
const DRAIN_MS = 200;

/** There is no event for a terminal that is opened again: when it is looked at after it was closed. */
const FIRST_LOOK_MS = 10;
const LAST_LOOK_MS = 1000;

export class TerminalRelay {
  readonly #addon: Addon;
  readonly #master: number;
  /** Reads a copy of the master: closing the master itself would hang up on a process that closed its terminal and lives on. */
  #pty: ReadStream;
  #look: NodeJS.Timeout | undefined;
  #lookMs = FIRST_LOOK_MS;
  /** Set when the process has ended; called with each output, and when the last who had the terminal open is gone. */
  #finishing: { onData: () => void; onEnd: () => void } | undefined;
  #raw: { restore(): void } | undefined;
  #restored = false;
  readonly #resize = (): void => this.#copySize();

  /** Takes the master. `fixedSize`: config.json gives one (process.consoleSize). */
  constructor(addon: Addon, master: number, fixedSize: boolean) {
    this.#addon = addon;
    this.#master = master;
    if (!fixedSize) this.#copySize();
    this.#pty = this.#open();
    this.#readInput();
    process.on('SIGWINCH', this.#resize);
  }

  /** Takes what is still to come, and gives our terminal back as it was. */
  async finish(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      const arm = (): void => {
        clearTimeout(timer);
        timer = setTimeout(resolve, DRAIN_MS);
      };
      arm();
      this.#finishing = { onData: arm, onEnd: resolve };
      if (this.#look !== undefined) this.#lookAgain();
    });
    clearTimeout(timer);
    this.restore();
  }

  restore(): void {
    if (this.#restored) return;
    this.#restored = true;
    process.off('SIGWINCH', this.#resize);
    process.stdin.pause();
    clearTimeout(this.#look);
    this.#pty.destroy();
    closeSync(this.#master);
    this.#raw?.restore();
    this.#raw = undefined;
  }

  #open(): ReadStream {
    const pty = new ReadStream(this.#addon.duplicate(this.#master));
    pty.on('data', (chunk: Buffer) => {
      this.#lookMs = FIRST_LOOK_MS;
      writeAll(1, chunk);
      this.#finishing?.onData();
    });
    // EIO: nobody has the terminal open now.
    pty.on('error', () => {});
    pty.once('close', () => this.#closed());
    return pty;
  }

  #closed(): void {
    if (this.#restored) return;
    if (this.#finishing !== undefined) return this.#finishing.onEnd();
    this.#look = setTimeout(() => this.#lookAgain(), this.#lookMs);
    this.#lookMs = Math.min(this.#lookMs * 2, LAST_LOOK_MS);
  }

  #lookAgain(): void {
    clearTimeout(this.#look);
    this.#look = undefined;
    this.#pty = this.#open();
    process.stdin.resume();
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
