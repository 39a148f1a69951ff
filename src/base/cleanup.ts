/**
 * Undo steps run in reverse order unless the work succeeded (`move()`). The primary error wins: errors of undo steps
 * go to `onError` and never replace it.
 *
 *   await using undo = new CleanupStack();
 *   undo.defer('cgroup', () => removeCgroup(path));
 *   …
 *   undo.move();
 */
export class CleanupStack implements AsyncDisposable {
  #steps: { what: string; run: () => unknown }[] = [];
  readonly #onError: (what: string, error: unknown) => void;

  constructor(onError: (what: string, error: unknown) => void = () => {}) {
    this.#onError = onError;
  }

  /** Adds an undo step; `what` names it in the log when it fails. */
  defer(what: string, run: () => unknown): void {
    this.#steps.push({ what, run });
  }

  /** The work succeeded: forget the undo steps. Returns them for an owner that undoes later. */
  move(): CleanupStack {
    const moved = new CleanupStack(this.#onError);
    moved.#steps = this.#steps;
    this.#steps = [];
    return moved;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.run();
      } catch (error) {
        this.#onError(step.what, error);
      }
    }
  }
}
