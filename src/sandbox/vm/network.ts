/**
 * The network of a pod's machine. Every interface of the pod's namespace is tied to a tap beside it, the tap is the
 * other end of a network card of the guest, and the guest's agent configures that card as the interface was:
 *
 *   guest's card ── tap ◄─ tc mirred ─► interface of the pod ── host
 *
 * `attach` may be repeated: what has come since is added. Docker 26 configures a namespace only between create and
 * start. The kernel drops taps with the hypervisor that holds them; the interface's half is undone by `release`.
 */
import { closeSync, statSync } from 'node:fs';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { bulkhead } from '../../gen/bulkhead.js';
import type { Addon, AddonError, NetnsInventory } from '../../native/addon.d.ts';
import type { Spec } from '../../oci/types.ts';
import type { NetDevice } from './hypervisor/hypervisor.ts';
import { isOwnTap, podNetwork, type PodNetwork, type PodNic } from './network_setup.ts';

const { NetworkSetup } = bulkhead.agent.v1;
type INetworkSetup = bulkhead.agent.v1.INetworkSetup;

/** How long the guest may take to find a card that was plugged in. */
const LINK_DEADLINE_MS = 40_000;

export type NetworkAddon = Pick<Addon, 'netnsInventory' | 'tapBridge' | 'tapUnbridge'>;

export interface NetworkDeps {
  addon: NetworkAddon;
  /** Into the running machine. */
  plug: (device: NetDevice) => Promise<unknown>;
  unplug: (device: string) => Promise<unknown>;
  /** By the guest's agent. */
  configure: (setup: INetworkSetup) => Promise<unknown>;
  warn: (message: string) => void;
}

/** What has to be undone on the host: kept in the sandbox's record. */
export interface NetworkState {
  /** Path of the namespace. */
  netns: string;
  /** Names of the interfaces that are tied to taps. */
  links: string[];
}

export class SandboxNetwork {
  readonly state: NetworkState;
  readonly #id: string;
  readonly #deps: NetworkDeps;
  #configured = '';
  #turn: Promise<unknown> = Promise.resolve();

  /** @param state of an earlier engine, or a new one: `{ netns, links: [] }` */
  constructor(id: string, state: NetworkState, deps: NetworkDeps) {
    this.#id = id;
    this.state = state;
    this.#deps = deps;
  }

  /**
   * Gives the guest what the namespace holds. Rejects with one sentence, and takes back what this call has plugged.
   * @param save called when `state` has changed, before anything of it is made
   */
  attach(save: () => void): Promise<void> {
    const done = this.#turn.then(() => this.#attach(save));
    this.#turn = done.catch(() => {});
    return done;
  }

  async #attach(save: () => void): Promise<void> {
    const inventory = await this.#inventory();
    const network = podNetwork(this.#id, inventory);
    const taps = inventory.links.filter(isOwnTap).map(({ name }) => name);
    const before = this.state.links;
    // A tap that is not in the state is another machine's.
    const missing = network.nics.filter(({ tap, link }) => !taps.includes(tap) || !before.includes(link));
    const encoded = Buffer.from(NetworkSetup.encode(network.setup).finish()).toString('base64');
    if (missing.length === 0 && encoded === this.#configured) return;
    for (const sentence of network.ignored) this.#deps.warn(sentence);
    this.#note([...before, ...missing.map(({ link }) => link)], save);
    try {
      await this.#plugAll(missing, network);
    } catch (error) {
      this.#note(before, save);
      throw error;
    }
    this.#configured = encoded;
  }

  #note(links: readonly string[], save: () => void): void {
    this.state.links = [...new Set(links)];
    save();
  }

  async #plugAll(missing: readonly PodNic[], { setup }: PodNetwork): Promise<void> {
    const plugged: PodNic[] = [];
    try {
      for (const nic of missing) {
        await this.#plug(nic);
        plugged.push(nic);
      }
      await this.#deps.configure({ ...setup, deadlineMs: LINK_DEADLINE_MS });
    } catch (error) {
      for (const nic of plugged) await this.#takeBack(nic);
      throw error;
    }
  }

  async #plug({ link, mac, mtu, tap, device }: PodNic): Promise<void> {
    const { addon } = this.#deps;
    const { netns } = this.state;
    const { fd } = await addon.tapBridge(netns, link, { tap }).catch((error: AddonError) => {
      throw this.#refused(`interface ${link}`, error);
    });
    try {
      await this.#deps.plug({ kind: 'net', id: device, fd, mac, mtu, vnetHeader: true });
    } catch (error) {
      await addon.tapUnbridge(netns, link).catch(() => {});
      throw error;
    } finally {
      closeSync(fd);
    }
  }

  async #takeBack({ link, device }: PodNic): Promise<void> {
    await this.#deps.unplug(device).catch(() => {});
    await this.#deps.addon.tapUnbridge(this.state.netns, link).catch(() => {});
  }

  #inventory(): Promise<NetnsInventory> {
    const { netns } = this.state;
    return this.#deps.addon.netnsInventory(netns).catch((error: AddonError) => {
      throw this.#refused(`network namespace ${netns}`, error);
    });
  }

  #refused(object: string, error: AddonError & { reason?: string }): RuntimeError {
    const words = error.message.slice(error.message.lastIndexOf(': ') + 2);
    const reasons: Record<string, string> = {
      EINVAL: error.syscall === 'setns' ? 'the file is no network namespace' : words,
      EBUSY: error.syscall === 'TUNSETIFF' ? 'another virtual machine is tied to it' : words,
      EPERM: error.syscall === 'setns' ? 'not permitted to enter it' : words,
    };
    const reason = reasons[error.code] ?? words;
    return new RuntimeError({
      code: error.code === 'ENOENT' ? ErrorCode.NotFound : ErrorCode.FailedPrecondition,
      op: 'create',
      id: this.#id,
      object,
      reason: error.reason === undefined ? reason : `${reason} (${error.reason})`,
      errno: error.code,
      cause: error,
    });
  }
}

/** Unties what is left of a machine's network when the machine is gone. Never rejects. */
export async function releaseNetwork(addon: NetworkAddon, { netns, links }: NetworkState): Promise<void> {
  // A namespace that is gone has taken everything with it.
  await Promise.all(links.map((link) => addon.tapUnbridge(netns, link).catch(() => {})));
}

/**
 * Path of the network namespace that a pod asks for; '' for one of its own that nothing else made.
 * @throws RuntimeError when that is the host's
 */
export function podNamespace(id: string, spec: Spec, own = '/proc/self/ns/net'): string {
  const namespace = spec.linux?.namespaces?.find(({ type }) => type === 'network');
  if (namespace === undefined || (namespace.path && sameFile(namespace.path, own)))
    throw new RuntimeError({
      code: ErrorCode.InvalidArgument,
      op: 'create',
      id,
      object: 'network',
      reason: "a virtual machine cannot be in the host's network namespace",
      remedy: 'run the pod without host networking, or with the runtime handler of another wall',
    });
  return namespace.path ?? '';
}

function sameFile(path: string, other: string): boolean {
  const [a, b] = [path, other].map((each) => statSync(each, { throwIfNoEntry: false }));
  return a !== undefined && b !== undefined && a.ino === b.ino && a.dev === b.dev;
}
