/** What is wrong with a spec, a name or an annotation: where, and why. The front doors make a RuntimeError of it. */
export class CdiError extends Error {
  override readonly name = 'CdiError';
  /** What the fault is in: a file, a field, a device. */
  readonly object: string;
  readonly reason: string;
  /** What the user can do, when there is something. */
  readonly remedy: string | undefined;

  constructor(object: string, reason: string, cause?: unknown, remedy?: string) {
    super(`${object}: ${reason}`, cause === undefined ? undefined : { cause });
    this.object = object;
    this.reason = reason;
    this.remedy = remedy;
  }
}
