/**
 * PCI functions for a container, from the check to the way back:
 *
 *   preflight → claim on disk → bound to vfio-pci → nodes there …… the container … → bound as before, claim removed
 *
 * A wall calls `open` in its create, behind the container's record, and `release` in its destroy, which runs for a
 * delete, a failed create and what a crash has left. What nobody's record names any more is given back when the next
 * engine starts, or the next container asks for a function.
 *
 * The libraries are loaded when there is something to do: most containers have no device.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { asRuntimeError, ErrorCode, RuntimeError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { DeviceJournal, KernelWrite } from '../devices/journal.ts';
import type { HostTree } from '../devices/host_tree.ts';
import type * as DeviceLibraries from '../devices/passing.ts';
import type { FunctionClaim, Machine, Refusal, WallName } from '../devices/model.ts';
import type { ReadApart } from '../devices/read_ahead.ts';
import type { VfioDevice } from '../devices/vfio/probe.ts';
import type { VfioNodes } from '../devices/vfio/request.ts';
import type { LinuxDevice, LinuxDeviceCgroup, Spec } from '../oci/types.ts';
import type { ContainerRecord } from '../state/index.ts';

export interface PassingDeps {
  /** Directory of the claims: BULKHEAD_ROOT/devices. */
  dir: string;
  /** Resolves when no other process changes devices, with what lets the next one in; default: there is no other. */
  lock?: (() => Promise<Disposable>) | undefined;
  write: KernelWrite;
  /** Reads what may not answer, in another process; default: this one reads it. */
  read?: ReadApart | undefined;
  /** Whether a claim's owner still has a record. */
  isAlive: (owner: string) => boolean;
  log: Logger;
  /** The host's files; default: this host's. */
  host?: HostTree | undefined;
}

export interface OpenRequest {
  id: string;
  owner: string;
  wall: WallName;
  addresses: readonly string[];
  /** Of the container: what it goes on without. */
  annotations?: Readonly<Record<string, string>> | undefined;
  /** Under TCG and where the guest's processor is not the host's: address bits that the guest has. */
  physicalBits?: number | undefined;
}

/** Functions that are bound to vfio-pci for a container. */
export interface OpenedFunctions {
  machine: Machine;
  devices: VfioDevice[];
  nodes: VfioNodes[];
}

const VFIO_DRIVER = 'vfio-pci';

export class DevicePassing {
  readonly #deps: PassingDeps;
  #recovered: Promise<void> | undefined;
  readonly #pending = new Set<Promise<void>>();

  constructor(deps: PassingDeps) {
    this.#deps = deps;
  }

  /** For files that are mounted into containers. */
  get filesDirectory(): string {
    return `${this.#deps.dir}.files`;
  }

  /** Functions behind VFIO nodes of config.json. FailedPrecondition for a node that is none of this host's. */
  async functionsOf(id: string, nodes: readonly LinuxDevice[]): Promise<string[]> {
    const { devices } = await libraries();
    const { host } = await this.#ahead('create', id);
    try {
      return devices.functionsOfNodes(host, devices.readPci(host), nodes);
    } catch (error) {
      if (!(error instanceof devices.CdiError)) throw error;
      const { object, reason } = error;
      const code = ErrorCode.FailedPrecondition;
      const remedy = 'see which functions vfio-pci has with: bulkhead devices';
      throw new RuntimeError({ code, op: 'create', id, object, reason, remedy, cause: error });
    }
  }

  /**
   * Refuses nodes of config.json whose functions another container was given by name. FailedPrecondition in the words of the
   * check. Whoever may use every device (a privileged container) has all nodes, and may use none of them.
   */
  async checkNodes(id: string, owner: string, { linux }: Spec): Promise<void> {
    const nodes = (linux?.devices ?? []).filter(({ path }) => path.startsWith('/dev/vfio/'));
    if (nodes.length === 0 || !existsSync(this.#deps.dir)) return;
    if ((linux?.resources?.devices ?? []).some(isForAll)) return;
    const claims = othersClaims(await this.#journal(), owner);
    if (claims.length === 0) return;
    const { devices } = await libraries();
    const { host } = await this.#ahead('create', id);
    const machine = { ...devices.readMachine(host), claims };
    const [refusal] = devices.refusedNodes(machine, nodes);
    if (refusal !== undefined) throw refused(id, refusal);
  }

  /**
   * Checks, claims and binds; rejects with nothing changed. FailedPrecondition in the words of the first check that
   * speaks against it, or for a function that another container has.
   */
  async open(request: OpenRequest): Promise<OpenedFunctions> {
    await this.recover();
    await Promise.all(this.#pending);
    using _ = await this.#lock('create', request.id);
    return await this.#open(request);
  }

  async #open(request: OpenRequest): Promise<OpenedFunctions> {
    const { id, owner, wall, addresses: asked, annotations, physicalBits } = request;
    const { devices } = await libraries();
    const addresses = [...new Set(asked)];
    // What an earlier container of this name could not be rid of, before the host is looked at.
    await this.#changing(id, async () => (await this.#journal()).release(owner));
    const { host, stuck } = await this.#ahead('create', id);
    const journal = await this.#journal(host);
    const machine = {
      ...devices.readMachine(host),
      stuck,
      ...(physicalBits === undefined ? {} : { physicalBits }),
      claims: othersClaims(journal, owner),
    };
    const [refusal] = devices.preflightVfio(machine, addresses, wall, annotations);
    if (refusal !== undefined) throw refused(id, refusal);
    await this.#changing(id, () => journal.bind(owner, addresses, VFIO_DRIVER));
    const after = devices.readMachine(host);
    const opened = {
      machine,
      devices: after.pci
        .filter(({ address }) => addresses.includes(address))
        .map((pci) => devices.vfioDevice(after, pci)),
      nodes: addresses.map((address) => devices.vfioNodesOf(host, address)),
    };
    const missing = opened.nodes.find(({ group, device }) => group === undefined && device === undefined);
    if (missing === undefined) return opened;
    await this.#release(owner);
    throw refused(id, {
      check: 'vfio-node',
      sentence: `device ${missing.address}: bound to vfio-pci, but its node in /dev/vfio is not there`,
      fix: 'mount devtmpfs at /dev, or let udev run',
    });
  }

  async #changing(id: string, change: () => Promise<void>): Promise<void> {
    try {
      await change();
    } catch (error) {
      // A claim may have stayed.
      this.#recovered = undefined;
      throw restated('create', id, error);
    }
  }

  /** Gives back what `owner` has. Never rejects: what a driver does not take back is logged and tried again later. */
  async release(owner: string): Promise<void> {
    if (!existsSync(this.#deps.dir)) return;
    try {
      // Most have nothing, and need not wait for those who have.
      if ((await this.#journal()).claims().every((claim) => claim.owner !== owner)) return;
      using _ = await this.#lock('release');
      await this.#release(owner);
    } catch (error) {
      this.#notGivenBack(owner, error);
    }
  }

  async #release(owner: string): Promise<void> {
    const journal = await this.#journal();
    await journal.release(owner).catch((error: unknown) => this.#notGivenBack(owner, error));
  }

  #notGivenBack(owner: string, error: unknown): void {
    const { message } = asRuntimeError(error, 'release');
    this.#deps.log.error('device not given back', { owner, error: message });
    this.#recovered = undefined;
  }

  /**
   * The same, without being waited for: containerd gives a clean-up after a crash five seconds, and a driver that is
   * bound anew may take longer. Whoever asks for a function meanwhile waits for it.
   */
  releaseLater(owner: string): void {
    const pending = this.release(owner).finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
  }

  /** Gives back what containers had that are not there any more. Once, until something could not be given back. */
  recover(): Promise<void> {
    return (this.#recovered ??= this.#recover());
  }

  async #recover(): Promise<void> {
    const { dir, isAlive, log } = this.#deps;
    if (!existsSync(dir)) return;
    try {
      using _ = await this.#lock('recover');
      const owners = await (await this.#journal()).recover(isAlive);
      for (const owner of owners) log.info('devices given back after a crash', { owner });
    } catch (error) {
      log.error('device not given back', { error: asRuntimeError(error, 'recover').message });
      this.#recovered = undefined;
    }
  }

  /** From the check to the last write: what has been checked, and what is undone, is nobody else's meanwhile. */
  async #lock(op: string, id?: string): Promise<Disposable> {
    try {
      return (await this.#deps.lock?.()) ?? { [Symbol.dispose]: () => {} };
    } catch (error) {
      throw restated(op, id, error);
    }
  }

  /** The host, with what takes a device's lock read already. */
  async #ahead(op: string, id: string): Promise<{ host: HostTree; stuck: readonly string[] }> {
    const { devices } = await libraries();
    try {
      return await devices.readAhead(this.#deps.host ?? devices.hostTree(), this.#deps.read);
    } catch (error) {
      throw restated(op, id, error);
    }
  }

  /** Undoing reads nothing that could wait; binding is given the host as #ahead has it. */
  async #journal(ahead?: HostTree): Promise<DeviceJournal> {
    const { devices } = await libraries();
    const { dir, write } = this.#deps;
    const host = ahead ?? this.#deps.host ?? devices.hostTree();
    return new devices.DeviceJournal({ host, files: devices.journalFiles(dir), write });
  }
}

/** By which a container's claims are known. */
export function ownerOf({ namespace, id }: ContainerRecord): string {
  return `${namespace ?? ''}/${id ?? ''}`;
}

/** Where claims are below a state root. */
export function claimsDirectory(root: string): string {
  return join(root, 'devices');
}

/** "a *:* rwm", as a type of all devices or as none. */
function isForAll({ allow, type = 'a', major = -1, minor = -1 }: LinuxDeviceCgroup): boolean {
  return allow && type === 'a' && major < 0 && minor < 0;
}

async function libraries(): Promise<{ devices: typeof DeviceLibraries }> {
  return { devices: await import('../devices/passing.ts') };
}

/** "GPU 0000:41:00.0: cannot pass by VFIO: IOMMU is off" is object and reason. */
function refused(id: string, { sentence, fix }: Refusal): RuntimeError {
  const [, object = '', reason = sentence] = /^(.*?\S): (.*)$/.exec(sentence) ?? [];
  return new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op: 'create',
    id,
    object: object === '' ? undefined : object,
    reason,
    remedy: fix,
  });
}

/** The journal knows no container's id. */
function restated(op: string, id: string | undefined, error: unknown): RuntimeError {
  const { code, object, reason, remedy, path, errno } = asRuntimeError(error, op, id);
  return new RuntimeError({ code, op, id, object, reason, remedy, path, errno, cause: error });
}

/** A claim of the same name is what an earlier container could not be rid of. */
function othersClaims(journal: DeviceJournal, owner: string): FunctionClaim[] {
  return journal
    .claims()
    .filter((claim) => claim.owner !== owner)
    .map((claim) => ({ owner: claim.owner, address: claim.change.address }));
}
