/** Which backend serves which wall. */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Backend } from './backend.ts';

export class BackendRegistry {
  readonly #backends = new Map<string, Backend>();

  register(backend: Backend): void {
    this.#backends.set(backend.wall, backend);
  }

  /** The backend of a wall; FailedPrecondition when this build has none. */
  get(wall: string, op: string, id: string): Backend {
    const backend = this.#backends.get(wall);
    if (backend !== undefined) return backend;
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op,
      id,
      object: `wall "${wall}"`,
      reason: 'no backend for it in this build',
      remedy: `use one of: ${[...this.#backends.keys()].join(', ')}`,
    });
  }
}
