/** A machine that grows while it runs: a container's new limit may be above what the machine has. It never shrinks. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Machine } from './hypervisor/hypervisor.ts';
import type { PodAgent } from './pod_agent.ts';
import type { SandboxRecord } from './record.ts';
import type { SandboxDeps } from './sandbox_deps.ts';
import { MEMORY_BLOCK_MIB } from './sizing.ts';

export interface GrowthDeps {
  /** How large the machine is, kept there. */
  record: SandboxRecord;
  save: () => void;
  machine: () => Promise<Pick<Machine, 'growMemory'>>;
  agent: Pick<PodAgent, 'onlineMemory'>;
  memoryFor: SandboxDeps['memoryFor'];
}

export class Growth {
  readonly #deps: GrowthDeps;
  /** One at a time: each begins with what the one before has made of the machine. */
  #turn: Promise<void> = Promise.resolve();

  constructor(deps: GrowthDeps) {
    this.#deps = deps;
  }

  /**
   * Makes the machine large enough for a container's new limit of memory (bytes).
   * @throws RuntimeError ResourceExhausted when no machine may be that large
   */
  memory(id: string, limit: number): Promise<void> {
    const mine = this.#turn.then(() => this.#memory(id, limit));
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #memory(id: string, limit: number): Promise<void> {
    const { record, agent, memoryFor } = this.#deps;
    const { mib, largest } = memoryFor(limit);
    const has = record.memoryMib ?? 0;
    // A machine of an older version does not know how large it is.
    if (has === 0 || mib <= has) return;
    if (mib > largest) throw tooLarge(id, mib, largest);
    const more = Math.ceil((mib - has) / MEMORY_BLOCK_MIB) * MEMORY_BLOCK_MIB;
    await (await this.#deps.machine()).growMemory(more);
    record.memoryMib = has + more;
    this.#deps.save();
    await agent.onlineMemory('update', id);
  }
}

function tooLarge(id: string, mib: number, largest: number): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.ResourceExhausted,
    op: 'update',
    id,
    object: `memory of ${mib} MiB`,
    reason: `is above the largest machine of ${largest} MiB`,
    remedy: 'lower the limit, or raise vm.max_memory_mib',
  });
}
