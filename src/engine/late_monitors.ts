/**
 * Monitors that are deleted before the engine knows of them: `start` answers containerd as soon as the monitor listens,
 * and on a busy machine `delete` may overtake its hello. Nobody would come to it any more.
 */
import { bootTicks, processStartTime } from '../base/proc.ts';

/** More than are ever late at once. */
const KEPT = 256;

export class LateMonitors {
  /** When the delete began, in clock ticks since boot, by what the monitor was started for. */
  readonly #deleted = new Map<string, number>();

  /** What was started for this name is of no use any more; what will be, is. */
  deleted(name: string): void {
    this.#deleted.delete(name);
    this.#deleted.set(name, bootTicks());
    for (const oldest of this.#deleted.keys()) {
      if (this.#deleted.size <= KEPT) break;
      this.#deleted.delete(oldest);
    }
  }

  /** Whether a monitor that says hello comes too late. One that was started in the tick of the delete does not. */
  isLate(name: string, monitorPid: number): boolean {
    const deletedAt = this.#deleted.get(name);
    const startedAt = deletedAt === undefined ? undefined : processStartTime(monitorPid);
    return deletedAt !== undefined && startedAt !== undefined && startedAt < deletedAt;
  }
}
