/** Processes that a wall holds itself (Executor.hold), by key, in front of those that the monitor holds. */
import type { HeldProcess } from '../sandbox/executor.ts';

export class HeldProcesses {
  readonly #held = new Map<string, HeldProcess>();

  add(key: string, process: HeldProcess): void {
    this.#held.set(key, process);
  }

  get(key: string): HeldProcess | undefined {
    return this.#held.get(key);
  }

  /** Undefined: there is none of that key. */
  forget(key: string): Promise<void> | undefined {
    const process = this.#held.get(key);
    return process?.forget().then(() => {
      // Its key may have been taken anew meanwhile.
      if (this.#held.get(key) === process) this.#held.delete(key);
    });
  }
}
