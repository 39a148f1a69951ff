/** A machine that grows while it runs: a container's new limit may be above what the machine has. It never shrinks. */
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import type { Machine } from './hypervisor/hypervisor.ts';
import type { PodAgent } from './pod_agent.ts';
import { decodeMachine, type SandboxRecord } from './record.ts';
import type { SandboxDeps } from './sandbox_deps.ts';
import { MEMORY_BLOCK_MIB } from './sizing.ts';

export interface GrowthDeps {
  /** How large the machine is, kept there. */
  record: SandboxRecord;
  save: () => void;
  machine: () => Promise<Pick<Machine, 'growMemory' | 'addVcpus'>>;
  agent: Pick<PodAgent, 'onlineMemory' | 'onlineCpus'>;
  memoryFor: SandboxDeps['memoryFor'];
  emulated: SandboxDeps['emulated'];
}

export class Growth {
  readonly #deps: GrowthDeps;
  /** One at a time: each begins with what the one before has made of the machine. */
  #turn: Promise<void> = Promise.resolve();

  /** The guest may not use all memory that the machine has. */
  #unused = false;

  constructor(deps: GrowthDeps) {
    this.#deps = deps;
  }

  /**
   * Makes the machine large enough for a container's new limit of memory (bytes).
   * @throws RuntimeError ResourceExhausted when no machine may be that large
   */
  memory(id: string, limit: number): Promise<void> {
    return this.#inTurn(() => this.#memory(id, limit));
  }

  /**
   * Gives the machine as many vCPUs as a container's new quota is worth.
   * @param limit processors, which need not be a whole number
   * @throws RuntimeError ResourceExhausted when no machine may have as many, FailedPrecondition when a guest of this host
   *   cannot take more than it was started with
   */
  cpus(id: string, limit: number): Promise<void> {
    return this.#inTurn(() => this.#cpus(id, Math.ceil(limit)));
  }

  #inTurn(run: () => Promise<void>): Promise<void> {
    const mine = this.#turn.then(run);
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #cpus(id: string, wanted: number): Promise<void> {
    const { record, agent, machine, save, emulated } = this.#deps;
    const size = decodeMachine(record)?.size;
    const has = record.vcpus || (size?.vcpus ?? 0);
    if (has === 0 || wanted <= has) return;
    const largest = size?.maxVcpus ?? has;
    if (wanted > largest) {
      const reason = `are above the largest machine of ${largest}`;
      throw aboveLargest(id, `${wanted} vCPUs`, reason, 'max_vcpus');
    }
    const { onlineCpus } = agent;
    if (onlineCpus === undefined || (await emulated())) throw cannotGrow(id, wanted, has);
    await (await machine()).addVcpus(wanted - has);
    record.vcpus = wanted;
    save();
    await onlineCpus.call(agent, 'update', id, wanted);
  }

  async #memory(id: string, limit: number): Promise<void> {
    const { record, memoryFor } = this.#deps;
    const { mib, largest } = memoryFor(limit);
    const has = record.memoryMib ?? 0;
    // A machine of an older version does not know how large it is.
    if (has === 0) return;
    if (mib <= has) return this.#useMemory(id);
    if (mib > largest) {
      const reason = `is above the largest machine of ${largest} MiB`;
      throw aboveLargest(id, `memory of ${mib} MiB`, reason, 'max_memory_mib');
    }
    const more = Math.ceil((mib - has) / MEMORY_BLOCK_MIB) * MEMORY_BLOCK_MIB;
    await (await this.#deps.machine()).growMemory(more);
    record.memoryMib = has + more;
    this.#deps.save();
    this.#unused = true;
    await this.#useMemory(id);
  }

  /** Again, when the guest has not taken into use what it was given. */
  async #useMemory(id: string): Promise<void> {
    if (!this.#unused) return;
    await this.#deps.agent.onlineMemory('update', id);
    this.#unused = false;
  }
}

function aboveLargest(id: string, object: string, reason: string, setting: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.ResourceExhausted,
    op: 'update',
    id,
    object,
    reason,
    remedy: `lower the limit, or raise vm.${setting}`,
  });
}

/** Linux 6.5 and later takes processors that were not there at its boot only where it knows the hypervisor, which TCG is not. */
function cannotGrow(id: string, wanted: number, has: number): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'update',
    id,
    object: `${wanted} vCPUs`,
    reason: `the machine has ${has}, and its guest takes no more while it runs: that needs KVM`,
    remedy: "give the pod's first container the limit when it is made",
  });
}
